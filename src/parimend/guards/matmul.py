"""Products of two tensors by functions: the scores of an attention, experts that share a tensor.

No layer has them, so that nothing can be kept for them. The sum of every row of Y = A B + C is
compared with A (B 1) + C 1, which is a product with a single column (Huang, Abraham 1984). What is
further off than rounding explains (`parimend.guards.threshold`) is compared with the product in
float64, and computed again if it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from parimend import kernels
from parimend.guards.arithmetic import Arithmetic, arithmetic, as_used
from parimend.guards.observing import observable
from parimend.guards.threshold import Noise, Threshold
from parimend.kernels.screen_torch import exactly

_KEPT = 1024
"""Thresholds that are kept."""


class Operands:
    """Y = a b + rest.

    Args:
        a: (..., m, k), or (k,).
        b: (..., k, n).
        rest: (..., n), as far as Y; None for zero.
        scale: of a b.
        ends: where a and Y have rows of several groups, b (groups, k, n) has a matrix for each, and
            these are the last rows of every group, plus one. Rows behind them belong to none.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        rest: Tensor | None = None,
        scale: float = 1.0,
        ends: Tensor | None = None,
    ) -> None:
        self._a, self._b = a.detach(), b.detach()
        self._rest = None if rest is None else rest.detach()
        self._scale, self._ends = scale, ends

    @property
    def known(self) -> bool:
        """Whether these are matrices, of floating point numbers that are at hand."""
        given = [t for t in (self._a, self._b, self._rest) if t is not None]
        return self._b.ndim > 1 and all(map(observable, given))

    def suspicious(self, y: Tensor) -> bool:
        """Whether a row of Y does not have the sum that it must have."""
        y, n = self.own(y.detach()), y.shape[-1]
        wide, limit = torch.promote_types(y.dtype, torch.float32), self._limit(y)
        goal = self._row_sums(y, wide).expand(*y.shape[:-1], 1)
        on = kernels.on("screen", y.device.type)
        rows, goals, ones = (
            on.view(t.reshape(-1, t.shape[-1]).contiguous(), wide)
            for t in (y, goal, torch.ones(n, dtype=wide, device=y.device))
        )
        return bool(on.any_suspicious_row(rows, ones, goals, limit.tau**2, limit.least**2))

    def exact(self, y: Tensor) -> Tensor:
        """What Y must be, in float64."""
        return self._multiplied(y, torch.clone)

    def is_near(self, y: Tensor) -> bool:
        """Whether Y is off by no more than rounding is likely to make it."""
        norm = self._multiplied(y, torch.square).sum(-1, keepdim=True).sqrt()
        return self._is_within(y, lambda exact, limit: limit.tau * (norm + exact.abs()))

    def is_possible(self, y: Tensor) -> bool:
        """Whether Y is off by no more than rounding can make it, as of terms that are all equal."""
        size = self._multiplied(y, torch.abs)
        size[size >= torch.finfo(y.dtype).max / 2.0] = torch.inf  # partial sums are too large
        return self._is_within(y, lambda exact, limit: limit.worst * size)

    def _is_within(self, y: Tensor, bound: Callable[[Tensor, Threshold], Tensor]) -> bool:
        y, limit, exact = self.own(y.detach()), self._limit(y), self.exact(y)
        near = (y.to(torch.float64) - exact).abs() <= bound(exact, limit) + limit.least
        return bool((near | (y == exact.to(y.dtype)) | (y.isnan() & exact.isnan())).all())

    def _limit(self, y: Tensor) -> Threshold:
        # Rounded up, as sequences grow from call to call.
        n, k = (1 << (size - 1).bit_length() for size in (y.shape[-1], max(self._b.shape[-2], 1)))
        return _threshold(arithmetic(y, convolution=False), n, k)

    def own(self, y: Tensor) -> Tensor:
        """The rows that belong to a group."""
        return y if self._ends is None else y[: int(self._ends[-1])]

    def _row_sums(self, y: Tensor, wide: torch.dtype) -> Tensor:
        """The sums of the rows of Y, (..., 1), as those of b and of the rest say."""

        def sums(t: Tensor) -> Tensor:
            return as_used(t, y).sum(-1, keepdim=True, dtype=wide)

        with torch.no_grad(), exactly(y):
            a, b = self.own(as_used(self._a, y)).to(wide), sums(self._b)
            if self._ends is None:
                found = a @ b
            else:
                rows = torch.arange(len(a), device=a.device)
                group = torch.searchsorted(self._ends.to(rows.dtype), rows, right=True)
                found = (a * b[group, :, 0]).sum(-1, keepdim=True)
            found = self._scale * found
            if self._rest is not None:
                own = self._rest.shape[-1:] == y.shape[-1:]
                found = found + sums(self._rest if own else self._rest.expand_as(y))
        return found

    def _multiplied(self, y: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Y in float64, of operands all of which are changed."""

        def given(t: Tensor, scale: float = 1.0) -> Tensor:
            return change(scale * as_used(t, y).to(torch.float64))

        with torch.no_grad(), exactly(y):
            a = self.own(self._a)
            if self._ends is None:
                found = given(a, self._scale) @ given(self._b)
            else:
                groups = zip(a.tensor_split(self._ends[:-1].long().cpu()), self._b, strict=True)
                found = torch.cat([given(of_a) @ given(of_b) for of_a, of_b in groups])
            return found if self._rest is None else found + given(self._rest)


def _matmul(input: Tensor, other: Tensor) -> Operands:
    return Operands(input, other)


def _swapped(self: Tensor, other: Tensor) -> Operands:
    return Operands(other, self)


def _mm(input: Tensor, mat2: Tensor) -> Operands:
    return Operands(input, mat2)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Operands | None:
    return Operands(input, weight.mT, bias) if weight.ndim == 2 else None


def _addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Operands:
    rest = input if beta == 1 else beta * input if beta else None
    return Operands(mat1, mat2, rest, alpha)


def _baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Operands:
    return _addmm(input, batch1, batch2, beta=beta, alpha=alpha)


def _grouped_mm(
    mat_a: Tensor,
    mat_b: Tensor,
    *,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Operands | None:
    if offs is None or bias is not None or (mat_a.ndim, mat_b.ndim) != (2, 3):
        return None
    return Operands(mat_a, mat_b, ends=offs)


_READ: dict[str, Callable[..., Operands | None]] = {
    "matmul": _matmul,
    "__matmul__": _matmul,
    "__rmatmul__": _swapped,
    "mm": _mm,
    "bmm": _mm,
    "linear": _linear,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "grouped_mm": _grouped_mm,
    "_grouped_mm": _grouped_mm,
}
FUNCTIONS = frozenset(_READ)
"""Names of functions and of methods of tensors that multiply."""
PARTLY = frozenset(("grouped_mm", "_grouped_mm"))
"""Those whose outputs may have rows that are not computed, and hold anything."""


def operands(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Operands | None:
    """What a function multiplies; None if its outputs have no sums that are known.

    Args:
        name: of `FUNCTIONS`.
        args, kwargs: that it was called with.
    """
    try:
        found = _READ[name](*args, **kwargs)
    except TypeError:  # something else is asked of it, as another dtype
        return None
    return found if found is not None and found.known else None


@lru_cache(_KEPT)
def _threshold(arithmetic: Arithmetic, n: int, k: int) -> Threshold:
    """For n outputs in a row, sums of k products each."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    # Of columns that are all equal, the sum is n times as large as that of independent ones. Adding
    # up the columns rounds n times.
    noise = Noise(one, n * one, torch.zeros(1, 1, dtype=torch.float64), float(n), k, k + n, n)
    return Threshold.of(noise, arithmetic)
