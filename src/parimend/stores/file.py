"""The tensors of a file: read piece by piece, changed in a copy only."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from parimend.formats import Layout
from parimend.lasting import cached_property
from parimend.regular import copy_bytes, differing, holds, read_at, unreadable, write_at
from parimend.stores.base import Tensors
from parimend.words.layout import Part, whole

Progress = Callable[[int], None]
"""Called with the number of bytes of every read, from any thread."""
PROGRESS = "a function of a number of bytes"
"""The same in words."""


def silent(count: int) -> None:
    """No progress to be shown."""


class FileTensors(Tensors):
    """The tensors of an open file.

    Memory stays flat however large the file is. What is missing at the end reads as zeros.

    Args:
        file: open for reading, and for writing if it is to be changed.
        layout: what the file should be made of.
        progress: see `Progress`.
        threads: see `Tensors.threads`.
    """

    def __init__(
        self,
        file: BinaryIO,
        layout: Layout,
        progress: Progress = silent,
        threads: int | None = None,
    ) -> None:
        self.threads = threads
        self.layout = layout
        self._file = file
        self._progress = progress
        self._places = {entry.name: entry.begin for entry in layout.entries}
        self.size = layout.size
        """Bytes that the file should have."""
        state = os.fstat(file.fileno())
        self.found = state.st_size
        """Bytes that it has."""
        self.written = state.st_mtime
        """When it was written last, in seconds since 1970."""

    @cached_property
    def has_header(self) -> bool:
        """Whether what belongs to no tensor is as it should be."""
        return self.has_header_until(self.size)

    def has_header_until(self, end: int) -> bool:
        """Whether what belongs to no tensor is as it should be before some byte of the file."""
        before = [(at, data[: end - at]) for at, data in self.layout.spans if at < end]
        is_right = all(holds(self._file, at, data) for at, data in before)
        return is_right and not any(self._lost(at, at + len(data)) for at, data in before)

    def header_damage(self) -> tuple[int, int]:
        """How many bytes that belong to no tensor are wrong, and how many are there."""
        there = [(at, data[: self.found - at]) for at, data in self.layout.spans if at < self.found]
        wrong = sum(differing(self._file, at, data) for at, data in there)
        return wrong, sum(len(data) for _, data in there)

    def whole(self) -> tuple[Part, ...]:
        return self.layout.parts

    def _read(self, part: Part) -> NDArray[np.uint8]:
        data = read_at(self._file, self.place(part), part.nbytes)
        self._progress(data.size)
        return data

    def _write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        at = self.place(part)
        if elements is None:
            write_at(self._file, at, values)
        else:
            for element, value in zip(elements.tolist(), values, strict=True):
                write_at(self._file, at + element * value.size, value)

    def missing(self, part: Part) -> int:
        """Bytes of a part that lie behind the end of the file."""
        return sum(end - begin for begin, end in self._cut(part))

    def _cut(self, part: Part) -> list[tuple[int, int]]:
        """Which ones; the part's first byte is 0."""
        begin, end = max(self.found - self.place(part), 0), part.nbytes
        return [(begin, end)] if self.found < self.size and begin < end else []

    @property
    def unreadable_bytes(self) -> list[tuple[int, int]]:
        """What the disk did not give of the file so far: pairs of the first byte and the one after
        the last.
        """
        return unreadable(self._file)

    def unreadable(self, part: Part) -> list[tuple[int, int]]:
        """The same of a part, whose first byte is 0."""
        at = self.place(part)
        return [(begin - at, end - at) for begin, end in self._lost(at, at + part.nbytes)]

    def absent(self, part: Part) -> list[tuple[int, int]]:
        """All of a part that is not there, unreadable or missing; zeros stand for it."""
        return self.unreadable(part) + self._cut(part)

    def _lost(self, first: int, last: int) -> list[tuple[int, int]]:
        """What the disk did not give of some bytes."""
        cut = ((max(begin, first), min(end, last)) for begin, end in self.unreadable_bytes)
        return [(begin, end) for begin, end in cut if begin < end]

    def is_cut(self, part: Part) -> bool:
        """Whether the end of a part lies behind the end of the file, whoever knows its bytes."""
        return self.place(part) + part.nbytes > self.found

    def place(self, part: Part) -> int:
        """Where a part begins in the file."""
        return self._places[part.name] + part.start * part.itemsize


class LoadedTensors(Tensors):
    """A copy of tensors in memory.

    Args:
        tensors: read once, here.
        parts: of them, at most one of each; a part of a tensor becomes a flat tensor of its name.
            All tensors by default.
    """

    def __init__(self, tensors: Tensors, parts: Sequence[Part] | None = None) -> None:
        taken = tensors.whole() if parts is None else parts
        self._parts = tuple(
            part if parts is None else whole(part.name, part.dtype, (part.count,)) for part in taken
        )
        self.data = {part.name: tensors.read(part).copy() for part in taken}
        """The bytes of every tensor, by its name."""

    def whole(self) -> tuple[Part, ...]:
        return self._parts

    def copies(self, part: Part) -> bool:
        return bool(part.mask)

    def _read(self, part: Part) -> NDArray[np.uint8]:
        size = part.itemsize
        return self.data[part.name][part.start * size : (part.start + part.count) * size]

    def _write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        rows = self._read(part).reshape(part.count, part.itemsize)
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

    def _read(self, part: Part) -> NDArray[np.uint8]:
        return self._tensors._read(part)

    def _write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        self._tensors._write(part, elements, values)


def copy_data(source: BinaryIO, new: BinaryIO, layout: Layout, size: int) -> None:
    """Fill ``new``: the tensors as they are in ``source``, what is around them as it should be.

    It gets ``size`` bytes, cut or with zeros at its end.
    """
    copy_bytes(source, new, size)
    for at, data in layout.spans:
        new.seek(at)
        new.write(data)
    new.flush()  # from here on it is read and written without a buffer
    new.truncate(size)
