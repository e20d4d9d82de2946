"""Operations that are cheap enough to be done twice: activations, normalization, pooling.

They are not linear, or not one code word to the next, and take a few operations per element where a
layer takes thousands. Doing them again and comparing the bits sees every error, however small.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from parimend.errors import ComputationError
from parimend.guards.journal import Action, Event, Journal

REPEATED: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax, nn.LogSoftmax,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
"""Modules whose output depends on their input and settings alone."""


def why_not(module: nn.Module) -> str:
    """The reason why a module cannot be repeated; empty if it can."""
    if getattr(module, "inplace", False):
        return "works in place, so its input is gone: set inplace=False"
    if getattr(module, "return_indices", False):
        return "returns indices too"
    return ""


class RepeatGuard:
    """Does the operation of one module again and compares.

    Args:
        name: of the module.
        journal: shared by the guards of a model.
    """

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self.journal = journal
        self._calls = itertools.count()

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        """The forward hook."""
        # A compiled graph would merge both; statistics of a batch are updated by every run.
        updates = module.training and getattr(module, "running_mean", None) is not None
        if torch.compiler.is_compiling() or updates:
            return
        call = next(self._calls)
        if call % self.journal.every:
            return
        with torch.no_grad():
            again = type(module).forward(module, *args, **kwargs)
            if not _same(output, again):
                third = type(module).forward(module, *args, **kwargs)
                self._settle(call, output, again, third)

    def _settle(self, call: int, output: Tensor, again: Tensor, third: Tensor) -> None:
        policy = self.journal.policy
        action: Action
        if policy in ("raise", "record"):
            action = "raised" if policy == "raise" else "recorded"
        else:
            action = "recomputed" if _same(again, third) else "suspect"
        where = ~((output == third) | (output.isnan() & third.isnan()))
        index = where.nonzero()[0].tolist() if where.any() else []
        rms = third.to(torch.float32).square().mean().sqrt()
        error = ((output - third).abs().max() / rms).nan_to_num(torch.inf, torch.inf)
        event = Event(
            self.name, call, tuple(index[:1]), (), tuple(index[1:2]), float(error), action
        )
        self.journal.events.append(event)
        if action == "raised":
            raise ComputationError(f"wrong outputs: {event}; run it again")
        if action != "recorded":
            output.copy_(third)

    def __deepcopy__(self, memo: dict[int, Any]) -> RepeatGuard:
        return self


def _same(a: Tensor, b: Tensor) -> bool:
    # NaN equals itself here: it is what the operation gives.
    return bool(torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))
