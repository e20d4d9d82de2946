"""Whether the gradient that a step is about to use may be right."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from parimend.stores.spread import local
from parimend.training.hooks import parameters_of
from parimend.training.scale import Scale


class Gradient:
    """Judges the gradients of one optimizer, from step to step.

    Args:
        optimizer: that steps with them.
        factor: how many times the largest norm of the last steps one may have.
        accepted: called with the reason where one that seemed wrong is taken for right.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> gradient = Gradient(torch.optim.SGD([weight], lr=0.1), 100.0, print)
        >>> weight.grad = torch.tensor([3.0, float("inf")])
        >>> gradient.why_not(gradient.norm().item())
        'the gradient is not finite'
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, factor: float, accepted: Callable[[str], None]
    ) -> None:
        self._optimizer, self._accepted = optimizer, accepted
        self._scale = Scale(factor)

    @torch.no_grad()
    def norm(self) -> torch.Tensor | None:
        """() float, where the gradients are. A step with a closure may compute them itself, so
        there may be none yet.
        """
        every = (parameter.grad for parameter in parameters_of([self._optimizer]))
        gradients = [_values(local(each)) for each in every if each is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else None

    def why_not(self, norm: float | None, again: bool = False) -> str:
        """Why the gradient is not to be used; empty if it is.

        Args:
            norm: of the gradient, if there is one.
            again: whether it has been computed a second time in this step.
        """
        if norm is None:
            return ""
        largest = self._scale.largest
        if self._scale.ordinary(norm):
            return ""
        if not math.isfinite(norm):
            return "the gradient is not finite"
        reason = f"the gradient's norm is {norm:.3g}; the largest before it was {largest:.3g}"
        if again or not self._scale.persists(norm):
            return reason
        self._accepted(f"{reason}; it stays so, and is no fault")
        return ""

    def drop(self) -> None:
        """Take the gradients away: optimizers leave such parameters alone."""
        for parameter in parameters_of([self._optimizer]):
            parameter.grad = None


def _values(gradient: torch.Tensor) -> torch.Tensor:
    """The elements of a gradient that are not zero for sure."""
    return gradient if gradient.layout is torch.strided else gradient.coalesce().values()
