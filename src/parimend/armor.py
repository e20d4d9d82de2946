"""Bytes that survive damage: Reed-Solomon parity around a payload.

Everything is little-endian::

    prefix   24 bytes: magic "PARIMEND", format version (u16), 0 (u16), payload length (u32),
             CRC-32 of the payload (u32), CRC-32 of the 20 bytes before (u32)
    payload
    parity   32 bytes for every block
    prefix   again

Byte i of payload and parity belongs to block i mod B, where B = ceil(length / 223). Every block is
a shortened Reed-Solomon code of 255 bytes over GF(256) (polynomial 0x11d, generator 2, first root
2^1) and repairs 16 wrong bytes, so that the whole survives any 16 B wrong bytes in a row, and as
many scattered ones as do not put 17 into one block and leave one prefix intact.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

from parimend.errors import SealError

VERSION = 1
_MAGIC = b"PARIMEND"
_PREFIX = struct.Struct("<8sHHII")
_SIZE = _PREFIX.size + 4
_PARITY = 32
_DATA = 255 - _PARITY


def armor(payload: bytes) -> bytes:
    """Wrap ``payload``.

    Example:
        >>> data = bytearray(armor(b"worth keeping"))
        >>> data[30:40] = bytes(10)
        >>> unarmor(bytes(data), "example")
        (b'worth keeping', True)
    """
    head = _PREFIX.pack(_MAGIC, VERSION, 0, len(payload), zlib.crc32(payload))
    head += struct.pack("<I", zlib.crc32(head))
    return head + payload + _parity(payload) + head


def unarmor(data: bytes, name: str) -> tuple[bytes, bool]:
    """The payload of `armor`, and whether it had to be repaired.

    Args:
        data: what `armor` returned, possibly damaged.
        name: of the file or object, for messages.

    Raises:
        SealError: if this is no armored data, was written by a newer version, is truncated, or is
            damaged beyond repair.
    """
    length, crc = _read_prefix(data, name)
    blocks = _blocks(length)
    # What is missing at the end counts as damage, what follows it does not belong here.
    expected = armored_length(data) or len(data)
    data = data[:expected].ljust(expected, b"\0")
    body = data[_SIZE : len(data) - _SIZE]
    payload = body[:length]
    good = np.frombuffer(payload + _parity(payload), np.uint8)
    wrong = np.flatnonzero(np.frombuffer(body, np.uint8) != good)
    if zlib.crc32(payload) == crc:
        # A damaged prefix or parity is worth a new copy too.
        return payload, bool(wrong.size) or data[:_SIZE] != data[-_SIZE:]
    import reedsolo  # type: ignore[import-untyped]

    codec = reedsolo.RSCodec(_PARITY, fcr=1)
    repaired = bytearray(payload)
    # It is slow, and the parity of most blocks is as it should be.
    for b in np.unique(wrong % blocks).tolist():
        try:
            repaired[b::blocks] = codec.decode(body[b::blocks])[0]
        except reedsolo.ReedSolomonError:
            break
    if zlib.crc32(repaired) != crc:
        raise SealError(
            f"{name}: the seal is damaged beyond repair (checksum mismatch after decoding "
            f"{blocks} blocks); restore it from a copy"
        )
    return bytes(repaired), True


def armored_length(head: bytes) -> int | None:
    """Length of what `armor` returned, from its first 28 bytes; None if those are damaged.

    >>> armored_length(armor(b"worth keeping")[:28]) == len(armor(b"worth keeping"))
    True
    """
    fields = _fields(head[:_SIZE])
    return None if fields is None else _length(fields[1])


def _fields(head: bytes) -> tuple[int, int, int] | None:
    """Version, length and CRC of the payload from a prefix, if it is intact."""
    if len(head) != _SIZE or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    magic, version, _, length, crc = _PREFIX.unpack(head[:-4])
    return (version, length, crc) if magic == _MAGIC else None


def _read_prefix(data: bytes, name: str) -> tuple[int, int]:
    """Length and CRC of the payload, from whichever prefix is intact."""
    fields = _fields(data[:_SIZE])
    at_end = _fields(data[-_SIZE:])
    if fields is None and at_end is None:
        raise SealError(f"{name}: this is no seal of Parimend, or both its ends are damaged")
    version, length, crc = fields or at_end or (0, 0, 0)
    if version > VERSION:
        raise SealError(
            f"{name}: the seal has format version {version}, newer than {VERSION}: install a newer "
            "parimend"
        )
    # More than the last prefix and what every block can repair: not worth making room for it.
    off = abs(len(data) - _length(length))
    if off and (fields is None or off > _SIZE + _PARITY // 2 * _blocks(length)):
        raise SealError(f"{name}: the seal has {len(data)} bytes instead of {_length(length)}")
    return length, crc


def _length(payload: int) -> int:
    return 2 * _SIZE + payload + _PARITY * _blocks(payload)


def _blocks(length: int) -> int:
    return -(-length // _DATA)


@cache
def _products() -> NDArray[np.uint8]:
    """(256, 32): products of every byte with every coefficient of the generator but the first."""
    exp, log = [0] * 510, [0] * 256
    x = 1
    for i in range(255):
        exp[i] = exp[i + 255] = x
        log[x] = i
        x = x << 1 ^ (0x11D if x & 0x80 else 0)

    def multiply(a: int, b: int) -> int:
        return exp[log[a] + log[b]] if a and b else 0

    generator = [1]
    for i in range(_PARITY):
        shifted = [*generator, 0]
        for k, g in enumerate(generator):
            shifted[k + 1] ^= multiply(g, exp[i + 1])
        generator = shifted
    return np.array([[multiply(a, g) for g in generator[1:]] for a in range(256)], np.uint8)


def _parity(payload: bytes) -> bytes:
    """Systematic encoding, all blocks side by side."""
    if not payload:
        return b""
    blocks = _blocks(len(payload))
    products = _products()
    rows = np.zeros(-(-len(payload) // blocks) * blocks, np.uint8)
    rows[: len(payload)] = np.frombuffer(payload, np.uint8)
    remainder = np.zeros((blocks, _PARITY + 1), np.uint8)
    for i in range(0, len(rows), blocks):
        # Blocks that ended one byte earlier take no part in the last step.
        active = slice(0, min(blocks, len(payload) - i))
        factor = remainder[active, 0] ^ rows[i : i + blocks][active]
        remainder[active, :_PARITY] = remainder[active, 1:] ^ products[factor]
    # The rotation through the blocks goes on where the payload stopped.
    return np.roll(remainder[:, :_PARITY].T, -(len(payload) % blocks), axis=1).tobytes()
