"""The seal: how a model was protected, as a record with a stable byte format.

The payload, little-endian, inside `parimend.armor`::

    length of the text (u32), text, checks

The text is JSON with sorted keys and no spaces. Its ``words`` list one object per word: ``code`` (the
spec), ``parts`` (the tensors in order, each ``[name, dtype, shape, start, count, exponent]``),
``sha256`` (of the bytes of all parts, in hexadecimal) and ``checks``, the number of bytes that the
word's sealed checks take in what follows the text. For sparse codes those are the values of the free
checks, one i64 each (the others are zero); for modular codes `Modular.pack`.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.armor import armor, unarmor
from parimend.codes import Code, Modular, Sparse, from_spec
from parimend.errors import ParimendError, SealError
from parimend.words.layout import Part

VERSION = 1


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
        text = {
            "version": VERSION,
            "carrier": self.carrier,
            "errors": self.errors,
            "words": [
                {
                    "code": word.code.spec(),
                    "parts": [
                        [p.name, p.dtype, list(p.shape), p.start, p.count, p.exponent]
                        for p in word.parts
                    ],
                    "sha256": word.sha256.hex(),
                    "checks": len(data),
                }
                for word, data in zip(self.words, checks, strict=True)
            ],
            "notes": dict(self.notes),
            "blobs": {name: len(data) for name, data in self.blobs.items()},
        }
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
        except (ParimendError, ValueError, TypeError, KeyError, struct.error) as error:
            raise SealError(f"{name}: the seal cannot be read: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the seal to a file, all or nothing."""
        write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Seal:
        """Read a seal from a file.

        Raises:
            SealError: see `from_bytes`.
            OSError: if the file cannot be read.
        """
        return cls.from_bytes(Path(path).read_bytes(), str(path))

    @property
    def covered(self) -> int:
        """Number of protected elements."""
        return sum(part.count for word in self.words for part in word.parts)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any moment either the old or the new content is there."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _checks(word: SealedWord) -> bytes:
    if isinstance(word.code, Modular):
        return word.code.pack(word.target)
    assert isinstance(word.code, Sparse)
    return word.target[word.code.imposed :].astype("<i8").tobytes()


def _target(code: Code, data: bytes) -> NDArray[Any]:
    if isinstance(code, Modular):
        return code.unpack(data)
    if not isinstance(code, Sparse):
        raise SealError(f"{code.family} codes are not sealed")
    target = np.zeros(code.m, np.int64)
    target[code.imposed :] = np.frombuffer(data, "<i8")
    return target


def _parse(payload: bytes) -> Seal:
    (length,) = struct.unpack_from("<I", payload)
    text = json.loads(payload[4 : 4 + length])
    if text["version"] != VERSION:
        raise SealError(f"its version is {text['version']}, this parimend knows {VERSION}")
    at = 4 + length

    def take(count: int) -> bytes:
        nonlocal at
        if count < 0 or at + count > len(payload):
            raise SealError("it is shorter than it says")
        at += count
        return payload[at - count : at]

    words = []
    for entry in text["words"]:
        code = from_spec(entry["code"])
        parts = tuple(_part(*fields) for fields in entry["parts"])
        sha256 = bytes.fromhex(entry["sha256"])
        words.append(SealedWord(code, parts, _target(code, take(entry["checks"])), sha256))
    blobs = {name: take(text["blobs"][name]) for name in sorted(text["blobs"])}
    if at != len(payload):
        raise SealError("it is longer than it says")
    return Seal(text["carrier"], text["errors"], tuple(words), text["notes"], blobs)


def _part(name: str, dtype: str, shape: list[int], start: int, count: int, exponent: int) -> Part:
    part = Part(name, dtype, tuple(shape), start, count, exponent)
    size = int(np.prod(part.shape, dtype=object)) if part.shape else 1
    if not 0 <= start <= start + count <= size:
        raise SealError(f"its part of {name} does not fit the shape {shape}")
    return part
