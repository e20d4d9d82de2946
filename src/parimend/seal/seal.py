"""The seal: how a model was protected, as a record with a stable byte format.

The payload, little-endian, inside `parimend.armor`::

    length of the text (u32), text, checks, digests of blocks, frame

The text is JSON with sorted keys and no spaces. Its ``tensors`` list ``[name, dtype, shape]`` of
every protected tensor; it is missing if the frame lists them already. Its ``words`` list one object
per word: ``code`` (the spec), ``parts`` (in order: ``[i, j]``, the whole tensors number i to j, or
``[i, start, count, exponent]``, elements of tensor i on a grid; a number more, ``[i, j, mask]`` or
``[i, start, count, exponent, mask]``, if it is only these bits of every element, see `Part.mask`),
``sha256`` (of the bytes of all parts, in hexadecimal; bits that are not theirs are zero; empty if
it was not taken) and ``checks``, the number of bytes that the word's sealed checks take in what
follows the text, as `Code.pack` gives them; where there is one, ``certificate``, as
`Certificate.facts` gives it; and, if there are digests of its blocks (`parimend.codes.blocks`),
``blocks``, the number of bytes that they take. No bit is in two parts. Its ``blobs`` name the
format of the protected file (`parimend.formats`) and the number of bytes of its frame; of a live
model there are none.
"""

from __future__ import annotations

import errno
import html
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from parimend import strict_json
from parimend.arguments import goal_of, path_of, require
from parimend.armor import armor, unarmor
from parimend.atomic import PathLike, atomic
from parimend.codes import Certificate, Code, Promise
from parimend.codes.promise import weakest
from parimend.errors import ParimendError, SealError
from parimend.formats import Bytes, Layout, of_name
from parimend.formats.base import MOST_BYTES
from parimend.formats.raw import Raw
from parimend.lasting import cached_property
from parimend.regular import open_regular, read_whole, unreadable
from parimend.seal.word import SealedWord, entry_of, word_of
from parimend.showing import brief, counted, html_table
from parimend.words.layout import Part, elements_in, whole

VERSION = 2
"""Of seals with digests of blocks; those without are of version 1, as they were before."""
CarrierName = Literal["sidecar", "real", "lowbits"]
"""Where redundancy may live."""
CARRIERS: tuple[str, ...] = get_args(CarrierName)

MOST_ERRORS = (1 << 63) - 1
"""The largest budget of a seal."""
MAX_BYTES = 1 << 28
"""Bytes of the largest seal that is read: enough for ten million errors."""
# What reading a payload may end with that makes no sense.
_UNREADABLE = (
    ParimendError,
    ValueError,
    TypeError,
    LookupError,
    RecursionError,
    MemoryError,
    struct.error,
)
_HEADER = "header"  # the frame in seals made before formats were named


