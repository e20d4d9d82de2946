"""The archives of ``torch.save`` (.pt, .pth, .bin, .ckpt): storages, and a pickle that names them.

The format: https://docs.pytorch.org/docs/stable/notes/serialization.html. In a zip archive without
compression, ``NAME/data.pkl`` says what was saved, and ``NAME/data/0`` and the like are the bytes
of the storages of its tensors. What TorchScript saves has more members, laid out in the same way.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from parimend.dtypes import DTYPES
from parimend.errors import AnotherFormatError, FormatError
from parimend.formats.base import Entry
from parimend.formats.listed import LONGEST_SPAN, Listed
from parimend.formats.pickled import UnreadableError, View, views
from parimend.formats.zipped import STORED, Member, members
from parimend.regular import read_at

_PICKLE = "/data.pkl"
_DATA = "data/"
_STORAGES = (_DATA, "constants/", "tensors/")
_ORDER = "byteorder"


class Torch(Listed):
    """Archives of torch. A tensor is a storage, under the name of a tensor that is all of it.

    A storage of which there are only parts, or that is not row-major, is flat, under the name of
    the first of them; one that the pickle does not name is called as its member.

    >>> import tempfile, torch
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     torch.save({"model": {"w": torch.ones(2, 3)}}, file)
    ...     file.flush()
    ...     Torch().parse(file, "example").entries[0][:3]
    ('model.w', 'F32', (2, 3))
    """

    name = "torch"
    loads = "torch"

    def _tensors(self, file: BinaryIO, size: int, name: str) -> Iterator[Entry]:
        found = members(file, size, name)
        pickles = [member for member in found if member.name.endswith(_PICKLE)]
        if not pickles:
            raise AnotherFormatError(f"{name} is no archive of torch: it has no data.pkl")
        pickle = min(pickles, key=lambda member: len(member.name))
        prefix = pickle.name.removesuffix("data.pkl")
        inside = {m.name.removeprefix(prefix): m for m in found if m.name.startswith(prefix)}
        known = _known(_content(file, pickle, name))
        is_foreign = _ORDER in inside and _content(file, inside[_ORDER], name) == b"big"
        for title, member in inside.items():
            if not title.startswith(_STORAGES):
                continue
            if member.method != STORED:
                yield member.compressed(title)
            else:
                yield _entry(title, member, known.get(title, ()), is_foreign)


def _content(file: BinaryIO, member: Member, name: str) -> bytes:
    """What a member holds; nothing if that is much, or compressed."""
    size = member.end - member.begin
    if member.method != STORED or size > LONGEST_SPAN:
        return b""
    content = read_at(file, member.begin, size).tobytes()
    # Without `torch.serialization.set_crc32_options` all of them are 0.
    if member.crc and zlib.crc32(content) != member.crc:
        raise FormatError(f"{name} is damaged: {member.name} is not as it was written")
    return content


def _known(pickle: bytes) -> dict[str, list[View]]:
    """The tensors that a pickle names, by the members that hold their storages."""
    found: dict[str, list[View]] = {}
    try:
        for view in views(pickle):
            found.setdefault(_DATA + view.storage, []).append(view)
    except UnreadableError:
        return {}  # the names of the members are left
    return found


def _entry(title: str, member: Member, found: Sequence[View], is_foreign: bool) -> Entry:
    size = member.end - member.begin
    first = next((view for view in found if _is_all(view, size)), None)
    if first:
        name, dtype, shape = first.name, first.dtype, first.shape
    else:
        name, dtype = (found[0].name, found[0].dtype) if found else (title, "U8")
        shape = (size // (DTYPES[dtype].itemsize if dtype in DTYPES else 1),)
    # Its numbers are no numbers to this machine.
    dtype += "_BE" if is_foreign else ""
    return Entry(name or title, dtype or "UNKNOWN", shape, member.begin, member.end)


def _is_all(view: View, size: int) -> bool:
    """Whether a tensor is all of a storage of ``size`` bytes, in the order in which they lie."""
    itemsize = DTYPES[view.dtype].itemsize if view.dtype in DTYPES else 0
    return view.is_plain and math.prod(view.shape) * itemsize == size
