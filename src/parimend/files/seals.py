"""Where the seal of a file is, and what the file should look like according to it.

A ``sidecar`` seal lies beside the file, as ``NAME.parimend``. The other carriers put theirs into
the header of a safetensors file, as base64 under ``parimend`` in its ``__metadata__``.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from parimend.armor import armored_length
from parimend.errors import FormatError, SealError
from parimend.files.tensors import read_at
from parimend.regular import read_regular
from parimend.seal import HEADER, MAX_BYTES, Seal
from parimend.words.header import (
    MAX_LENGTH,
    PREFIX,
    Entry,
    Header,
    header_length,
    parse_header,
)

SUFFIX = ".parimend"
"""What a sidecar's name ends in."""
KEY = "parimend"
"""Name of the seal in the metadata of a safetensors file."""
WHOLE = "bytes"
"""Name of the only tensor of a file that is not in the safetensors format."""

_BEGINNING = re.compile(rb'"parimend"\s*:\s*"|(?=UEFSSU1FTkQ)')  # the key, or b"PARIMEND" in base64
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")


@dataclass(frozen=True)
class Sealed:
    """What is known about a file from its seal.

    Attributes:
        seal: as read, repaired if it was damaged.
        header: the header that the file should have.
        path: of the sidecar, or None if the seal is inside the file.
        is_intact: whether the sidecar holds exactly these bytes. (A seal inside the file is a part
            of the header.)
    """

    seal: Seal
    header: Header
    path: Path | None
    is_intact: bool = True


def sidecar_of(path: Path) -> Path:
    """The sidecar of a file.

    >>> sidecar_of(Path("model.safetensors")).name
    'model.safetensors.parimend'
    """
    return path.with_name(path.name + SUFFIX)


def read_header(file: BinaryIO, name: str) -> Header:
    """The header of a whole and well-formed safetensors file.

    Raises:
        FormatError: if the file is not one.
    """
    size = os.fstat(file.fileno()).st_size
    prefix = read_at(file, 0, min(PREFIX, size)).tobytes()
    raw = read_at(file, 0, header_length(prefix, size, name)).tobytes()
    header = parse_header(raw, name)
    expected = len(raw) + header.data_bytes
    if size < expected:
        raise FormatError(
            f"{name} is truncated: it has {size} bytes instead of {expected}, {expected - size} "
            "are missing at its end"
        )
    if size > expected:
        raise FormatError(f"{name} has {size - expected} bytes more than its header describes")
    return header


def layout_of(file: BinaryIO, path: Path) -> Header:
    """The tensors of a file that is to be protected.

    Files in other formats are one tensor of bytes, so that anything can be protected; but a file
    whose name says safetensors must be one.

    Raises:
        FormatError: if it is not, or if the file is empty.
    """
    try:
        return read_header(file, str(path))
    except FormatError:
        size = os.fstat(file.fileno()).st_size
        if path.suffix == ".safetensors" or not size:
            raise
        return _bytes_only(size)


def _bytes_only(size: int) -> Header:
    return Header((Entry(WHOLE, "U8", (size,), 0, size),))


def find_seal(file: BinaryIO, path: Path) -> Sealed:
    """The seal of a file.

    Args:
        file: open for reading.
        path: its path, by which the sidecar is found.

    Raises:
        SealError: if the file is not protected, or its seal cannot be read.
    """
    beside = sidecar_of(path)
    try:
        data = read_regular(beside, MAX_BYTES)
    except FileNotFoundError:
        return _inside(file, path)
    seal = Seal.from_bytes(data, str(beside))
    if HEADER not in seal.blobs:  # a model's own seal, saved beside the file it was loaded from
        header = read_header(file, str(path))
    elif raw := seal.blobs[HEADER]:
        header = parse_header(raw, str(beside))
    else:
        header = _bytes_only(_sealed_size(seal, beside))
    return Sealed(seal, header, beside, data == seal.to_bytes())


def _sealed_size(seal: Seal, beside: Path) -> int:
    parts = {(part.name, part.dtype, part.shape) for word in seal.words for part in word.parts}
    if len(parts) == 1:
        ((name, dtype, shape),) = parts
        if (name, dtype, len(shape)) == (WHOLE, "U8", 1):
            return shape[0]
    raise SealError(f"{beside} does not describe a file")


def with_seal(header: Header, seal: Seal) -> Header:
    """The header with a seal inside."""
    text = base64.b64encode(seal.to_bytes()).decode()
    # First, where a damaged header is searched for it.
    others = {name: value for name, value in header.metadata.items() if name != KEY}
    return header.with_metadata({KEY: text, **others})


def _inside(file: BinaryIO, path: Path) -> Sealed:
    unprotected = SealError(
        f"{path} is not protected: there is no {sidecar_of(path).name} beside it and no seal in it "
        f"(parimend protect {path} makes one)"
    )
    try:
        metadata = read_header(file, str(path)).metadata
        if KEY not in metadata:
            raise unprotected
        candidates = [metadata[KEY].encode()]
    except FormatError:
        candidates = _search(file)
    for text in candidates:
        try:
            seal = Seal.from_bytes(_decode(text), str(path))
            header = parse_header(seal.blobs.get(HEADER, b""), str(path))
        except (SealError, FormatError) as error:
            unprotected = SealError(f"{path}: the seal inside it cannot be read: {error}")
            continue
        return Sealed(seal, with_seal(header, seal), None)
    raise unprotected


def _search(file: BinaryIO) -> list[bytes]:
    """What could be a seal in a damaged header."""
    size = os.fstat(file.fileno()).st_size
    raw = read_at(file, 0, min(size, PREFIX + MAX_LENGTH)).tobytes()
    found = []
    # The seal stands at the beginning. Hostile files may have more beginnings than there are seals.
    for match in _BEGINNING.finditer(raw, 0, 4096):
        rest = raw[match.end() :]
        length = armored_length(_decode(rest[:64]))
        if length is None:
            found.append(rest.partition(b'"')[0])
        else:
            found.append(rest[: -(-length // 3) * 4])
    return found


def _decode(text: bytes) -> bytes:
    """Base64 that may be damaged: a character that cannot be is taken for a wrong one."""
    body = text.rstrip(b"=")
    padding = -len(body) % 4
    decoded = base64.b64decode(_NO_BASE64.sub(b"A", body) + b"A" * padding)
    return decoded[: len(decoded) - padding]
