"""What every format promises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

from numpy.typing import NDArray

from parimend.dtypes import DTYPES
from parimend.errors import FormatError
from parimend.lasting import cached_property
from parimend.words.layout import Part, whole

Bytes = bytes | memoryview
"""Bytes of a file, which may be a part of something larger."""
MOST_BYTES = 1 << 62
"""Bytes of the largest file that a frame may describe."""


class Entry(NamedTuple):
    """One tensor of a file.

    Attributes:
        name, dtype, shape: as the file gives them.
        begin, end: its bytes, counted from the beginning of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def part(self) -> Part:
        """The whole tensor; one whose elements are no whole bytes, or unknown, as its bytes.

        Formats may give one name to different things: what does not fit a known one is unknown.

        >>> Entry("w", "F4", (3, 4), 0, 6).part()
        Part(name='w', dtype='U8', shape=(6,), start=0, count=6, exponent=0, mask=0)
        """
        dtype, size = DTYPES.get(self.dtype), self.end - self.begin
        if dtype is None or dtype.packed or math.prod(self.shape) * dtype.itemsize != size:
            return whole(self.name, "U8", (size,))
        return whole(self.name, self.dtype, self.shape)


@dataclass(frozen=True, repr=False)
class Layout:
    """What a file is made of.

    Every byte of the file belongs to one tensor or to one span, and to no other.

    Attributes:
        format: of the file.
        entries: the tensors, in the order of their data.
        size: bytes of the file.
        frame: all that a restorer needs beside the tensors: what `Format.unfold` makes the layout
            of. Only the format knows what is in it.
        spans: the bytes that belong to no tensor, with their places in the file, in order.
    """

    format: Format
    entries: tuple[Entry, ...]
    size: int
    frame: Bytes
    spans: tuple[tuple[int, Bytes], ...]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every tensor as one part, in the order of the data."""
        return tuple(entry.part() for entry in self.entries)

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.end - entry.begin for entry in self.entries)

    @property
    def span_bytes(self) -> int:
        """Bytes that belong to no tensor."""
        return sum(len(data) for _, data in self.spans)

    def write(self, file: BinaryIO, data: Mapping[str, NDArray[Any]]) -> None:
        """Put the file together.

        Args:
            file: empty, open for writing.
            data: the bytes of every tensor, by its name.
        """
        pieces = [(entry.begin, data[entry.name].data) for entry in self.entries]
        for at, piece in sorted([*self.spans, *pieces], key=lambda found: found[0]):
            file.seek(at)
            file.write(piece)

    def __repr__(self) -> str:
        return f"<Layout: {self.format.name}, {len(self.entries)} tensors in {self.size} bytes>"


class Format(ABC):
    """How files of one kind are written.

    Formats know nothing of codes and carriers, and have no state. The work and the memory that
    reading takes are proportional to the bytes that are there, whatever these claim.
    """

    name: ClassVar[str]
    """By which seals name it: at most a few letters, for ever."""
    suffix: ClassVar[str] = ""
    """What the names of such files end in: a file that is so called must be one. May be empty."""
    strict: ClassVar[bool] = True
    """Whether such a file can be told from any other, because `parse` refuses what is none."""
    loads: ClassVar[Literal["tensors", "torch", "numpy", "gguf", "onnx", ""]] = ""
    """What `parimend.load_file` makes of such a file: its tensors by name, or what the library of
    that name makes of it; nothing, if it is only a part of something."""
    has_others: ClassVar[bool] = False
    """Whether other files may hold the rest of the tensors; see `others`."""
    holds_seal: ClassVar[bool] = False
    """Whether there is a place for a seal in such a file."""

    @abstractmethod
    def parse(self, file: BinaryIO, name: str) -> Layout:
        """What a whole and well-formed file is made of.

        Args:
            file: open for reading.
            name: of the file: its path, for messages and for what lies beside it.

        Raises:
            AnotherFormatError: if it does not look like one.
            FormatError: if it is damaged, cut, or longer than it should be.
        """

    @abstractmethod
    def unfold(self, frame: Bytes, name: str) -> Layout:
        """The layout that has this frame, without the file.

        Args:
            frame: that of a layout that `parse` returned, or anything else.
            name: of what it was found in, for messages.

        Raises:
            FormatError: if it is no frame of this format.
        """

    def others(self, file: BinaryIO, name: str) -> list[str]:
        """Names of the files that hold the rest of a whole file's tensors, from its folder on.

        Args:
            file: open for reading.
            name: of the file, for messages.

        Raises:
            FormatError: if it cannot be read, or they are outside its folder.
        """
        return []

    def seal_in(self, layout: Layout) -> bytes | None:
        """The seal that a whole file holds, as it stands there; None if it holds none."""
        return None

    def with_seal(self, layout: Layout, seal: bytes | None) -> Layout:
        """The layout of the same tensors in a file with a seal in it, instead of another; or none.

        Raises:
            FormatError: if there is no place for it.
        """
        raise FormatError(f"{self.name} files have no place for a seal: use carrier='sidecar'")

    def seals_in(self, file: BinaryIO, name: str) -> Iterator[bytes]:
        """What could be the seal in a file that may be damaged.

        Args:
            file: open for reading.
            name: of the file, for messages.

        Returns:
            Armored data, probably damaged, the likeliest first; nothing if nothing looks like one.
        """
        return iter(())
