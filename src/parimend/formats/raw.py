"""Files of unknown formats: one tensor of bytes, so that anything can be protected."""

from __future__ import annotations

import os
from typing import BinaryIO

from parimend.errors import FormatError
from parimend.formats.base import MOST_BYTES, Bytes, Entry, Format, Layout

TENSOR = "bytes"
"""Name of the tensor."""
_FRAME = 8  # bytes


class Raw(Format):
    """Any file that is not empty. The frame is its size (u64, little-endian).

    >>> layout = Raw().unfold(Raw.frame(3000), "example")
    >>> layout.entries, layout.spans
    ((Entry(name='bytes', dtype='U8', shape=(3000,), begin=0, end=3000),), ())
    """

    name = "raw"
    strict = False
    loads = "torch"

    def parse(self, file: BinaryIO, name: str) -> Layout:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise FormatError(f"{name} is empty: there is nothing in it to protect")
        return self.unfold(self.frame(size), name)

    def unfold(self, frame: Bytes, name: str) -> Layout:
        size = int.from_bytes(frame, "little")
        if len(frame) != _FRAME or not 1 <= size <= MOST_BYTES:
            raise FormatError(f"{name} is not the size of a file: {bytes(frame[:_FRAME]).hex()}")
        return Layout(self, (Entry(TENSOR, "U8", (size,), 0, size),), size, frame, ())

    @staticmethod
    def frame(size: int) -> bytes:
        """The frame of a file of ``size`` bytes."""
        return size.to_bytes(_FRAME, "little")
