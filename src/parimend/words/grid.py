"""Weights as integers on a fixed-point grid: the words of the real carrier.

A float weight w is the integer w / step, with a step that is a power of two, chosen so that every
weight of its tensor fits. Any value that is not on the grid cannot be an undamaged weight: it is an
erasure, located for free. Integer tensors are their own grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.dtypes import DTYPES, DType
from parimend.errors import WordError

FLOAT_BITS = 18
"""Default bits of a float weight on its grid, sign included: finer changes no accuracy, and every
bit less is a bit more by which checks tell errors apart and damage falls off the grid."""

LOWEST = 126
"""Grids are made for weights from 2^-LOWEST on."""
_MOST_BITS = 32
_ROOM = 1.0 - 1.0 / 16.0  # share of the range that the weights may take at first
GRID_DTYPES: Mapping[str, DType] = MappingProxyType(
    {name: DTYPES[name] for name in ("F32", "F64", "I8", "I16")}
)
"""The dtypes that have a grid, by their names."""


class Grid(NamedTuple):
    """A fixed-point grid.

    Attributes:
        bits: integers have magnitude below 2^(bits - 1).
        exponent: the step is 2^exponent; 0 for integer tensors.
    """

    bits: int
    exponent: int

    @property
    def step(self) -> float:
        """Distance of neighbours on the grid, in units of the weights."""
        return math.ldexp(1.0, self.exponent)

    @property
    def limit(self) -> int:
        """Integers of the grid are smaller than this in magnitude."""
        return 1 << (self.bits - 1)

    def holds(self, dtype: str) -> bool:
        """Whether every integer of the grid is an element of ``dtype``.

        >>> Grid(18, -10).holds("F32"), Grid(18, 0).holds("I8"), Grid(18, 200).holds("F64")
        (True, False, False)
        """
        if dtype not in GRID_DTYPES or self.bits > _most_bits(GRID_DTYPES[dtype]):
            return False
        if not GRID_DTYPES[dtype].is_float:
            return self.exponent == 0
        # Those of F64 are no larger and no smaller: nobody needs more.
        return -149 <= self.exponent <= 129 - self.bits

    def read(self, values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The integers of ``values`` and which are erased (and read as 0).

        Erased are values off the grid, out of range, infinite, NaN, and negative zero.

        Args:
            values: any shape, float32, float64, int8 or int16.

        Example:
            >>> Grid(20, -10).read(np.array([0.5, -0.0, 1e-9, np.inf], np.float32))
            (array([512,   0,   0,   0]), array([False,  True,  True,  True]))
        """
        if values.dtype.kind == "i":
            integers = values.astype(np.int64)
            erased = np.abs(integers) >= self.limit
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                scaled = values.astype(np.float64) * math.ldexp(1.0, -self.exponent)
                fits = np.abs(scaled) < self.limit  # false for NaN
                scaled = np.where(fits, scaled, 0.0)
            integers = scaled.astype(np.int64)
            # By its bits: zero has a sign, and some processes take subnormals for zeros.
            odd_zero = (integers == 0) & (values.view(f"u{values.itemsize}") != 0)
            erased = ~fits | (integers != scaled) | odd_zero
        return np.where(erased, 0, integers), erased

    def contains(self, integers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which integers are in range."""
        return np.asarray(np.abs(integers) < self.limit)

    def write(self, integers: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The values of ``integers``, exact in ``dtype`` if they are in range (`contains`)."""
        if dtype.kind == "i":
            return integers.astype(dtype)
        return (integers * self.step).astype(dtype)


def choose_grid(values: NDArray[Any], dtype: str, name: str, bits: int | None = None) -> Grid:
    """The grid of a tensor: the finest power-of-two step at which its weights fit.

    One part in 16 of the range is kept free, so that imposing a code may move the largest weights;
    not of integers, which have no other step. The lowest of two's complement, -128 of int8, is off
    the grid, which is symmetric: it is moved to -127, or farther.

    Args:
        values: the weights, any shape.
        dtype: their safetensors dtype name.
        name: of the tensor, for messages.
        bits: bits of the grid, sign included; by default `FLOAT_BITS` for float tensors and all
            bits of the type for integers.

    Raises:
        WordError: for a dtype without a grid, non-finite weights, weights too small or too large
            for any grid, or integers that need more bits; names the tensor.

    Example:
        >>> choose_grid(np.array([0.2, -0.11], np.float32), "F32", "w")
        Grid(bits=18, exponent=-19)
    """
    if dtype not in GRID_DTYPES:
        raise WordError(
            f"{name}: {dtype} weights have no fixed-point grid; the real carrier holds "
            f"{', '.join(GRID_DTYPES)}: leave it out with only='!{name}', or use "
            "carrier='sidecar', which holds any dtype"
        )
    most, is_float = _most_bits(GRID_DTYPES[dtype]), GRID_DTYPES[dtype].is_float
    if bits is None:
        bits = FLOAT_BITS if is_float else most
    elif not is_float:
        bits = min(bits, most)  # they were chosen for the float tensors beside it
    if not 4 <= bits <= most:
        raise WordError(f"{name}: a {dtype} grid has 4 to {most} bits, not {bits}")
    require_finite(values, name)
    largest = float(np.abs(values.astype(np.float64)).max(initial=0.0))
    if not is_float:
        if largest > 1 << (bits - 1):
            raise WordError(
                f"{name}: integers as large as {largest:.0f} are beyond a grid of {bits} bits: "
                f"take more bits, up to {most}"
            )
        return Grid(bits, 0)
    exponent = finest(largest, bits) if largest else 1 - bits
    if exponent < bits - LOWEST or exponent + bits > 127:
        raise WordError(
            f"{name}: weights as large as {largest:g} have no grid of {bits} bits: leave it out "
            f"with only='!{name}', or use carrier='sidecar', which holds any bits"
        )
    return Grid(bits, exponent)


def finest(largest: float, bits: int) -> int:
    """The exponent of the finest steps of a grid on which weights fit, and have room to move.

    >>> finest(0.93, bits=18), finest(0.95, bits=18)
    (-17, -16)
    """
    mantissa, exponent = math.frexp(largest)
    return exponent + math.frexp(mantissa / (_ROOM * (1 << (bits - 1))))[1]


def _most_bits(dtype: DType) -> int:
    """Bits of the widest grid whose integers a dtype holds exactly."""
    return min(dtype.mantissa + 1, _MOST_BITS) if dtype.is_float else dtype.bits


def require_finite(values: NDArray[Any], name: str, start: int = 0) -> None:
    """Refuse weights that no constraint can hold.

    Args:
        values: (...), those of a tensor.
        name: of the tensor, for messages.
        start: position in the tensor, for messages, where ``values`` are only some of it.

    Raises:
        WordError: names the tensor, how many of them are not finite, and the first.
    """
    if not (finite := np.isfinite(values)).all():
        first = np.argwhere(~finite)[0]
        first[-1:] += start
        wrong = int(np.count_nonzero(~finite))
        raise not_finite(name, wrong, values.size, first.tolist())


def not_finite(name: str, wrong: int, of: int, first: list[int]) -> WordError:
    """The error to raise for a tensor with ``wrong`` weights that are not finite."""
    return WordError(
        f"{name}: {wrong} of {of} elements are not finite (first {first}): repair the weights "
        "first, or use carrier='sidecar', which holds any bits"
    )
