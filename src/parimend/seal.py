"""The seal: how a model was protected, as a record with a stable byte format.

The payload, little-endian, inside `parimend.armor`::

    length of the text (u32), text, checks

The text is JSON with sorted keys and no spaces. Its ``tensors`` list ``[name, dtype, shape]`` of
every protected tensor; it is missing if the blob named ``header`` is the header of a safetensors
file, which lists them already. Its ``words`` list one object per word: ``code`` (the spec),
``parts`` (in order: ``[i, j]``, the whole tensors number i to j, or
``[i, start, count, exponent]``, elements of tensor i on a grid), ``sha256`` (of the bytes of all
parts, in hexadecimal) and ``checks``, the number of bytes that the word's sealed checks take in
what follows the text. For sparse codes those are the values of the free checks, one i64 each (the
others are zero); for modular codes `Modular.pack`. ``blobs`` says how many bytes of each follow.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.armor import armor, unarmor
from parimend.atomic import atomic
from parimend.codes import Code, Modular, Sparse, from_spec
from parimend.errors import ParimendError, SealError
from parimend.regular import read_regular
from parimend.words.bits import item_size
from parimend.words.header import parse_header
from parimend.words.layout import Part, padded_words, whole

VERSION = 1
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
HEADER = "header"
"""Name of the blob that is a copy of a safetensors file's header; empty for files of other formats,
whose bytes are one tensor."""


@dataclass(frozen=True, eq=False)
class SealedWord:
    """One protected word.

    Attributes:
        code: the code it belongs to.
        parts: the elements it is made of, in order.
        target: `Code.syndrome_shape`: its syndrome as sealed.
        sha256: SHA-256 of the protected bytes, the parts one after the other.
    """

    code: Code
    parts: tuple[Part, ...]
    target: NDArray[Any]
    sha256: bytes

    @property
    def name(self) -> str:
        """For messages: the tensor, or the first and last of several."""
        first, last = self.parts[0].name, self.parts[-1].name
        return first if first == last else f"{first} .. {last}"


@dataclass(frozen=True, eq=False)
class Seal:
    """How a model was protected; everything that checking and repairing needs beside the weights.

    Attributes:
        carrier: ``real`` or ``sidecar``.
        errors: number of wrong words that each protected word is made to repair.
        words: the protected words.
        notes: further facts as JSON values, not used in checking.
        blobs: further bytes by name, such as a copy of a file's header.
    """

    carrier: str
    errors: int
    words: tuple[SealedWord, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The seal as armored bytes; equal seals give equal bytes."""
        checks = [_checks(word) for word in self.words]
        tensors = self._tensors()
        number = {tensor.name: i for i, tensor in enumerate(tensors)}
        text = {
            "version": VERSION,
            "carrier": self.carrier,
            "errors": self.errors,
            "words": [
                {
                    "code": word.code.spec(),
                    "parts": _runs(word.parts, number),
                    "sha256": word.sha256.hex(),
                    "checks": len(data),
                }
                for word, data in zip(self.words, checks, strict=True)
            ],
            "notes": dict(self.notes),
            "blobs": {name: len(data) for name, data in self.blobs.items()},
        }
        if not self.blobs.get(HEADER):
            text["tensors"] = [[part.name, part.dtype, list(part.shape)] for part in tensors]
        encoded = json.dumps(text, sort_keys=True, separators=(",", ":")).encode()
        # Blobs follow the checks in the order of their sorted names.
        tail = b"".join(self.blobs[name] for name in sorted(self.blobs))
        return armor(struct.pack("<I", len(encoded)) + encoded + b"".join(checks) + tail)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "seal") -> Seal:
        """Read what `to_bytes` wrote, repairing it if it is damaged.

        Args:
            data: the bytes.
            name: of the file, for messages.

        Raises:
            SealError: if it is no seal, newer than this version, or damaged beyond repair.
        """
        payload, _ = unarmor(data, name)
        try:
            return _parse(payload)
        except _UNREADABLE as error:
            raise SealError(f"{name}: the seal cannot be read: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the seal to a file, all or nothing.

        Raises:
            OSError: if the file cannot be written.
            BusyError: if another process is writing it.
        """
        with atomic(path) as file:
            file.write(self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Seal:
        """Read a seal from a file.

        Raises:
            SealError: see `from_bytes`.
            FormatError: if it is no regular file, or too large for a seal.
            OSError: if the file cannot be read.
        """
        return cls.from_bytes(read_regular(path, MAX_BYTES), str(path))

    def _tensors(self) -> Sequence[Part]:
        """The tensors that parts refer to by number, whole."""
        if self.blobs.get(HEADER):
            return parse_header(self.blobs[HEADER], "the seal's copy of the header").parts
        names = {part.name: part for word in self.words for part in word.parts}
        return [whole(part.name, part.dtype, part.shape) for part in names.values()]

    @property
    def covered(self) -> int:
        """Number of protected elements."""
        return sum(part.count for word in self.words for part in word.parts)


def _checks(word: SealedWord) -> bytes:
    if isinstance(word.code, Modular):
        return word.code.pack(word.target)
    assert isinstance(word.code, Sparse)
    return word.target[word.code.imposed :].astype("<i8").tobytes()


def _target(code: Code, parts: Sequence[Part], data: bytes) -> NDArray[Any]:
    if isinstance(code, Modular):
        if code.n != padded_words(*parts):
            raise SealError(f"its code for {code.n} words does not fit its tensors")
        return code.unpack(data)
    if not isinstance(code, Sparse):
        raise SealError(f"{code.family} codes are not sealed")
    if code.n != sum(part.count for part in parts) or not 0 <= len(data) // 8 <= code.m <= code.n:
        raise SealError(f"its code for {code.n} weights does not fit its tensors")
    target = np.zeros(code.m, np.int64)
    target[code.imposed :] = np.frombuffer(data, "<i8")
    return target


def _parse(payload: bytes) -> Seal:
    (length,) = struct.unpack_from("<I", payload)
    text = json.loads(payload[4 : 4 + length])
    if text["version"] != VERSION:
        raise SealError(
            f"its version is {text['version']}, this parimend knows {VERSION}: install a newer one"
        )
    at = 4 + length

    def take(count: int) -> bytes:
        nonlocal at
        if count < 0 or at + count > len(payload):
            raise SealError("it is shorter than it says")
        at += count
        return payload[at - count : at]

    spans = text["blobs"]
    tails = {name: spans[name] for name in sorted(spans)}
    checks = [take(entry["checks"]) for entry in text["words"]]
    blobs = {name: take(count) for name, count in tails.items()}
    if at != len(payload):
        raise SealError("it is longer than it says")
    if blobs.get(HEADER):
        tensors = parse_header(blobs[HEADER], "its copy of the header").parts
    else:
        tensors = tuple(_tensor(*fields) for fields in text["tensors"])
    words = []
    room = sum(part.count for part in tensors)
    for entry, data in zip(text["words"], checks, strict=True):
        code = from_spec(entry["code"])
        parts: list[Part] = []
        for run in entry["parts"]:
            more = _parts(run, tensors)
            room -= sum(part.count for part in more)
            # Otherwise a few bytes could name all tensors over and over.
            if room < 0 or not all(part.count for part in more):
                raise SealError("its words overlap, or have empty parts")
            parts += more
        if not parts:
            raise SealError("one of its words is empty")
        words.append(SealedWord(code, tuple(parts), _target(code, parts, data), _sha256(entry)))
    carrier, errors, notes = text["carrier"], text["errors"], text["notes"]
    if not isinstance(carrier, str) or type(errors) is not int or not isinstance(notes, dict):
        raise SealError("its carrier, errors or notes are of the wrong type")
    return Seal(carrier, errors, tuple(words), notes, blobs)


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> Part:
    item_size(dtype)
    if not isinstance(name, str) or any(type(size) is not int or size < 0 for size in shape):
        raise SealError(f"it names a tensor {name!r} of shape {shape}")
    return whole(name, dtype, shape)


def _sha256(entry: Mapping[str, Any]) -> bytes:
    digest = bytes.fromhex(entry["sha256"])
    if len(digest) != hashlib.sha256().digest_size:
        raise SealError("one of its SHA-256 sums has the wrong length")
    return digest


def _runs(parts: Sequence[Part], number: Mapping[str, int]) -> list[list[int]]:
    """Parts by the numbers of their tensors, neighbouring whole tensors together."""
    runs: list[list[int]] = []
    for part in parts:
        i = number[part.name]
        if part != whole(part.name, part.dtype, part.shape):
            runs.append([i, part.start, part.count, part.exponent])
        elif runs and len(runs[-1]) == 2 and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return runs


def _parts(run: Sequence[int], tensors: Sequence[Part]) -> Sequence[Part]:
    """The inverse of `_runs`, for one of them."""
    if any(type(x) is not int for x in run):
        raise SealError("its parts must be whole numbers")
    if len(run) == 2:
        first, last = run
        if not 0 <= first <= last < len(tensors):
            raise SealError(f"its tensors {first} to {last} are not among its {len(tensors)}")
        return tensors[first : last + 1]
    i, start, count, exponent = run
    if not 0 <= i < len(tensors) or not 0 <= start <= start + count <= tensors[i].count:
        raise SealError(f"its part {list(run)} does not fit its tensors")
    return [replace(tensors[i], start=start, count=count, exponent=exponent)]
