"""The tensors of a file, for `parimend.carriers`: read piece by piece, changed in a copy only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from parimend.stores.base import Tensors
from parimend.words.bits import item_size
from parimend.words.header import Header
from parimend.words.layout import Part

_COPY_BYTES = 1 << 22

Progress = Callable[[int], None]
"""Called with the number of bytes of every read, from any thread."""


def silent(count: int) -> None:
    """No progress to be shown."""


class FileTensors(Tensors):
    """The tensors of an open file.

    Nothing is mapped into memory: a page that cannot be read is then an exception and no crash, and
    memory stays flat however large the file is. What is missing at the end reads as zeros.

    Args:
        file: open for reading, and for writing if it is to be changed.
        header: how the file should begin and what should follow.
        progress: see `Progress`.
    """

    def __init__(self, file: BinaryIO, header: Header, progress: Progress = silent) -> None:
        self._file = file
        self._progress = progress
        self._parts = header.parts
        self._raw = header.raw
        self._places = {e.name: len(header.raw) + e.begin for e in header.entries}
        self.size = len(header.raw) + header.data_bytes
        """Bytes that the file should have."""
        self.look()

    def look(self) -> None:
        """See how the file begins and how long it is."""
        self.found = os.fstat(self._file.fileno()).st_size
        """Bytes that it has."""
        self.has_header = begins_with(self._file, self._raw)
        """Whether it begins as it should."""

    def whole(self) -> tuple[Part, ...]:
        return self._parts

    def read(self, part: Part) -> NDArray[np.uint8]:
        size = item_size(part.dtype)
        data = read_at(self._file, self._places[part.name] + part.start * size, part.count * size)
        self._progress(data.size)
        return data

    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        at = self._places[part.name] + part.start * item_size(part.dtype)
        if elements is None:
            write_at(self._file, at, values)
        else:
            for element, value in zip(elements.tolist(), values, strict=True):
                write_at(self._file, at + element * value.size, value)

    def missing(self, part: Part) -> int:
        """Bytes of a part that lie behind the end of the file."""
        size = part.count * item_size(part.dtype)
        end = self._places[part.name] + part.start * item_size(part.dtype) + size
        return min(max(end - self.found, 0), size)


class LoadedTensors(Tensors):
    """The tensors of a file, in memory.

    Args:
        tensors: read once, here.
    """

    def __init__(self, tensors: FileTensors) -> None:
        self._parts = tuple(tensors.whole())
        self.data = {part.name: tensors.read(part) for part in self._parts}
        """The bytes of every tensor, by its name."""

    def whole(self) -> tuple[Part, ...]:
        return self._parts

    def read(self, part: Part) -> NDArray[np.uint8]:
        size = item_size(part.dtype)
        return self.data[part.name][part.start * size : (part.start + part.count) * size]

    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        rows = self.read(part).reshape(part.count, -1)
        rows[... if elements is None else elements] = values


class ChosenTensors(Tensors):
    """Some of the tensors of a file, to be protected.

    Args:
        tensors: all of them.
        names: of those that are chosen; None for all.
    """

    def __init__(self, tensors: FileTensors | LoadedTensors, names: Collection[str] | None) -> None:
        self._parts = tuple(part for part in tensors.whole() if names is None or part.name in names)
        self._tensors = tensors

    def whole(self) -> tuple[Part, ...]:
        return self._parts

    def read(self, part: Part) -> NDArray[np.uint8]:
        return self._tensors.read(part)

    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        self._tensors.write(part, elements, values)


def copy_data(
    source: BinaryIO, skip: int, new: BinaryIO, raw: bytes | memoryview, size: int
) -> None:
    """Fill ``new``: ``raw``, then what follows the first ``skip`` bytes of ``source``.

    It gets ``size`` bytes, cut or with zeros at its end.
    """
    new.write(raw)
    source.seek(skip)
    shutil.copyfileobj(source, new, _COPY_BYTES)
    new.flush()  # from here on it is read and written without a buffer
    new.truncate(size)


def read_at(file: BinaryIO, at: int, count: int) -> NDArray[np.uint8]:
    """Bytes of a file; zeros beyond its end."""
    data = np.empty(count, np.uint8)
    done = 0
    while done < count:
        got = os.preadv(file.fileno(), [data[done:].data], at + done)
        if not got:
            data[done:] = 0
            break
        done += got
    return data


def begins_with(file: BinaryIO, raw: bytes | memoryview) -> bool:
    """Whether a file begins with some bytes; read in pieces, as a header may be large."""
    expected = np.frombuffer(raw, np.uint8)
    pieces = (expected[at : at + _COPY_BYTES] for at in range(0, expected.size, _COPY_BYTES))
    return all(
        np.array_equal(read_at(file, k * _COPY_BYTES, piece.size), piece)
        for k, piece in enumerate(pieces)
    )


def write_at(file: BinaryIO, at: int, values: NDArray[np.uint8]) -> None:
    """Put bytes into a file."""
    data = np.ascontiguousarray(values).reshape(-1).data
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data[done:], at + done)
