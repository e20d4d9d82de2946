"""Number formats: what the bits of a word mean, by their safetensors names.

numpy has no bfloat16 and no float8, so their conversions go through tables of all their magnitudes,
2^15 at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from parimend.faults.errors import FaultError

__all__ = ["FORMATS", "Bits", "Format", "format_of"]

Bits = npt.NDArray[np.unsignedinteger[Any]]
"""Bit patterns of words: an unsigned array whose item size is that of the words."""


@dataclass(frozen=True)
class Format:
    """One number format.

    Attributes:
        name: safetensors name, such as ``"BF16"``.
        width: bits in a word: 8, 16, 32 or 64.
        family: ``"float"``, ``"signed"`` or ``"unsigned"``.
        mantissa: stored mantissa bits of a float; 0 for integers.
        native: numpy's name of the format, or None where numpy has none.
        infinities: False for E4M3, which gives that pattern range to finite values.
    """

    name: str
    width: int
    family: Literal["float", "signed", "unsigned"]
    mantissa: int = 0
    native: str | None = None
    infinities: bool = True

    @property
    def is_float(self) -> bool:
        """Whether words are floating-point numbers."""
        return self.family == "float"

    @property
    def unsigned(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The unsigned numpy dtype of the same width."""
        return np.dtype(f"u{self.width // 8}")

    @property
    def sign_bit(self) -> int:
        """The pattern with only the top bit set."""
        return 1 << (self.width - 1)

    @property
    def tiny_exponent(self) -> int:
        """log2 of the smallest positive value of a float format."""
        bias = (1 << (self.width - 2 - self.mantissa)) - 1
        return 1 - bias - self.mantissa

    @cached_property
    def nonfinite(self) -> tuple[int, ...]:
        """Canonical patterns of NaN, +Inf and -Inf, or of both NaNs where no infinity exists."""
        if not self.is_float:
            return ()
        top = self.sign_bit - 1  # exponent and mantissa all ones
        if not self.infinities:
            return top, self.sign_bit | top
        infinity = top >> self.mantissa << self.mantissa
        return infinity | 1 << (self.mantissa - 1), infinity, self.sign_bit | infinity

    def hex(self, pattern: int) -> str:
        """The pattern in hexadecimal, as wide as the word."""
        return f"{pattern:0{self.width // 4}x}"

    def decode(self, bits: Bits) -> npt.NDArray[np.float64]:
        """Values of the patterns as float64: exact, but for 64-bit integers beyond 2^53.

        >>> import numpy as np
        >>> format_of("BF16").decode(np.array([0x3E00, 0xFF80], np.uint16)).tolist()
        [0.125, -inf]
        """
        if self.native is not None:
            with np.errstate(invalid="ignore"):  # signalling NaNs
                return np.asarray(bits.view(self.native).astype(np.float64))
        magnitude = _magnitudes(self)[bits & (self.sign_bit - 1)]
        return np.asarray(np.where(bits & self.sign_bit, -magnitude, magnitude))

    def encode(self, values: npt.NDArray[np.float64]) -> Bits:
        """Patterns of the nearest values of a float format, ties to even.

        Beyond the largest finite value: infinity, or NaN where the format has no infinity.

        >>> import numpy as np
        >>> [hex(b) for b in format_of("F8_E4M3").encode(np.array([1.0, -1.0625, 500.0]))]
        ['0x38', '0xb8', '0x7f']
        """
        if self.native is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                return np.asarray(values.astype(self.native).view(self.unsigned))
        middles = _middles(self)
        magnitude = np.abs(values)
        nearest = np.searchsorted(middles, magnitude)
        tie = magnitude == middles[np.minimum(nearest, middles.size - 1)]
        nearest += tie & (nearest % 2 == 1)
        pattern = np.where(np.isnan(values), self.nonfinite[0], nearest)
        return (pattern | np.where(np.signbit(values), self.sign_bit, 0)).astype(self.unsigned)


def _ladder(form: Format) -> npt.NDArray[np.float64]:
    """Values of the patterns 0 .. sign_bit - 1, as though none of them were NaN or infinite."""
    pattern = np.arange(form.sign_bit, dtype=np.int64)
    exponent = pattern >> form.mantissa
    hidden = np.where(exponent > 0, 1 << form.mantissa, 0)
    significand = (pattern & ((1 << form.mantissa) - 1)) + hidden
    power = np.maximum(exponent, 1) - 1 + form.tiny_exponent
    return np.asarray(np.ldexp(significand.astype(np.float64), power))


@cache
def _magnitudes(form: Format) -> npt.NDArray[np.float64]:
    values = _ladder(form)
    if form.infinities:
        infinity = form.nonfinite[1]
        values[infinity] = np.inf
        values[infinity + 1 :] = np.nan
    else:
        values[-1] = np.nan
    return values


@cache
def _middles(form: Format) -> npt.NDArray[np.float64]:
    """Halfway points between neighbours; the last lies below the first pattern that overflows."""
    overflow = form.nonfinite[1] if form.infinities else form.nonfinite[0]
    values = _ladder(form)[: overflow + 1]
    return (values[:-1] + values[1:]) / 2


FORMATS: MappingProxyType[str, Format] = MappingProxyType(
    {
        form.name: form
        for form in (
            Format("F64", 64, "float", 52, "float64"),
            Format("F32", 32, "float", 23, "float32"),
            Format("F16", 16, "float", 10, "float16"),
            Format("BF16", 16, "float", 7),
            Format("F8_E5M2", 8, "float", 2),
            Format("F8_E4M3", 8, "float", 3, infinities=False),
            Format("I64", 64, "signed", native="int64"),
            Format("I32", 32, "signed", native="int32"),
            Format("I16", 16, "signed", native="int16"),
            Format("I8", 8, "signed", native="int8"),
            Format("U64", 64, "unsigned", native="uint64"),
            Format("U32", 32, "unsigned", native="uint32"),
            Format("U16", 16, "unsigned", native="uint16"),
            Format("U8", 8, "unsigned", native="uint8"),
        )
    }
)
"""Known formats by their safetensors names."""


def format_of(dtype: str) -> Format:
    """The format of that safetensors name.

    Raises:
        FaultError: the name is none of :data:`FORMATS`.
    """
    form = FORMATS.get(dtype)
    if form is None:
        raise FaultError(f"unknown dtype {dtype!r}: take one of {', '.join(FORMATS)}")
    return form
