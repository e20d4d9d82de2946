"""Reading a file from one place to another, a little at a time."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from parimend.errors import FormatError
from parimend.regular import read_at

_MOST = 1 << 26  # bytes that are taken at once: names and the like are not longer


class Reader:
    """Takes values from a file, one after the other, in bounded memory.

    Args:
        file: open for reading.
        name: of the file, for messages.
        at: where to begin.
        end: where to end; never read beyond.
        ahead: bytes that are read together.

    Attributes:
        at: the place of the next byte.
        end: where it ends.
    """

    def __init__(self, file: BinaryIO, name: str, at: int, end: int, ahead: int = 1 << 16) -> None:
        self._file, self.name, self.at, self.end = file, name, at, end
        self._together = ahead
        self._start, self._ahead = at, b""

    def again(self) -> Reader:
        """Another reader of what this one has not read yet."""
        other = Reader(self._file, self.name, self.at, self.end, self._together)
        other._start, other._ahead = self._start, self._ahead
        return other

    def within(self, count: int) -> Reader:
        """A reader of the next ``count`` bytes, which this one skips."""
        inside = self.again()
        self.skip(count)
        inside.end = self.at
        return inside

    def skip(self, count: int) -> None:
        """Leave bytes out.

        Raises:
            FormatError: if there are not so many.
        """
        if not 0 <= count <= self.end - self.at:
            raise FormatError(
                f"{self.name} is truncated or damaged: {count} bytes should follow at byte "
                f"{self.at}, where {self.end - self.at} are left"
            )
        self.at += count

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            FormatError: if there are not so many, or too many to be asked for.
        """
        if count > _MOST:
            raise FormatError(f"{self.name} is damaged: something at byte {self.at} is too long")
        begin = self.at
        self.skip(count)
        if self._start <= begin and self.at <= self._start + len(self._ahead):
            return self._ahead[begin - self._start : self.at - self._start]
        ahead = min(max(count, self._together), self.end - begin)
        self._start, self._ahead = begin, read_at(self._file, begin, ahead).tobytes()
        return self._ahead[:count]

    def byte(self) -> int:
        """The next byte; see `take`."""
        at = self.at - self._start
        if not 0 <= at < len(self._ahead) or self.at >= self.end:
            return self.take(1)[0]
        self.at += 1
        return self._ahead[at]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The values of a fixed layout."""
        return layout.unpack(self.take(layout.size))
