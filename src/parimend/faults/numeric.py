"""Patterns that act on the numbers that words stand for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import real_number
from parimend.dtypes import Bits
from parimend.errors import FaultError
from parimend.faults.patterns import Pattern
from parimend.faults.words import Words
from parimend.lasting import cached_property
from parimend.rng import Stream


class Noise(Pattern):
    """A normal deviate is added: N(0, scale^2), rounded to the dtype.

    Floats may overflow to infinity (E4M3: to NaN); integers stop at the ends of their range. Words
    that one standard deviation does not move (too large, infinite or NaN) cannot be changed.

    Args:
        words: any dtype.
        scale: standard deviation, in units of the weights, > 0. Default: the root mean square of
            the finite words of the tensor.

    Raises:
        FaultError: if ``scale`` is not positive and finite.
    """

    def __init__(self, words: Words, *, scale: float | None = None) -> None:
        super().__init__(words)
        if scale is not None:
            real_number(scale, "noise: scale", above=0, error=FaultError)
        self._given = scale

    @cached_property
    def scale(self) -> float:
        """The standard deviation in use."""
        return _rms(self.words) if self._given is None else float(self._given)

    def changeable(self, before: Bits) -> NDArray[np.bool_]:
        step = np.full(before.shape, self.scale)
        moved = (self._add(before, step) != before) | (self._add(before, -step) != before)
        return np.asarray(moved & np.isfinite(self.format.decode(before)))

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        with np.errstate(over="ignore"):
            return self._add(before, self.scale * stream.normals(before.size))

    def _add(self, before: Bits, amount: NDArray[np.float64]) -> Bits:
        if self.format.is_float:
            with np.errstate(over="ignore", invalid="ignore"):
                return self.format.encode(self.format.decode(before) + amount)
        # Moving the least integer to 0 makes both families alike and 64 bits exact.
        least = np.uint64(self.format.sign_bit)
        level = before.astype(np.uint64) ^ least
        top = np.uint64((1 << self.format.bits) - 1)
        size = np.rint(np.abs(amount))
        fits = size < 2.0**64
        size = np.where(fits, np.where(fits, size, 0.0).astype(np.uint64), top)
        up, down = level + np.minimum(size, top - level), level - np.minimum(size, level)
        moved = np.where(amount < 0, down, up) ^ least
        return np.asarray(moved.astype(before.dtype))


class Replace(Pattern):
    """The word is replaced by a number of a grid, uniformly chosen.

    Integers: uniform over their whole range. Floats: k * step, k uniform over the integers with
    abs(k * step) <= limit. The pattern for damage that a fixed-point code cannot see by the form
    of the word alone.

    Args:
        words: any dtype.
        step: grid step, a power of two, for float tensors. Default: 2^(e - p), where 2^e is the
            smallest power of two above ``limit`` (or, without one, above every finite word of
            the tensor; 1 if all of them are zero) and p the number of stored mantissa bits: 23
            for F32.
        limit: largest absolute value, for float tensors. Default: (2^p - 1) steps, which all
            lie below 2^e and are exact in the dtype.

    Raises:
        FaultError: if ``step`` is no power of two, or the dtype does not hold the grid exactly.
    """

    def __init__(
        self, words: Words, *, step: float | None = None, limit: float | None = None
    ) -> None:
        super().__init__(words)
        if step is not None and not (0 < step < math.inf and math.frexp(step)[0] == 0.5):
            raise FaultError(f"replace step {step} is not a power of two")
        if limit is not None:
            real_number(limit, "replace: limit", above=0, error=FaultError)
        self._step, self._limit = step, limit
        if self.format.is_float and (step is not None or limit is not None):
            self._check_grid()

    @cached_property
    def _grid(self) -> tuple[float, int]:
        """Step, and the largest k."""
        form, step = self.format, self._step
        most = (1 << form.mantissa) - 1
        if step is None:
            reach = _largest(self.words) if self._limit is None else self._limit
            exponent = math.frexp(reach)[1]  # 0 where reach is 0
            fine = max(exponent - form.mantissa, form.tiny_exponent)
            step = math.ldexp(1.0, fine)
            most = min(most, (1 << max(exponent - fine, 0)) - 1)
        if self._limit is not None:
            # Far too many steps must not overflow; the check refuses them just the same.
            most = math.floor(min(self._limit / step, 2.0**62))
        return step, most

    def _check_grid(self) -> None:
        form, (step, most) = self.format, self._grid
        ends = np.array([step, float(most) * step])
        if not 1 <= most <= 2 << form.mantissa or (form.decode(form.encode(ends)) != ends).any():
            limit = ends[1] if self._limit is None else self._limit
            raise FaultError(
                f"tensor {self.words.name!r}: {form.name} does not hold all multiples of step "
                f"{step} up to limit {limit}; take at least one and at most "
                f"2^{form.mantissa + 1} steps, within the range of the dtype"
            )

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        if not self.format.is_float:
            return stream.integers(1 << self.format.bits, before.size).astype(before.dtype)
        step, most = self._grid
        k = stream.integers(2 * most + 1, before.size).astype(np.int64) - most
        return self.format.encode(k.astype(np.float64) * step)


class Stuck(Pattern):
    """Every struck word takes the same value. Words that hold it already cannot be changed.

    Args:
        words: any dtype.
        value: the value; floats take the nearest that the dtype holds. Default: 0.125 for
            floats, 1 for integers.

    Raises:
        FaultError: if an integer dtype does not hold ``value``.
    """

    def __init__(self, words: Words, *, value: float | None = None) -> None:
        super().__init__(words)
        form = self.format
        if form.is_float:
            wanted = 0.125 if value is None else value
            self._bits = int(form.encode(np.array([wanted], np.float64))[0])
            return
        wanted = 1 if value is None else value
        low = -form.sign_bit
        if not (low <= wanted < low + (1 << form.bits) and wanted == int(wanted)):
            raise FaultError(
                f"tensor {words.name!r}: {words.dtype} does not hold the stuck value {value}; "
                f"give an integer from {low} to {low + (1 << form.bits) - 1}"
            )
        self._bits = int(wanted) % (1 << form.bits)

    def changeable(self, before: Bits) -> NDArray[np.bool_]:
        return np.asarray(before != self._bits)

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        return np.full_like(before, self._bits)


class NonFinite(Pattern):
    """NaN, +Inf or -Inf, uniformly chosen; for E4M3, which has no infinities, NaN or -NaN.

    Raises:
        FaultError: for integers, which have no such values.
    """

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        if not self.format.is_float:
            raise FaultError(
                f"tensor {words.name!r}: {words.dtype} has no NaN and no infinity; "
                f"select floating-point tensors with only=, or take another kind"
            )

    def _draw(self, before: Bits, stream: Stream) -> Bits:
        choices = np.array(self.format.nonfinite, dtype=before.dtype)
        return choices[stream.integers(choices.size, before.size).astype(np.int64)]


def _largest(words: Words) -> float:
    """Largest absolute value of the finite words; 0.0 where there are none."""
    largest = 0.0
    for bits in words.chunks():
        values = np.abs(words.format.decode(bits))
        largest = max(largest, float(np.max(values, where=np.isfinite(values), initial=0.0)))
    return largest


def _rms(words: Words) -> float:
    """Root mean square of the finite words.

    Summed as integers, 20 bits of each word, because the order in which floats are summed, and so
    their sum, differs between platforms.
    """
    exponent = math.frexp(_largest(words))[1]
    total = count = 0
    for bits in words.chunks():
        values = words.format.decode(bits)
        values = values[np.isfinite(values)]
        scaled = np.rint(np.ldexp(values, 20 - exponent)).astype(np.int64)
        total += int(np.sum(scaled * scaled))
        count += values.size
    return math.ldexp(math.sqrt(total / count), exponent - 20) if count else 0.0
