"""Residues modulo a prime just above 2^32, as bytes: 33 bits each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parimend.errors import SealError


def packed_size(count: int) -> int:
    """Bytes of so many residues.

    >>> packed_size(420)
    1733
    """
    return 4 * count + -(-count // 8)


def pack(residues: NDArray[np.uint64]) -> bytes:
    """The low 32 bits of each as little-endian uint32, then bit 32 of each, eight to a byte from
    the lowest bit up, padded with zeros.
    """
    residues = residues.reshape(-1)
    top = np.packbits((residues >> np.uint64(32)).astype(np.uint8), bitorder="little")
    return residues.astype("<u4").tobytes() + top.tobytes()


def unpack(data: bytes | memoryview, count: int, prime: int) -> NDArray[np.uint64]:
    """The inverse of `pack`: (count,) uint64.

    Raises:
        SealError: if there are not as many, or one is not below ``prime``.
    """
    size = memoryview(data).nbytes
    if size != packed_size(count):
        raise SealError(f"{count} sums take {packed_size(count)} bytes, not {size}")
    low = np.frombuffer(data, "<u4", count).astype(np.uint64)
    rest = np.frombuffer(data, np.uint8, offset=4 * count)
    if not rest.any():  # nearly always: a residue has bit 32 once in 175,000 times
        return low
    top = np.unpackbits(rest, bitorder="little")
    residues = low | (top[:count].astype(np.uint64) << np.uint64(32))
    if top[count:].any() or (residues >= prime).any():
        raise SealError(
            f"the stored sums are damaged: a value is not below 2^32 + {prime - (1 << 32)}"
        )
    return residues
