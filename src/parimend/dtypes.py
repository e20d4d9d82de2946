"""Number formats: what the project knows about a dtype, once.

Dtypes go by the names that safetensors files give them (``F32``, ``BF16``, ``I8``). What a pattern
of bits means is known to numpy, and to ml_dtypes for the formats that numpy lacks. Weights that are
quantized in blocks, scales and all, go by the names of llama.cpp (``Q4_K``); an element is a block.
Loading this module does not load torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from parimend.errors import WordError
from parimend.lasting import cached_property

if TYPE_CHECKING:
    import torch

Bits = NDArray[np.unsignedinteger[Any]]
"""Patterns of bits: an unsigned array with one element per element of the tensor."""

Family = Literal["float", "signed", "unsigned", "bool", "complex", "block"]


@dataclass(frozen=True)
class DType:
    """One dtype.

    Attributes:
        name: in safetensors files, such as ``BF16``; see `SAFETENSORS`.
        bits: of an element; below 8, elements share bytes in files.
        family: what its numbers are; a ``block`` is several of them that share scales.
        numpy: the little-endian numpy dtype. Those of elements that share bytes are unpacked: one
            byte each.

    Example:
        >>> dtype = DTYPES["BF16"]
        >>> dtype.bits, dtype.mantissa, str(dtype.numpy)
        (16, 7, 'bfloat16')
    """

    name: str
    bits: int
    family: Family
    numpy: np.dtype[Any]

    @property
    def packed(self) -> bool:
        """Whether elements share bytes in files."""
        return self.bits % 8 != 0

    @cached_property
    def itemsize(self) -> int:
        """Bytes of an element in a file.

        Raises:
            WordError: if elements share bytes.
        """
        if self.packed:
            raise WordError(f"dtype {self.name!r} cannot be cut into bytes: leave the tensor out")
        return self.bits // 8

    @property
    def unsigned(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The numpy dtype, in this machine's byte order, that holds the bits of an element.

        Raises:
            WordError: if there is none, as for ``C128``.
        """
        if self.numpy.itemsize > 8:
            raise WordError(f"no integers are as wide as {self.name}: take it byte by byte")
        return np.dtype(f"u{self.numpy.itemsize}")

    @property
    def is_number(self) -> bool:
        """Whether an element in a file is one real number."""
        return not self.packed and self.family not in ("complex", "block")

    @property
    def is_float(self) -> bool:
        """Whether elements are real floating-point numbers."""
        return self.family == "float"

    @cached_property
    def _limits(self) -> Any:
        return ml_dtypes.finfo(self.numpy)  # type: ignore[no-untyped-call]

    @cached_property
    def mantissa(self) -> int:
        """Stored bits of the mantissa of a float; 0 for integers."""
        return int(self._limits.nmant) if self.is_float else 0

    @cached_property
    def exponent(self) -> int:
        """Bits of the exponent of a float; 0 for integers."""
        return int(self._limits.iexp) if self.is_float else 0

    @cached_property
    def sign_bit(self) -> int:
        """The pattern with only the sign bit set; 0 for a dtype without signs."""
        more = self.bits - self.exponent - self.mantissa
        signed = more > 0 if self.is_float else self.family == "signed"
        return 1 << (self.bits - 1) if signed else 0

    @cached_property
    def tiny_exponent(self) -> int:
        """log2 of the smallest positive value of a float, that of the pattern 1."""
        return int(self._limits.minexp) - self.mantissa

    @cached_property
    def nonfinite(self) -> tuple[int, ...]:
        """The patterns that stand for NaN, +Inf and -Inf, or for NaNs of both signs if no infinity
        exists; none for numbers that are always finite.

        >>> [hex(pattern) for pattern in DTYPES["BF16"].nonfinite]
        ['0x7fc0', '0x7f80', '0xff80']
        """
        if not self.is_float:
            return ()
        patterns = self.encode(np.array([np.nan, np.inf, -np.inf]))
        return tuple(dict.fromkeys(patterns[~np.isfinite(self.decode(patterns))].tolist()))

    def decode(self, patterns: Bits) -> NDArray[np.float64]:
        """The numbers that patterns stand for: exact, but for 64-bit integers beyond 2^53.

        Args:
            patterns: any shape, dtype `unsigned`.

        Example:
            >>> DTYPES["BF16"].decode(np.array([0x3E00, 0xFF80], np.uint16)).tolist()
            [0.125, -inf]
        """
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return patterns.view(self.numpy.newbyteorder("=")).astype(np.float64)

    def encode(self, values: NDArray[np.float64]) -> Bits:
        """The patterns of the nearest values of a float dtype, ties to even.

        Beyond the largest finite value: infinity, or NaN if the dtype has no infinity.

        Example:
            >>> [hex(b) for b in DTYPES["F8_E4M3"].encode(np.array([1.0, -1.0625, 500.0]))]
            ['0x38', '0xb8', '0x7f']
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self.numpy.isbuiltin == 2:  # of ml_dtypes, which goes through float32: rounds twice
                return _to_odd(values).astype(self.numpy).view(self.unsigned)
            return values.astype(self.numpy.newbyteorder("=")).view(self.unsigned)

    @property
    def torch_name(self) -> str:
        """The name in torch, such as ``bfloat16``; empty if it has none for single elements."""
        return "" if self.packed or self.family == "block" else self.numpy.name

    def torch_dtype(self, tensor: str = "a tensor") -> torch.dtype:
        """The dtype of torch.

        Args:
            tensor: its name, for messages.

        Raises:
            WordError: if this version of torch does not have it.
        """
        import torch

        found: torch.dtype | None = getattr(torch, self.torch_name, None)
        if found is None:
            raise WordError(f"{tensor} is {self.name}, which this version of torch does not have")
        return found


BLOCKS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **{"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24)},
        **{"Q8_0": (32, 34), "Q8_1": (32, 40), "Q1_0": (128, 18)},
        **{"Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176)},
        **{"Q6_K": (256, 210), "Q8_K": (256, 292)},
        **{"IQ1_S": (256, 50), "IQ1_M": (256, 56), "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74)},
        **{"IQ2_S": (256, 82), "IQ3_XXS": (256, 98), "IQ3_S": (256, 110)},
        **{"IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "TQ1_0": (256, 54), "TQ2_0": (256, 66)},
        **{"MXFP4": (32, 17), "NVFP4": (64, 36)},
    }
)
"""Weights in a block of each quantized type of llama.cpp, and its bytes (ggml-common.h)."""


def _to_odd(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float32 values, inexact ones rounded to the neighbour with an odd last bit.

    Rounded again, to a format at least two bits narrower, they give what rounding once does
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    nearest = values.astype(np.float32)
    inexact = nearest.astype(np.float64) != values
    patterns = nearest.view(np.uint32)
    patterns -= np.abs(nearest) > np.abs(values)  # toward zero
    patterns |= inexact
    return nearest


def _all() -> Iterator[DType]:
    for size in (8, 4, 2):
        yield DType(f"F{8 * size}", 8 * size, "float", np.dtype(f"<f{size}"))
    yield DType("BF16", 16, "float", np.dtype(ml_dtypes.bfloat16))
    yield DType("F8_E5M2", 8, "float", np.dtype(ml_dtypes.float8_e5m2))
    yield DType("F8_E4M3", 8, "float", np.dtype(ml_dtypes.float8_e4m3fn))
    yield DType("F8_E5M2FNUZ", 8, "float", np.dtype(ml_dtypes.float8_e5m2fnuz))
    yield DType("F8_E4M3FNUZ", 8, "float", np.dtype(ml_dtypes.float8_e4m3fnuz))
    yield DType("F8_E8M0", 8, "float", np.dtype(ml_dtypes.float8_e8m0fnu))
    yield DType("F6_E3M2", 6, "float", np.dtype(ml_dtypes.float6_e3m2fn))
    yield DType("F6_E2M3", 6, "float", np.dtype(ml_dtypes.float6_e2m3fn))
    yield DType("F4", 4, "float", np.dtype(ml_dtypes.float4_e2m1fn))
    for size in (8, 4, 2, 1):
        yield DType(f"I{8 * size}", 8 * size, "signed", np.dtype(f"<i{size}"))
        yield DType(f"U{8 * size}", 8 * size, "unsigned", np.dtype(f"<u{size}"))
    yield DType("I4", 4, "signed", np.dtype(ml_dtypes.int4))
    yield DType("U4", 4, "unsigned", np.dtype(ml_dtypes.uint4))
    yield DType("BOOL", 8, "bool", np.dtype(np.bool_))
    for size in (8, 16):
        yield DType(f"C{8 * size}", 8 * size, "complex", np.dtype(f"<c{size}"))
    for name, (_, size) in BLOCKS.items():
        yield DType(name, 8 * size, "block", np.dtype(f"V{size}"))


DTYPES: Mapping[str, DType] = MappingProxyType({dtype.name: dtype for dtype in _all()})
"""Every dtype by its name."""

SAFETENSORS = frozenset(DTYPES) - {"C128", "I4", "U4"} - frozenset(BLOCKS)
"""Names that safetensors files know; the others are ours."""

OF_TORCH: Mapping[str, DType] = MappingProxyType(
    {dtype.torch_name: dtype for dtype in DTYPES.values() if dtype.torch_name}
)
"""Every dtype that torch has, by its name there."""


def named(name: str) -> DType:
    """The dtype of that name.

    Raises:
        WordError: if it is not known.

    >>> named("BF16").itemsize
    2
    """
    try:
        return DTYPES[name]
    except KeyError:
        raise WordError(f"dtype {name!r} is not known: leave the tensor out") from None


def of_torch(dtype: torch.dtype, tensor: str = "a tensor") -> DType:
    """The dtype of a torch dtype: the inverse of `DType.torch_dtype`.

    Args:
        dtype: of torch.
        tensor: name of the tensor, for messages.

    Raises:
        WordError: if elements are no whole bytes that could be named, as of quantized and sub-byte
            dtypes.

    Example:
        >>> import torch
        >>> of_torch(torch.float16).name
        'F16'
    """
    found = _of_torch(dtype)
    if found is None:
        raise WordError(
            f"{tensor} is {dtype}, which has no plain bytes to protect: convert it or leave it out"
        )
    return found


@cache
def _of_torch(dtype: torch.dtype) -> DType | None:
    return OF_TORCH.get(str(dtype).removeprefix("torch."))
