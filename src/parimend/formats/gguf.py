"""The GGUF format of llama.cpp: facts about a model, a list of tensors, then their data.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights that are quantized
in blocks are tensors of blocks: their last dimension counts these.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from parimend.dtypes import BLOCKS, DTYPES
from parimend.errors import AnotherFormatError, FormatError
from parimend.formats.base import Entry
from parimend.formats.listed import MOST_TENSORS, Listed
from parimend.formats.reading import Reader

_MAGIC = b"GGUF"
_VERSIONS = (1, 2, 3)
_ALIGNMENT = "general.alignment"
_STRING, _ARRAY, _U32 = 8, 9, 4
_SIZES = MappingProxyType(  # bytes of a fact, by its type
    {0: 1, 1: 1, 2: 2, 3: 2, _U32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
)
_DEEPEST = 8  # arrays in arrays
_MOST_DIMENSIONS = 8
# By the numbers of ggml.h.
_TYPES = MappingProxyType(
    {
        **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1"},
        **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
        **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S"},
        **{22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"},
        **{29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"},
        **{41: "Q1_0"},
    }
)


class _Info(NamedTuple):
    """What the list says of a tensor; its place counts from the beginning of the data."""

    name: str
    sizes: tuple[int, ...]
    type: int
    place: int


class Gguf(Listed):
    """GGUF files of versions 1 to 3, of either byte order."""

    name = "gguf"
    suffix = ".gguf"
    loads = "gguf"

    def _tensors(self, file: BinaryIO, size: int, name: str) -> Iterator[Entry]:
        reader = Reader(file, name, 0, size)
        if reader.take(min(len(_MAGIC), size)) != _MAGIC:
            raise AnotherFormatError(f"{name} is no GGUF file: it does not begin with {_MAGIC!r}")
        header = _Header(reader)
        alignment, infos = header.read()
        start = at = _aligned(reader.at, alignment)
        infos.sort(key=lambda info: info.place)
        for number, info in enumerate(infos, 1):
            limit = infos[number].place if number < len(infos) else size - start
            entry = _entry(info, start, limit, header.is_foreign, name)
            at = max(at, entry.end)
            yield entry
        # Most writers fill up the data of the last tensor as well.
        if at < size and size not in (reader.at, _aligned(at, alignment)):
            raise FormatError(f"{name} has {size - at} bytes more than its tensors take")


class _Header:
    """Reads what stands before the data."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        version = reader.take(4)
        self.is_foreign = version[:2] == bytes(2)
        """Whether it was written with the other byte order."""
        number = int.from_bytes(version, "big" if self.is_foreign else "little")
        if number not in _VERSIONS:
            raise FormatError(
                f"{reader.name} is a GGUF file of version {number}, or damaged; this parimend "
                f"knows {', '.join(map(str, _VERSIONS))}: install a newer one, or fetch it again"
            )
        order = ">" if self.is_foreign else "<"
        self._number = struct.Struct(order + "I")
        self._size = struct.Struct(order + ("I" if number == 1 else "Q"))
        self._place = struct.Struct(order + "Q")

    def read(self) -> tuple[int, list[_Info]]:
        """The alignment of the data, and the list of tensors."""
        tensors, facts = self._one(self._size), self._one(self._size)
        alignment = 32
        for _ in range(facts):
            key = self._text()
            kind = self._one(self._number)
            if key == _ALIGNMENT and kind == _U32:
                alignment = self._one(self._number)
            else:
                self._skip(kind, 0)
        if not 0 < alignment <= 1 << 20:
            raise FormatError(f"{self._reader.name} is damaged: its alignment is {alignment}")
        if tensors > MOST_TENSORS:
            raise FormatError(f"{self._reader.name} is damaged: it lists {tensors} tensors")
        return alignment, [self._info() for _ in range(tensors)]

    def _one(self, layout: struct.Struct) -> int:
        number: int = self._reader.unpack(layout)[0]
        return number

    def _text(self) -> str:
        return self._reader.take(self._one(self._size)).decode(errors="backslashreplace")

    def _info(self) -> _Info:
        name, count = self._text(), self._one(self._number)
        if count > _MOST_DIMENSIONS:
            raise FormatError(f"{self._reader.name} is damaged: {name} has {count} dimensions")
        sizes = tuple(self._one(self._size) for _ in range(count))
        return _Info(name, sizes, self._one(self._number), self._one(self._place))

    def _skip(self, kind: int, depth: int) -> None:
        """Leave out the value of a fact."""
        if kind in _SIZES:
            self._reader.skip(_SIZES[kind])
        elif kind == _STRING:
            self._reader.skip(self._one(self._size))
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._one(self._number), self._one(self._size)
            if inner in _SIZES:
                self._reader.skip(count * _SIZES[inner])
                return
            for _ in range(count):
                self._skip(inner, depth + 1)
        else:
            raise FormatError(f"{self._reader.name} is damaged: a fact of it has type {kind}")


def _aligned(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _entry(info: _Info, start: int, limit: int, is_foreign: bool, name: str) -> Entry:
    """A tensor; one of unknown type ends where the next one begins, at ``limit``."""
    shape = info.sizes[::-1]
    dtype = _TYPES.get(info.type, f"GGML_{info.type}")
    per_block = BLOCKS[dtype][0] if dtype in BLOCKS else 1
    row = shape[-1] if shape else 1
    if row % per_block:
        raise FormatError(
            f"{name} is damaged: {info.name} has rows of {row} weights, and a block of {dtype} "
            f"has {per_block}"
        )
    shape = (*shape[:-1], row // per_block) if shape else ()
    known = DTYPES.get(dtype)
    begin = start + info.place
    size = math.prod(shape) * known.itemsize if known else max(limit - info.place, 0)
    # Its numbers are no numbers to this machine.
    dtype += "_BE" if is_foreign else ""
    return Entry(info.name, dtype, shape, begin, begin + size)
