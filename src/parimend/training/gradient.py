"""Whether the gradient that a step is about to use may be right."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping

import torch
from torch.utils.weak import WeakIdKeyDictionary

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
        # Gradients that a step has computed and used, and their versions then.
        self._spent: MutableMapping[torch.Tensor, int] = WeakIdKeyDictionary()

    def spend(self) -> None:
        """To be called after a step with a closure, which computed the gradients there are now."""
        self._spent = WeakIdKeyDictionary({each: each._version for each in self._all()})

    @torch.no_grad()
    def norm(self, closure: bool = False) -> torch.Tensor | None:
        """() float, where the gradients are, if there are any.

        Args:
            closure: whether the step gets one. It may compute the gradients itself then; those that
                the step before has left, of the last trial of a line search perhaps, do not count.
        """
        found = self._all()
        if not found or (closure and all(self._spent.get(g) == g._version for g in found)):
            return None
        # What torch's GradScaler leaves to fused optimizers: to unscale, and to take no step.
        scale = getattr(self._optimizer, "grad_scale", None)
        overflow = getattr(self._optimizer, "found_inf", None)
        norm = torch.nn.utils.get_total_norm([_measured(local(each), scale) for each in found])
        return norm if overflow is None else norm.masked_fill(overflow.to(norm.device) > 0, 0.0)

    def _all(self) -> list[torch.Tensor]:
        every = (parameter.grad for parameter in parameters_of([self._optimizer]))
        return [each for each in every if each is not None]

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
            norm = self._exactly()
            if not math.isfinite(norm):
                return "the gradient is not finite"
            if self._scale.ordinary(norm):
                return ""
        reason = f"the gradient's norm is {norm:.3g}; the largest before it was {largest:.3g}"
        if again or not self._scale.persists(norm):
            return reason
        self._accepted(f"{reason}; it stays so, and is no fault")
        return ""

    @torch.no_grad()
    def _exactly(self) -> float:
        """The norm, which is finite if the gradients are: squares of float32 overflow at 1e19."""
        scale = getattr(self._optimizer, "grad_scale", None)
        values = [_values(local(each)).abs().double() for each in self._all()]
        norm = math.hypot(*(float(torch.linalg.vector_norm(each)) for each in values))
        return norm if scale is None else norm / float(scale)

    def drop(self) -> None:
        """Take the gradients away: optimizers leave such parameters alone."""
        for parameter in parameters_of([self._optimizer]):
            parameter.grad = None


def _measured(gradient: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """What has the norm of a gradient without its scale, where its dtype holds that."""
    gradient = _values(gradient)
    if scale is not None:
        gradient = gradient / scale.to(gradient.device)
    if gradient.dtype == torch.float16:
        return torch.linalg.vector_norm(gradient, dtype=torch.float32)
    return gradient if scale is None else torch.linalg.vector_norm(gradient)


def _values(gradient: torch.Tensor) -> torch.Tensor:
    return gradient if gradient.layout is torch.strided else gradient.coalesce().values()
