"""Products of two tensors by functions: the scores of an attention, experts that share a tensor.

No layer has them, so that nothing can be kept for them. Of every row of Y = A B + C the sum Y p is
compared with A (B p) + C p, which is a product with a single column (Huang, Abraham 1984). p is 1
in its first half and -1 in the second: what columns have in common does not add up. What is further
off than rounding explains (`parimend.guards.threshold`) is compared with the product in float64,
and computed again if it is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from parimend.guards.arithmetic import Arithmetic, arithmetic, as_used
from parimend.guards.observing import observable
from parimend.guards.threshold import Noise, Threshold
from parimend.kernels.screen_torch import exactly
from parimend.layers.linear import LinearProduct

_GAIN = 4.0
"""Squares of the sums over the rows of b, in units of those of its elements: about 1, where columns
have nothing to do with each other. Only if a sum is off it is asked whether they are more.
"""
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
        apart: the rest is added to a product that is rounded already.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        rest: Tensor | None = None,
        scale: float = 1.0,
        ends: Tensor | None = None,
        apart: bool = False,
    ) -> None:
        self._a, self._b = a.detach(), b.detach()
        self._rest = None if rest is None else rest.detach()
        self._scale, self._ends, self._apart = scale, ends, apart

    def suspicious(self, y: Tensor) -> bool:
        """Whether a row of Y does not have the sum that it must have."""
        with torch.no_grad(), exactly(y):
            y = self.own(y.detach())
            wide = torch.promote_types(y.dtype, torch.float32)
            b = _sums(as_used(self._b, y), wide)
            off = (_sums(y, wide) - self._expected(y, b)).abs()
            norm = torch.linalg.vector_norm(y, dim=-1, keepdim=True, dtype=wide)

            def stops(gain: float) -> bool:
                limit = self._limit(y, gain)
                # Negated, so that NaN is suspicious.
                return not bool(((off <= limit.tau * norm + limit.least) & norm.isfinite()).all())

            if not stops(_GAIN):
                return False
            size, all_of_it = (
                torch.linalg.vector_norm(t, dim=(-2, -1), dtype=wide) for t in (b, self._b)
            )
            gain = float((size / all_of_it).square().nan_to_num(0.0, 0.0).max())
            return gain <= _GAIN or stops(_rounded_up(math.ceil(gain)))

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
        most = bound(exact, limit) + limit.least
        near = (y.to(torch.float64) - exact).abs() <= most
        # Partial sums that are too large may be infinities that differ in sign.
        nan = y.isnan() & (exact.isnan() | most.isinf())
        return bool((near | (y == exact.to(y.dtype)) | nan).all())

    def _limit(self, y: Tensor, gain: float = 1.0) -> Threshold:
        # Rounded up, as sequences grow from call to call.
        n, k = (_rounded_up(size) for size in (y.shape[-1], self._b.shape[-2]))
        return _threshold(arithmetic(y, convolution=False, apart=self._apart), n, k, gain)

    def own(self, y: Tensor) -> Tensor:
        """The rows that belong to a group."""
        return y if self._ends is None else y[: int(self._ends[-1])]

    def _expected(self, y: Tensor, b: Tensor) -> Tensor:
        """`_sums` of Y, from those of b."""
        a = self.own(as_used(self._a, y)).to(b.dtype)
        if self._ends is None:
            found = a @ b
        else:
            rows = torch.arange(len(a), device=a.device)
            group = torch.searchsorted(self._ends.to(rows.dtype), rows, right=True)
            found = (a * b[group, :, 0]).sum(-1, keepdim=True)
        if self._scale != 1.0:
            found = self._scale * found
        if self._rest is not None:
            own = self._rest.shape[-1:] == y.shape[-1:]
            rest = self._rest if own else self._rest.expand_as(y)
            found = found + _sums(as_used(rest, y), b.dtype)
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


def _matmul(input: Tensor, other: Tensor) -> Operands | None:
    if other.ndim > 1:
        return Operands(input, other)
    return Operands(other, input.mT) if input.ndim > 1 else None


def _of_other(self: Tensor, other: Tensor) -> Operands | None:
    return _matmul(other, self)


def _mm(input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None) -> Operands:
    return Operands(input, mat2)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Operands | None:
    if weight.ndim != 2:
        return None
    apart = bias is not None and LinearProduct().adds_apart(input)
    return Operands(input, weight.mT, bias, apart=apart)


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
    "__rmatmul__": _of_other,
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


def operands(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Operands | None:
    """What a function multiplies; None if the sums of its outputs are not known, as of tensors of
    other kinds.

    Args:
        name: of `FUNCTIONS`.
        args, kwargs: that it was called with.
    """
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    if not all(observable(x.detach()) for x in tensors if x.is_floating_point()):
        return None
    try:
        return _READ[name](*args, **kwargs)
    except TypeError:  # it is asked for something else
        return None


def _sums(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Of every row the first half minus the second one, (..., 1)."""
    half = (t.shape[-1] + 1) // 2
    first, second = t[..., :half], t[..., half:]
    return first.sum(-1, keepdim=True, dtype=dtype) - second.sum(-1, keepdim=True, dtype=dtype)


def _rounded_up(size: int) -> int:
    """To a power of two."""
    return 1 << max(size - 1, 0).bit_length()


@lru_cache(_KEPT)
def _threshold(arithmetic: Arithmetic, n: int, k: int, gain: float) -> Threshold:
    """For n outputs in a row, sums of k products each, and sums over b with this `_GAIN`."""
    one = torch.ones(1, 1, 1, dtype=torch.float64, device="cpu")
    # Adding up the columns of b rounds n times.
    return Threshold.of(Noise(one, gain * one, 0.0 * one[0], float(n), k, k + n, n), arithmetic)
