"""Words: named tensors seen as bit patterns. Here a word is an element, whatever its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend import names as naming
from parimend.arguments import require, require_iterable
from parimend.dtypes import DTYPES, Bits, DType
from parimend.errors import FaultError

FORMATS: Mapping[str, DType] = MappingProxyType(
    {
        name: DTYPES[name]
        for name in (
            *("F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3"),
            *("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"),
        )
    }
)
"""Dtypes that can be damaged as numbers; others are taken as ``U8``, byte by byte."""

_OF_NUMPY = {dtype.numpy.name: name for name, dtype in FORMATS.items()}
_CHUNK = 1 << 20


def format_of(dtype: str) -> DType:
    """The dtype of that name.

    Raises:
        FaultError: if the name is none of `FORMATS`.
    """
    try:
        return FORMATS[dtype]
    except KeyError:
        raise FaultError(f"unknown dtype {dtype!r}: take one of {', '.join(FORMATS)}") from None


@dataclass(frozen=True, eq=False)
class Words:
    """One tensor as a flat row of bit patterns.

    Attributes:
        name: of the tensor.
        bits: patterns, shape (n,), native unsigned integers as wide as the dtype. A view if the
            damage is to reach the tensor itself.
        dtype: what the patterns mean, by its name in safetensors files, such as ``F32`` or
            ``BF16``.

    Raises:
        FaultError: if ``bits`` is not flat, not unsigned, or not as wide as ``dtype`` says.

    Example:
        >>> import numpy as np
        >>> Words("head", np.array([0x3F80, 0xBF80], np.uint16), "BF16").values().tolist()
        [1.0, -1.0]
    """

    name: str
    bits: Bits
    dtype: str

    def __post_init__(self) -> None:
        expected = format_of(self.dtype).unsigned
        if self.bits.ndim != 1 or self.bits.dtype != expected:
            raise FaultError(
                f"tensor {self.name!r}: {self.dtype} needs a flat {expected} array of patterns, "
                f"not {self.bits.dtype} of shape {self.bits.shape}; "
                f"give array.reshape(-1).view(numpy.{expected})"
            )

    @classmethod
    def of(cls, name: str, array: NDArray[Any]) -> Words:
        """The words of a numpy array: a view, so that damage to the words damages the array.

        Args:
            name: of the tensor.
            array: any shape; float16/32/64, (u)int8..64, or bfloat16, float8_e4m3fn and float8_e5m2
                of ml_dtypes.

        Returns:
            Words of length ``array.size``, in row-major order. Of an array that is not contiguous
            no flat view exists: its words are a read-only copy, good for drawing but not for
            changing.

        Raises:
            FaultError: if the dtype is not supported or not of native byte order.

        Example:
            >>> import numpy as np
            >>> weights = np.zeros((2, 3), np.float32)
            >>> words = Words.of("fc.weight", weights)
            >>> words.bits[4] = 0x3F800000
            >>> float(weights[1, 1]), words.dtype, len(words)
            (1.0, 'F32', 6)
        """
        if not isinstance(array, np.ndarray):
            raise FaultError(
                f"tensor {name!r} is a {type(array).__name__}, not a numpy array; give a view of "
                f"its memory, such as tensor.detach().numpy()"
            )
        dtype = _OF_NUMPY.get(array.dtype.name)
        if dtype is None:
            raise FaultError(
                f"tensor {name!r}: dtype {array.dtype} is not supported; give the raw patterns as "
                f"Words(name, bits, dtype) with a dtype of {', '.join(FORMATS)}"
            )
        if not array.dtype.isnative:
            raise FaultError(
                f"tensor {name!r}: {array.dtype} has foreign byte order; "
                f"convert it with array.astype(array.dtype.newbyteorder('='))"
            )
        flat = np.ascontiguousarray(array).reshape(-1).view(format_of(dtype).unsigned)
        if not array.flags.c_contiguous:
            flat.flags.writeable = False
        return cls(name, flat, dtype)

    @classmethod
    def of_bytes(cls, name: str, data: NDArray[np.uint8], dtype: str) -> Words:
        """The words of a tensor's bytes: a view.

        Args:
            name: of the tensor.
            data: flat.
            dtype: by any name; what is none of `FORMATS` is damaged byte by byte.

        >>> Words.of_bytes("mask", np.ones(4, np.uint8), "BOOL").dtype
        'U8'
        """
        dtype = dtype if dtype in FORMATS else "U8"
        return cls(name, data.view(FORMATS[dtype].unsigned), dtype)

    @property
    def format(self) -> DType:
        """The dtype of the words."""
        return format_of(self.dtype)

    def __len__(self) -> int:
        return self.bits.size

    def values(self) -> NDArray[np.float64]:
        """The numbers that the patterns stand for, as float64 of shape (n,)."""
        return self.format.decode(self.bits)

    def chunks(self) -> Iterator[Bits]:
        """The patterns in pieces of at most 2^20, for passes that should not allocate much."""
        for start in range(0, len(self), _CHUNK):
            yield self.bits[start : start + _CHUNK]


Tensors = Mapping[str, NDArray[Any]] | Iterable[Words]
"""What damage acts on: named numpy arrays, or words."""


def named(tensors: Tensors, names: Sequence[str]) -> list[Words]:
    """The words of the tensors with these very names, in that order.

    Raises:
        FaultError: if a tensor is missing or of an unsupported dtype.
    """
    given = dict(_pairs(tensors))
    for name in names:
        if name not in given:
            raise FaultError(f"tensor {name!r} is missing among {naming.listed(sorted(given))}")
    return [_as_words(name, given[name]) for name in names]


def select(tensors: Tensors, only: str | Sequence[str] | None = None) -> list[Words]:
    """The words whose names match, ordered by name.

    Args:
        tensors: named arrays, or words.
        only: shell patterns; see `parimend.names.select`.

    Raises:
        FaultError: if there are no tensors, a name twice, a pattern that matches nothing, or an
            unsupported dtype among the selected.

    Example:
        >>> import numpy as np
        >>> arrays = {"b": np.zeros(2), "a.weight": np.zeros(3), "a.bias": np.zeros(1)}
        >>> [words.name for words in select(arrays, "a.*")]
        ['a.bias', 'a.weight']
    """
    pairs = _pairs(tensors)
    if not pairs:
        raise FaultError("no tensors to damage: the mapping is empty")
    # The order of a mapping says nothing about the model, so it must not decide what is struck.
    names = sorted(name for name, _ in pairs)
    for name, following in pairwise(names):
        if name == following:
            raise FaultError(f"tensor {name!r} is given twice; give every tensor once")
    chosen = naming.select(names, only, error=FaultError)
    given = dict(pairs)
    return [_as_words(name, given[name]) for name in chosen]


def _pairs(tensors: Tensors) -> list[tuple[str, Words | NDArray[Any]]]:
    if isinstance(tensors, Mapping):
        return list(tensors.items())
    what = "tensors by name, or a list of Words"
    require_iterable(tensors, "tensors", what)
    found = list(tensors)
    for each in found:
        require(each, "each of tensors", "Words", Words)
    return [(words.name, words) for words in found]


def _as_words(name: str, tensor: Words | NDArray[Any]) -> Words:
    return tensor if isinstance(tensor, Words) else Words.of(name, tensor)