@dataclass(frozen=True, eq=False, repr=False)
class Seal:
    """How a model was protected; everything that checking and repairing needs beside the weights.

    Attributes:
        carrier: one of `CARRIERS`.
        errors: number of wrong 32-bit words that each protected word is made to repair, at least;
            `promise` says how that is known.
        words: the protected words.
        notes: further facts as JSON values, not used in checking.
        blobs: of a file its `parimend.formats.Layout.frame`, by the name of its format; of a live
            model nothing.
    """

    carrier: str
    errors: int
    words: tuple[SealedWord, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)
    blobs: Mapping[str, Bytes] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The seal as armored bytes; equal seals give equal bytes.

        Raises:
            SealError: if it is larger than what is read as one.
        """
        checks = [word.code.pack(word.target) for word in self.words]
        tensors = self._tensors()
        number = {tensor.name: i for i, tensor in enumerate(tensors)}
        blocks = [word.blocks for word in self.words]
        text = {
            "version": VERSION if any(blocks) else 1,
            "carrier": self.carrier,
            "errors": self.errors,
            "words": [
                entry_of(word, number, len(data))
                for word, data in zip(self.words, checks, strict=True)
            ],
            "notes": dict(self.notes),
            "blobs": {name: len(data) for name, data in self.blobs.items()},
        }
        if not _lists_tensors(self.blobs):
            text["tensors"] = [[part.name, part.dtype, list(part.shape)] for part in tensors]
        encoded = json.dumps(text, sort_keys=True, separators=(",", ":")).encode()
        tail = b"".join(self.blobs[name] for name in sorted(self.blobs))
        data = armor(struct.pack("<I", len(encoded)) + encoded + b"".join(checks + blocks) + tail)
        if len(data) > MAX_BYTES:
            raise SealError(
                f"the seal would have {len(data)} bytes, and none of more than {MAX_BYTES} is "
                "read: ask for fewer errors, or protect fewer tensors or files together"
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, name: str = "seal") -> Seal:
        """Read what `to_bytes` wrote, repairing it if it is damaged.

        Args:
            data: the bytes.
            name: of the file, for messages.

        Raises:
            SealError: if it is no seal, newer than this version, or damaged beyond repair.
            SpecError: if ``data`` are no bytes.
        """
        require(data, "data", "the bytes of a seal", bytes, bytearray, memoryview)
        return _of_its_own(unsealed(data, name).seal)

    def save(self, path: PathLike) -> None:
        """Write the seal to a file, all or nothing.

        Raises:
            OSError: if the file cannot be written.
            BusyError: if another process is writing it.
        """
        with atomic(goal_of(path)) as file:
            file.write(self.to_bytes())

    @classmethod
    def load(cls, path: PathLike) -> Seal:
        """Read a seal from a file.

        Raises:
            SealError: see `from_bytes`.
            FormatError: if it is no regular file, or too large for a seal.
            OSError: if the file cannot be read.
        """
        return _of_its_own(read_unsealed(path_of(path)).seal)

    def _tensors(self) -> Sequence[Part]:
        """The tensors that parts refer to by number, whole."""
        if _lists_tensors(self.blobs):
            return _unfolded(self.blobs).parts
        names = {part.name: part for word in self.words for part in word.parts}
        return [whole(part.name, part.dtype, part.shape) for part in names.values()]

    @cached_property
    def covered(self) -> int:
        """Number of protected elements; see `parimend.words.layout.elements_in`."""
        return elements_in(part for sealed in self.words for part in sealed.parts)

    @property
    def promise(self) -> Promise:
        """What is promised of each of the words: what is guaranteed, bound and measured."""
        return weakest(word.promise(self.errors) for word in self.words)

    def verify_certificates(self) -> None:
        """Prove what the certificates of the words state again, from their codes alone.

        Takes as long as asking for them did, some seconds each; words of one code have one. A
        sidecar needs none: what it guarantees is proven for every code of its family.

        Raises:
            SealError: if a word has no certificate, or one that is not that of its code; names it.

        Example:
            >>> import torch
            >>> from parimend import Real, protect_
            >>> w = {"w": torch.linspace(-1, 1, 5120)}
            >>> seal = protect_(w, errors=210, carrier=Real(rows=320), guaranteed=3)
            >>> seal.promise.guaranteed
            3
            >>> seal.verify_certificates()
        """
        verified = set[Certificate | None]()
        for word in self.words:
            if word.certificate not in verified:
                word.verify_certificate()
                verified.add(word.certificate)

    def __repr__(self) -> str:
        what = f"{counted(len(self.words), 'protected word')} of {counted(self.covered, 'element')}"
        errors = f"{counted(self.errors, 'error')} ({self.promise})"
        return f"<Seal: {brief(self.carrier)}, {errors}, {what}>"

    def _repr_html_(self) -> str:
        """A table of the protected words for a notebook."""
        rows = (
            (
                word.name,
                f"{word.word.elements:,}",
                *word.promise(self.errors).cells,
                repr(word.code),
                word.sha256.hex(),
            )
            for word in self.words
        )
        columns = ("word", "elements", "guaranteed", "bound", "measured", "code", "sha256")
        table = html_table(columns, rows, len(self.words))
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{table}"


class Unsealed(NamedTuple):
    """What `unsealed` read.

    Attributes:
        seal: the seal; its blobs are parts of the data, as a header may be large.
        layout: of the file that was protected; None if it was a live model.
        is_intact: whether the data are what `Seal.to_bytes` wrote.
    """

    seal: Seal
    layout: Layout | None
    is_intact: bool


def unsealed(data: bytes | memoryview, name: str) -> Unsealed:
    """`Seal.from_bytes`, and what comes to light by the way.

    Raises:
        SealError: if it is no seal, newer than this version, or damaged beyond repair.
    """
    payload, is_damaged = unarmor(data, name)
    try:
        seal, layout = _parse(payload)
    except _UNREADABLE as error:
        # What it quotes of the seal may be anything, and of any length.
        why = brief(str(error), most=400)
        raise SealError(f"{name}: the seal cannot be read: {why}") from error
    return Unsealed(seal, layout, not is_damaged)


def read_unsealed(path: Path) -> Unsealed:
    """`unsealed`, of a file; where its disk does not give all of it, that is damage, too.

    Raises:
        SealError: see `unsealed`.
        FormatError: if it is no regular file, or too large for a seal.
        OSError: if it cannot be read, or not enough of it.
    """
    with open_regular(path, salvage=True) as file:
        content = read_whole(file, MAX_BYTES)
        lost = sum(end - begin for begin, end in unreadable(file))
    try:
        found = unsealed(content, str(path))
    except SealError:
        if not lost:
            raise
        why = f"{os.strerror(errno.EIO)} in {counted(lost, 'byte')}, too many to do without"
        raise OSError(errno.EIO, f"{why}: fetch this seal again", str(path)) from None
    return found._replace(is_intact=found.is_intact and not lost)


def _of_its_own(seal: Seal) -> Seal:
    """A seal whose blobs are copies, so that nothing else of what was read is kept."""
    return replace(seal, blobs={key: bytes(blob) for key, blob in seal.blobs.items()})


def _parse(payload: memoryview) -> tuple[Seal, Layout | None]:
    (length,) = struct.unpack_from("<I", payload)
    text = strict_json.loads(bytes(payload[4 : 4 + length]))
    if text["version"] not in range(1, VERSION + 1):
        raise SealError(
            f"its version is {text['version']}, this parimend knows {VERSION}: install a newer one"
        )
    at = 4 + length

    def take(count: int) -> memoryview:
        nonlocal at
        if type(count) is not int or count < 0 or at + count > len(payload):
            raise SealError("it is shorter than it says")
        at += count
        return payload[at - count : at]

    checks = [take(entry["checks"]) for entry in text["words"]]
    blocks = [take(entry.get("blocks", 0)) for entry in text["words"]]
    blobs = {name: _kept(take(text["blobs"][name]), payload) for name in sorted(text["blobs"])}
    if at != len(payload):
        raise SealError("it is longer than it says")
    layout: Layout | None
    if _lists_tensors(blobs):
        layout = _unfolded(blobs)
        tensors = layout.parts
    else:
        tensors = _tensors(text["tensors"])
        layout = _bytes_only(tensors) if _HEADER in blobs else None
    room, codes = dict[int, int](), dict[str, Code]()
    words = tuple(
        word_of(entry, sums, digests, tensors, room, codes)
        for entry, sums, digests in zip(text["words"], checks, blocks, strict=True)
    )
    _require_apart([part for word in words for part in word.parts])
    carrier, errors, notes = text["carrier"], text["errors"], text["notes"]
    if carrier not in CARRIERS or not isinstance(notes, dict):
        raise SealError(f"its carrier is {carrier!r:.40}, or its notes are of the wrong type")
    if type(errors) is not int or not 1 <= errors <= MOST_ERRORS:
        raise SealError("it should be made for a number of errors")
    return Seal(carrier, errors, words, {key: _once(notes[key]) for key in notes}, blobs), layout


def _kept(blob: memoryview, payload: memoryview) -> Bytes:
    """A part of a payload: a copy, where the part is small and would keep all of it there."""
    return bytes(blob) if 2 * len(blob) < len(payload) else blob


def _once(note: Any) -> Any:
    """The names that all seals of a set note, in the same memory."""
    if isinstance(note, list) and all(isinstance(each, str) for each in note):
        return _names(tuple(note))
    return note


@lru_cache(maxsize=16)
def _names(names: tuple[str, ...]) -> list[str]:
    return list(names)


def _lists_tensors(blobs: Mapping[str, Bytes]) -> bool:
    """Whether there is a frame that says which tensors there are."""
    return any(blobs.values())


def _unfolded(blobs: Mapping[str, Bytes]) -> Layout:
    """What a file is made of, as the frame says."""
    if len(blobs) != 1:
        raise SealError("it has several frames")
    ((name, frame),) = blobs.items()
    return of_name("safetensors" if name == _HEADER else name).unfold(
        frame, "its copy of the frame"
    )


def _bytes_only(tensors: tuple[Part, ...]) -> Layout:
    """A file of an unknown format, of which old seals have an empty frame."""
    layout = Raw().unfold(Raw.frame(sum(part.nbytes for part in tensors)), "its only tensor")
    if layout.parts != tensors:
        raise SealError("it does not describe a file")
    return layout


def _require_apart(parts: Sequence[Part]) -> None:
    """Refuse parts that have a bit of an element in common."""
    taken: dict[str, list[Part]] = {}  # those that may reach as far as the next one
    for part in sorted(parts, key=lambda part: part.start):
        before = [p for p in taken.get(part.name, ()) if p.start + p.count > part.start]
        if any(not p.mask or not part.mask or p.mask & part.mask for p in before):
            raise SealError(f"its words overlap in {part.name}")
        taken[part.name] = [*before, part]


def _tensors(described: Sequence[Any]) -> tuple[Part, ...]:
    tensors = tuple(_tensor(*fields) for fields in described)
    if len({part.name for part in tensors}) != len(tensors):
        raise SealError("two of its tensors have the same name")
    return tensors


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> Part:
    if not isinstance(name, str) or any(
        type(size) is not int or not 0 <= size <= MOST_BYTES for size in shape
    ):
        raise SealError("it names a tensor without a name, or without a shape")
    if (part := whole(name, dtype, shape)).nbytes > MOST_BYTES:
        raise SealError(f"it names a tensor of {part.count} elements")
    return part
