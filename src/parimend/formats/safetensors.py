"""The safetensors format: a header that lists the tensors, then their data."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from parimend.errors import AnotherFormatError, FormatError
from parimend.formats.base import Bytes, Entry, Format, Layout
from parimend.formats.header import (
    MAX_LENGTH,
    METADATA,
    PREFIX,
    Spans,
    header_length,
    parse_header,
)
from parimend.formats.searching import decode, search
from parimend.regular import read_at

KEY = "parimend"
"""Name of the seal among the file's texts."""


@dataclass(frozen=True, repr=False)
class Header(Layout):
    """What the header of a file says; its bytes are the frame.

    Attributes:
        texts: where in the frame the file's own texts stand.
    """

    texts: Spans = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own texts by name, read anew: they may be long."""
        return {name: self.text(name) for name in self.texts}

    def text(self, name: str) -> str:
        """One of them."""
        begin, end = self.texts[name]
        return json.loads(str(self.frame[begin:end], "utf-8"))


class Safetensors(Format):
    """Files of the safetensors library. The frame is the header, with its length and padding.

    A seal stands in the header, as base64 under ``parimend`` in its ``__metadata__``.
    """

    name = "safetensors"
    suffix = ".safetensors"
    loads = "tensors"
    holds_seal = True

    def parse(self, file: BinaryIO, name: str) -> Header:
        size = os.fstat(file.fileno()).st_size
        prefix = read_at(file, 0, min(PREFIX, size)).tobytes()
        try:
            frame = read_at(file, 0, header_length(prefix, size, name)).tobytes()
            header = self.unfold(frame, name)
        except FormatError as error:
            raise AnotherFormatError(str(error)) from None
        if size < header.size:
            raise FormatError(
                f"{name} is truncated: it has {size} bytes instead of {header.size}, "
                f"{header.size - size} are missing at its end"
            )
        if size > header.size:
            raise FormatError(
                f"{name} has {size - header.size} bytes more than its header describes"
            )
        return header

    def unfold(self, frame: Bytes, name: str) -> Header:
        if header_length(bytes(frame[:PREFIX]), len(frame), name) != len(frame):
            raise FormatError(
                f"{name}: the header has {len(frame)} bytes, which is not what it says"
            )
        try:
            entries, texts = parse_header(frame)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{name}: the header is damaged: {error}") from None
        size = entries[-1].end if entries else len(frame)
        return Header(self, entries, size, frame, ((0, frame),), texts)

    def described(self, entries: Sequence[Entry], metadata: Mapping[str, str]) -> Header:
        """The header of a file with these tensors and texts, written anew.

        Args:
            entries: in the order of their data; only the distances of their places matter.
            metadata: texts by name.

        Example:
            >>> header = Safetensors().described([Entry("w", "F32", (2,), 0, 8)], {"by": "me"})
            >>> header.frame[8:]
            b'{"__metadata__":{"by":"me"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   '
        """
        text: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
        start = entries[0].begin if entries else 0
        for entry in entries:
            text[entry.name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [entry.begin - start, entry.end - start],
            }
        encoded = json.dumps(text, separators=(",", ":"), ensure_ascii=False).encode()
        encoded += b" " * (-len(encoded) % 8)  # the data begins at a multiple of 8 bytes
        return self.unfold(struct.pack("<Q", len(encoded)) + encoded, "the new header")

    def seal_in(self, layout: Layout) -> bytes | None:
        assert isinstance(layout, Header)
        return decode(layout.text(KEY).encode()) if KEY in layout.texts else None

    def with_seal(self, layout: Layout, seal: bytes | None) -> Layout:
        assert isinstance(layout, Header)
        others = {name: text for name, text in layout.metadata.items() if name != KEY}
        # First: it is the place where a damaged header is searched for it.
        own = {} if seal is None else {KEY: base64.b64encode(seal).decode()}
        return self.described(layout.entries, {**own, **others})

    def seals_in(self, file: BinaryIO, name: str) -> Iterator[bytes]:
        stop = min(os.fstat(file.fileno()).st_size, PREFIX + MAX_LENGTH)
        try:
            header = self.parse(file, name)
        except FormatError:
            pass
        else:
            if seal := self.seal_in(header):
                yield seal
            stop = len(header.frame)
        yield from search(file, stop)
