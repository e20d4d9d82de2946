"""Where the seal of a file is, and what the file should look like according to it.

A ``sidecar`` seal lies beside the file, as ``NAME.parimend``. The other carriers put theirs into
the header of a safetensors file, as base64 under ``parimend`` in its ``__metadata__``.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from parimend.errors import FormatError, SealError
from parimend.files.searching import decode, search
from parimend.files.tensors import read_at
from parimend.regular import read_regular
from parimend.seal import HEADER, MAX_BYTES, Seal, Unsealed, unsealed
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
        seal, header, is_intact = load_sidecar(beside)
    except FileNotFoundError:
        try:
            return _inside(file, path)
        except SealError:
            beside = path.with_suffix(SUFFIX)
            if not _is_of_model(beside, path):
                raise
        seal, header, is_intact = load_sidecar(beside)
    if HEADER not in seal.blobs:  # a model's own seal, saved beside the file it was loaded from
        header = read_header(file, str(path))
    elif header is None:
        header = _bytes_only(_sealed_size(seal, beside))
    return Sealed(seal, header, beside, is_intact)


def load_sidecar(beside: Path) -> Unsealed:
    """The seal in a sidecar.

    Raises:
        SealError, FormatError: if it cannot be read.
        OSError: if there is none.
    """
    return unsealed(read_regular(beside, MAX_BYTES), str(beside))


def _is_of_model(beside: Path, path: Path) -> bool:
    """Whether a seal is that of a live model, saved as ``model.parimend`` for its safetensors file.

    A sidecar of that name would belong to a file called ``model``.
    """
    if path.suffix != ".safetensors" or not beside.is_file():
        return False
    return HEADER not in load_sidecar(beside)[0].blobs


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
    # First: it is the place where a damaged header is searched for it.
    others = {name: value for name, value in header.metadata.items() if name != KEY}
    return header.with_metadata({KEY: text, **others})


def _inside(file: BinaryIO, path: Path) -> Sealed:
    problem = ""
    for data in _candidates(file, path):
        try:
            seal, header, _ = unsealed(data, str(path))
        except SealError as error:
            problem = f"{path}: the seal inside it cannot be read: {error}"
            continue
        if header is not None:
            return Sealed(seal, with_seal(header, seal), None)
    raise SealError(problem or _why_unprotected(file, path))


def _why_unprotected(file: BinaryIO, path: Path) -> str:
    """A damaged file is not to be protected as it is."""
    if path.suffix == ".safetensors":
        try:
            read_header(file, str(path))
        except FormatError as error:
            return (
                f"{path} is damaged ({error}) and not protected: no seal of it is found, so that "
                "it cannot be repaired here; fetch it again"
            )
    return (
        f"{path} is not protected: there is no {sidecar_of(path).name} beside it and no seal in it "
        f"(parimend protect {path} makes one)"
    )


def _candidates(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """What may be the seal in a header, armored."""
    stop = min(os.fstat(file.fileno()).st_size, PREFIX + MAX_LENGTH)
    try:
        header = read_header(file, str(path))
    except FormatError:
        pass
    else:
        if text := header.metadata.get(KEY):
            yield decode(text.encode())
        stop = len(header.raw)
    yield from search(file, stop)
