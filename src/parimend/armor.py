"""Bytes that survive damage: Reed-Solomon parity around a payload.

Everything is little-endian::

    prefix   24 bytes: magic "PARIMEND", format version (u16), 0 (u16), payload length (u32),
             CRC-32 of the payload (u32), CRC-32 of the 20 bytes before (u32)
    payload
    parity   32 bytes for every block
    prefix   again

Byte i of payload and parity belongs to block i mod B, where B = ceil(length / 223). Every block is
a shortened Reed-Solomon code of 255 bytes (see `parimend.reedsolomon`) and repairs 16 wrong bytes,
so that the whole survives any 16 B wrong bytes in a row, and as many scattered ones as do not put
17 into one block. Where both prefixes are damaged, the length follows from that of the whole, and
what was decoded is proven by what is left of their checksums: half of the bytes, in either.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

from parimend.errors import SealError
from parimend.reedsolomon import BLOCK, PARITY, ROOM, parity_of, repair_

VERSION = 1
BEGINNING = struct.pack("<8sHH", b"PARIMEND", VERSION, 0)
"""How a prefix of this version begins."""
PREFIX = 24
"""Bytes of a prefix."""

_FIELDS = struct.Struct("<8sHHIII")
_CHECKSUMS = slice(16, 24)  # of the payload and of the prefix
_MAX_LENGTH = (1 << 32) - 1


class _Prefix(NamedTuple):
    """What a prefix says, and whether its own checksum agrees."""

    version: int
    length: int
    is_intact: bool


def armor(payload: bytes) -> bytes:
    """Wrap ``payload``.

    Raises:
        SealError: if it has 4 GiB or more.

    Example:
        >>> data = bytearray(armor(b"worth keeping"))
        >>> data[30:40] = bytes(10)
        >>> payload, is_damaged = unarmor(bytes(data), "example")
        >>> bytes(payload), is_damaged
        (b'worth keeping', True)
    """
    if len(payload) > _MAX_LENGTH:
        raise SealError(f"{len(payload)} bytes are too many for a seal: protect fewer tensors")
    head = _prefix(payload)
    return b"".join((head, payload, parity_of(payload).tobytes(), head))


def unarmor(data: bytes | memoryview, name: str) -> tuple[memoryview, bool]:
    """The payload of `armor`, and whether ``data`` differs from what `armor` returned.

    No copy is made of what is intact: it is a part of ``data``.

    Args:
        data: what `armor` returned, possibly damaged.
        name: of the file or object, for messages.

    Raises:
        SealError: if this is no armored data, was written by a newer version, is truncated, or is
            damaged beyond repair.
    """
    data = memoryview(data).cast("B").toreadonly()
    length, checksums = _expected(data, name)
    whole = _length(length)
    is_damaged = len(data) != whole or data[:PREFIX] != data[-PREFIX:]
    if len(data) < whole:
        # What is missing at the end counts as damage, what follows it does not belong here.
        data = memoryview(bytes(data).ljust(whole, b"\0"))
    body = data[PREFIX : whole - PREFIX]
    payload = body[:length]
    difference = np.frombuffer(body[length:], np.uint8) ^ parity_of(payload)
    if _is_proven(payload, checksums):
        # A damaged prefix or parity is worth a new copy too.
        return payload, is_damaged or bool(difference.any())
    repaired = bytearray(payload)
    if not repair_(repaired, difference) or not _is_proven(repaired, checksums):
        raise SealError(
            f"{name}: the seal is damaged beyond repair (checksum mismatch after decoding "
            f"{_blocks(length)} blocks); restore it from a copy"
        )
    return memoryview(repaired).toreadonly(), True


def armored_length(head: bytes | memoryview) -> int | None:
    """Length of what `armor` returned, from its first bytes or its last 24; None if damaged.

    >>> armored_length(armor(b"worth keeping")[:24]) == len(armor(b"worth keeping"))
    True
    """
    prefix = _read(memoryview(head)[:PREFIX])
    return _length(prefix.length) if prefix and prefix.is_intact else None


def is_armored_length(count: int) -> bool:
    """Whether `armor` can return so many bytes."""
    return _payload_length(count) is not None


def _prefix(payload: bytes | bytearray | memoryview) -> bytes:
    head = BEGINNING + struct.pack("<II", len(payload), zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head))


def _read(head: memoryview) -> _Prefix | None:
    if len(head) != PREFIX:
        return None
    magic, version, _, length, _, own = _FIELDS.unpack(head)
    is_intact = own == zlib.crc32(head[:-4])
    if is_intact and magic != BEGINNING[:8]:
        return None
    return _Prefix(version, length, is_intact)


def _is_proven(payload: bytearray | memoryview, checksums: list[memoryview]) -> bool:
    """Whether a payload has the checksums of an intact prefix, or half of those of two damaged.

    Another payload has four given bytes of the eight with a chance of 2^-32. That of having any
    four, each in either, is 1,120 times as great, and it must have come out of a decoder that is
    seldom wrong (less than once in 16! blocks with more wrong bytes than it can repair).
    """
    right = _prefix(payload)[_CHECKSUMS]
    alike = sum(byte in seen for byte, *seen in zip(right, *checksums, strict=True))
    return alike >= (len(right) if len(checksums) == 1 else len(right) // 2)


def _expected(data: memoryview, name: str) -> tuple[int, list[memoryview]]:
    """Length of the payload, and the checksums of an intact prefix, or of both damaged ones."""
    ends = (data[:PREFIX], data[-PREFIX:])
    front, back = (_read(end) for end in ends)
    intact = [prefix for prefix in (front, back) if prefix and prefix.is_intact]
    if not intact:
        known = sum(a == b for end in ends for a, b in zip(end, BEGINNING, strict=False))
        length = _payload_length(len(data))
        if not (front and back) or length is None or known < len(BEGINNING):
            raise SealError(
                f"{name}: this is no seal of Parimend, or both its ends are damaged; restore it "
                "from a copy"
            )
        return length, [end[_CHECKSUMS] for end in ends]
    version, length, _ = intact[0]
    if version > VERSION:
        raise SealError(
            f"{name}: the seal has format version {version}, newer than {VERSION}: install a newer "
            "parimend"
        )
    # More than the last prefix and what every block can repair: not worth making room for it.
    off = abs(len(data) - _length(length))
    is_front = front is not None and front.is_intact
    if off and (not is_front or off > PREFIX + PARITY // 2 * _blocks(length)):
        raise SealError(
            f"{name}: the seal has {len(data)} bytes instead of {_length(length)}; restore it from "
            "a copy"
        )
    return length, [ends[0 if is_front else 1][_CHECKSUMS]]


def _length(payload: int) -> int:
    return 2 * PREFIX + payload + PARITY * _blocks(payload)


def _payload_length(whole: int) -> int | None:
    """The inverse of `_length`; None for a length that no payload leads to."""
    body = whole - 2 * PREFIX
    length = body - PARITY * -(-body // BLOCK)
    return length if length >= 0 and _length(length) == whole else None


def _blocks(length: int) -> int:
    return -(-length // ROOM)
