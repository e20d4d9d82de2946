"""The ONNX format: a protobuf message, with the weights in it or in files beside it.

Specification: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Weights are the tensors of
graphs, of graphs inside them, and of constants; those that a file beside holds are named by the
model alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from parimend.dtypes import DTYPES
from parimend.errors import AnotherFormatError, FormatError
from parimend.formats.base import MOST_BYTES, Entry
from parimend.formats.listed import MOST_TENSORS, Listed
from parimend.formats.protobuf import fields, varint
from parimend.formats.reading import Reader
from parimend.regular import State, open_regular, state_of

# By the numbers of onnx.proto.
_DTYPES = MappingProxyType(
    {
        **{1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL"},
        **{10: "F16", 11: "F64", 12: "U32", 13: "U64", 14: "C64", 15: "C128", 16: "BF16"},
        **{17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ", 21: "U4"},
        **{22: "I4", 23: "F4", 24: "F8_E8M0"},
    }
)
# The messages that tensors may be in: which of their fields hold which of them.
_INSIDE: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 20: "training", 25: "function"},
        "training": {1: "graph", 2: "graph"},
        "function": {7: "node", 11: "attribute"},
        "graph": {1: "node", 5: "tensor", 15: "sparse"},
        "node": {5: "attribute"},
        "attribute": {
            **{5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"}
        },
        "sparse": {1: "tensor", 2: "tensor"},
    }
)
_IR_VERSION, _GRAPH = 1, 7
_MODEL = frozenset({*range(1, 9), 14, 20, 25, 26})
_NUMBERS_OF_MODEL = frozenset({_IR_VERSION, 5})
_OUTPUT = 2  # of a node
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_AS_THEY_ARE = (4, _RAW, 10)  # float_data and double_data are packed as they lie in memory
_VARINTS = (5, 7, 11)
_KEYS = ("location", "offset", "length")
_DEEPEST = 100  # messages in messages; protobuf goes as far
_MOST_DIMENSIONS = 64
_LONGEST_TEXT = 1 << 12
_LEVELS = 3  # of folders in which a model is looked for that has its data in a file


class _Place(NamedTuple):
    """Bytes of a file beside the model; where no length is given, those that the tensor takes."""

    location: str
    offset: int
    length: int | None


class _Tensor(NamedTuple):
    """What a message says of a tensor, and where its data are: in the model, or beside it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    place: _Place | None

    @property
    def nbytes(self) -> int:
        """Bytes of its elements; 0 if they are unknown."""
        bits = DTYPES[self.dtype].bits if self.dtype in DTYPES else 0
        return -(-math.prod(self.shape) * bits // 8)

    def entry(self, begin: int, end: int) -> Entry:
        return Entry(self.name, self.dtype, self.shape, begin, end)


class Onnx(Listed):
    """ONNX models. Constants without a name are called as what they are the output of."""

    name = "onnx"
    suffix = ".onnx"
    loads = "onnx"
    has_others = True

    def _tensors(self, file: BinaryIO, size: int, name: str) -> Iterator[Entry]:
        for tensor in _read(file, size, name):
            if tensor.end > tensor.begin:
                yield tensor.entry(tensor.begin, tensor.end)

    def others(self, file: BinaryIO, name: str) -> list[str]:
        size = os.fstat(file.fileno()).st_size
        places = (tensor.place for tensor in _read(file, size, name))
        return sorted({place.location for place in places if place})


class OnnxData(Listed):
    """Files with weights of an ONNX model in their folder or above, which is read to name them."""

    name = "onnx-data"
    strict = False

    def _tensors(self, file: BinaryIO, size: int, name: str) -> Iterator[Entry]:
        found = _beside(Path(name))
        if not found:
            raise AnotherFormatError(f"no ONNX model beside {name} names it")
        for tensor, place in found:
            length = tensor.nbytes if place.length is None else place.length
            yield tensor.entry(place.offset, place.offset + length)


def _beside(path: Path) -> list[tuple[_Tensor, _Place]]:
    """The tensors that models in the folder of a file, or a little above, have in it."""
    found = []
    for folder in path.parents[:_LEVELS]:
        name = str(path.relative_to(folder))
        for model in _models(folder):
            tensors = _of_model(model, state_of(model))
            found += [(t, t.place) for t in tensors if t.place and t.place.location == name]
    return found


def _models(folder: Path) -> list[Path]:
    """Files in a folder that are called ONNX models. It is listed for each file that may be data of
    theirs, so that nothing is done with the others.
    """
    try:
        names = os.listdir(folder)
    except OSError:  # as if there were none
        return []
    return [folder / name for name in sorted(names) if name.lower().endswith(".onnx")]


@lru_cache(maxsize=1024)
def _of_model(path: Path, state: State | None) -> tuple[_Tensor, ...]:
    """The tensors of a model that lie beside it; none if it cannot be read.

    Kept, as hundreds of files may be looked for in hundreds of models; ``state`` tells whether it
    is the one that was read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return tuple(tensor for tensor in _read(file, size, str(path)) if tensor.place)
    except (FormatError, OSError):
        return ()


def _read(file: BinaryIO, size: int, name: str) -> Iterator[_Tensor]:
    """Every tensor of a model."""
    _require_model(Reader(file, name, 0, size))
    for number, tensor in enumerate(_inside(Reader(file, name, 0, size), "model", "", 0)):
        if number == MOST_TENSORS:
            raise FormatError(f"{name} has more than {MOST_TENSORS} tensors")
        yield tensor


def _require_model(reader: Reader) -> None:
    """Refuse what is no model. Nothing says that it is one: it is a message that fits."""
    seen = set()
    try:
        for number, value in fields(reader):
            if number not in _MODEL or isinstance(value, int) != (number in _NUMBERS_OF_MODEL):
                raise FormatError(f"field {number} is unknown")
            seen.add(number)
    except FormatError as error:
        raise AnotherFormatError(
            f"{reader.name} is no ONNX model, or it is truncated or damaged ({error})"
        ) from None
    if not {_IR_VERSION, _GRAPH} <= seen:
        raise AnotherFormatError(f"{reader.name} is no ONNX model: it has no version, or no graph")


def _inside(reader: Reader, kind: str, owner: str, depth: int) -> Iterator[_Tensor]:
    """The tensors in a message; ``owner`` is a name for one that has none."""
    if depth > _DEEPEST:
        raise FormatError(f"{reader.name} is damaged: its graphs have no end")
    if kind == "tensor":
        yield _tensor(reader, owner)
        return
    if kind == "node":
        owner = _output(reader.again()) or owner
    for number, value in fields(reader):
        inner = _INSIDE[kind].get(number)
        if inner and isinstance(value, Reader):
            yield from _inside(value, inner, owner, depth + 1)


def _output(reader: Reader) -> str:
    """The name of a node's first output."""
    for number, value in fields(reader):
        if number == _OUTPUT and isinstance(value, Reader):
            return _text(value)
    return ""


def _tensor(reader: Reader, owner: str) -> _Tensor:
    name, dtype, is_beside = "", "UNKNOWN", False
    shape: list[int] = []
    texts: dict[str, str] = {}
    data: list[tuple[int, Reader]] = []
    for number, value in fields(reader):
        if isinstance(value, int):
            if number == _DIMS:
                if len(shape) <= _MOST_DIMENSIONS:
                    shape.append(value)
            elif number == _TYPE:
                dtype = _DTYPES.get(value, f"ONNX_{value}")
            is_beside |= number == _LOCATION and value == 1
        elif number == _DIMS:  # packed
            while value.at < value.end and len(shape) <= _MOST_DIMENSIONS:
                shape.append(varint(value))
        elif number == _NAME:
            name = _text(value)
        elif number == _EXTERNAL:
            key, text = _pair(value)
            if key in _KEYS:
                texts[key] = text
        elif number in (*_AS_THEY_ARE, *_VARINTS):
            data = [*data[:1], (number, value)]
    if len(shape) > _MOST_DIMENSIONS or any(size > MOST_BYTES for size in shape):
        raise FormatError(f"{reader.name} is damaged: {name} has no shape that could be")
    found = _Tensor(name or owner, dtype, tuple(shape), 0, 0, None)
    if is_beside:
        return found._replace(place=_place(texts, name, reader.name))
    if len(data) != 1:  # none, or in pieces as no library writes them: what is around tensors
        return found
    [(number, value)] = data
    if number in _VARINTS:
        found = found._replace(dtype="VARINTS", shape=(value.end - value.at,))
    return found._replace(begin=value.at, end=value.end)


def _text(reader: Reader) -> str:
    count = min(reader.end - reader.at, _LONGEST_TEXT)
    return reader.take(count).decode(errors="backslashreplace")


def _pair(reader: Reader) -> tuple[str, str]:
    """A key and its text."""
    found = {number: _text(value) for number, value in fields(reader) if isinstance(value, Reader)}
    return found.get(1, ""), found.get(2, "")


def _place(texts: Mapping[str, str], tensor: str, model: str) -> _Place:
    """Where the data of a tensor are, beside the model."""
    location = os.path.normpath(texts.get("location", ""))
    if os.path.isabs(location) or location.split(os.sep)[0] in ("", ".", ".."):
        raise FormatError(
            f"{model}: {tensor} has its data outside the folder of the model, in {location!r}: "
            "nothing there is read; save the model with its data beside it"
        )
    try:
        offset, length = int(texts.get("offset", "0")), int(texts.get("length", "-1"))
    except ValueError:
        offset = length = -2
    if offset < 0 or length < -1 or offset + length > MOST_BYTES:
        raise FormatError(f"{model} is damaged: {tensor} has no place in {location!r}")
    return _Place(location, offset, None if length < 0 else length)
