"""Reed-Solomon codes over GF(256), many interleaved blocks at once.

Every block is a shortened code of 255 bytes with 32 bytes of parity (polynomial 0x11d, generator 2,
first root 2^1) and repairs 16 wrong bytes. Byte i of payload and parity belongs to block i mod B.

Decoding is Berlekamp's, Chien's and Forney's (R. E. Blahut, *Algebraic codes for data
transmission*, 2003, chapters 6 and 7), each step of it for all damaged blocks side by side: one
block after the other takes milliseconds each, and a seal may have thousands.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

BLOCK = 255
"""Bytes in a block."""
PARITY = 32
"""Of which so many are parity."""
ROOM = BLOCK - PARITY
"""And so many payload, at most."""

_TOGETHER = 1 << 10
"""Blocks that are encoded side by side: more would leave the cache."""
_DECODED = 1 << 11
"""Blocks that are decoded side by side."""
_ZERO = 511  # stands for the logarithm of 0: with it, every sum of two leads to a 0 in the table


@cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Powers of 2 by their logarithm, and logarithms, for `_multiply`."""
    power, log = np.zeros(2 * _ZERO + 1, np.uint8), np.full(256, _ZERO, np.intp)
    x = 1
    for i in range(255):
        power[i] = power[i + 255] = x
        log[x] = i
        x = x << 1 ^ (0x11D if x & 0x80 else 0)
    return power, log


def _multiply(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    power, log = _tables()
    return power[log[a] + log[b]]


def _powers(exponents: NDArray[np.intp]) -> NDArray[np.uint8]:
    return _tables()[0][exponents % 255]


@cache
def _products() -> NDArray[np.uint64]:
    """(32 * 256, 4), rows of 32 bytes: what byte b adds to the remainder, if i more follow it
    before the parity, is row 256 (31 - i) + b.
    """
    generator = np.array([1], np.uint8)
    for i in range(PARITY):
        shifted = np.append(generator, np.uint8(0))
        shifted[1:] ^= _multiply(generator, _powers(np.array([i + 1])))
        generator = shifted
    last = _multiply(np.arange(256, dtype=np.uint8)[:, None], generator[None, 1:])
    products = np.zeros((PARITY, 256, PARITY), np.uint8)
    products[-1] = last
    for i in range(PARITY - 1, 0, -1):
        products[i - 1, :, :-1] = products[i, :, 1:]
        products[i - 1] ^= last[products[i, :, 0]]
    return products.reshape(-1, PARITY).view(np.uint64)


def parity_of(payload: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """The parity of a payload, interleaved: (32 B,) for B = ceil(length / 223) blocks.

    >>> parity_of(b"abc").shape, bool(parity_of(bytes(500)).any())
    ((32,), False)
    """
    data = np.frombuffer(payload, np.uint8)
    blocks = -(-data.size // ROOM)
    out = np.empty((PARITY, blocks), np.uint8)
    for first in range(0, blocks, _TOGETHER):
        last = min(first + _TOGETHER, blocks)
        out[:, first:last] = _remainders(data, blocks, first, last).T
    # The rotation through the blocks goes on where the payload stopped.
    return np.roll(out, -(data.size % max(blocks, 1)), axis=1).reshape(-1)


def _remainders(data: NDArray[np.uint8], blocks: int, first: int, last: int) -> NDArray[np.uint8]:
    """(last - first, 32): the parity of some of the blocks, highest power first.

    A remainder has as many bytes as are taken in a step, so that each step adds it to these and
    forgets it: what is added up next is a remainder again.
    """
    length, longer = divmod(data.size, blocks)
    longer = min(max(longer - first, 0), last - first)  # so many have a byte more
    steps = -(-(length + 1) // PARITY)
    # All end in the last row: zeros in front change no remainder.
    rows = np.zeros((steps * PARITY, last - first), np.uint8)
    even = data[: length * blocks].reshape(length, blocks)[:, first:last]
    rows[len(rows) - length :, longer:] = even[:, longer:]
    rows[len(rows) - length - 1 : -1, :longer] = even[:, :longer]
    rows[-1, :longer] = data[length * blocks + first :][:longer]
    products, table = _products(), 256 * np.arange(PARITY)[:, None]
    remainder = np.zeros((last - first, PARITY), np.uint8)
    for step in rows.reshape(steps, PARITY, last - first):
        added = products.take((step ^ remainder.T) + table, axis=0)
        remainder = np.bitwise_xor.reduce(added, axis=0).view(np.uint8)
    return remainder


def repair_(payload: bytearray, difference: NDArray[np.uint8]) -> bool:
    """Repair a payload in place, as far as every block has at most 16 wrong bytes.

    Args:
        payload: as received.
        difference: (32 B,) its `parity_of`, exclusive or the parity as received.

    Returns:
        False if a block is known to have more; others may be repaired then. A block with more may
        pass for one with fewer: compare a checksum of the result.

    Example:
        >>> right = bytes(range(200))
        >>> wrong = bytearray(right)
        >>> wrong[10:20] = bytes(10)
        >>> repair_(wrong, parity_of(right) ^ parity_of(wrong)), bytes(wrong) == right
        (True, True)
    """
    data = np.frombuffer(payload, np.uint8)
    blocks = max(-(-data.size // ROOM), 1)
    parity = np.roll(difference.reshape(PARITY, -1), data.size % blocks, axis=1)
    wrong = np.flatnonzero(parity.any(axis=0))
    for at in range(0, wrong.size, _DECODED):
        some = wrong[at : at + _DECODED]
        length = (data.size - some - 1) // blocks + 1
        solved, block, power, value = _decode(parity[:, some].T)
        # Powers count from the end of the parity. Beyond the beginning nothing can be wrong.
        place = length[block] + PARITY - 1 - power
        if not solved.all() or (place < 0).any():
            return False
        inside = place < length[block]
        index = some[block[inside]] + place[inside] * blocks
        data[index] ^= value[inside]
    return True


def _decode(
    difference: NDArray[np.uint8],
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp], NDArray[np.uint8]]:
    """Find the wrong bytes of blocks from (k, 32), the remainders they leave, highest power first.

    Returns:
        (k,) which blocks have a solution; and for every wrong byte its block, the power that it is
        the coefficient of, and by what it is wrong.
    """
    roots = np.arange(1, PARITY + 1)
    syndromes = _evaluate(difference[:, ::-1], roots)
    locator, count = _berlekamp(syndromes)
    # The locator vanishes at the inverses of the places of wrong bytes.
    value = _evaluate(locator, -np.arange(BLOCK))
    block, power = np.nonzero(value == 0)
    solved = (np.bincount(block, minlength=len(count)) == count) & (count <= PARITY // 2)
    evaluator = np.zeros_like(syndromes)
    for i in range(locator.shape[1]):
        evaluator[:, i:] ^= _multiply(syndromes[:, : PARITY - i], locator[:, i : i + 1])
    derivative = locator[:, 1:].copy()
    derivative[:, 1::2] = 0
    above = _evaluate_at(evaluator[block], -power)
    below = _evaluate_at(derivative[block], -power)
    log = _tables()[1]
    inverse = np.where(below == 0, np.uint8(0), _powers(-log[below]))
    return solved, block, power, _multiply(above, inverse)


def _evaluate(polynomials: NDArray[np.uint8], exponents: NDArray[np.intp]) -> NDArray[np.uint8]:
    """(k, d) polynomials, lowest power first, at (e,) powers of 2: (k, e)."""
    x = _powers(exponents)[None, :]
    total = np.zeros((len(polynomials), x.size), np.uint8)
    for column in polynomials.T[::-1]:
        total = _multiply(total, x) ^ column[:, None]
    return total


def _evaluate_at(polynomials: NDArray[np.uint8], exponents: NDArray[np.intp]) -> NDArray[np.uint8]:
    """(k, d) polynomials, each at one power of 2: (k,)."""
    x, total = _powers(exponents), np.zeros(len(polynomials), np.uint8)
    for column in polynomials.T[::-1]:
        total = _multiply(total, x) ^ column
    return total


def _berlekamp(syndromes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The shortest registers that produce (k, 32) syndromes: (k, 17) locators, (k,) lengths.

    Without inversions, so that a locator is known up to a factor.
    """
    k = len(syndromes)
    width = PARITY // 2 + 1
    locator, other = np.zeros((2, k, width), np.uint8)
    locator[:, 0] = other[:, 0] = 1
    length, scale = np.zeros(k, np.intp), np.ones(k, np.uint8)
    for r in range(PARITY):
        terms = min(r + 1, width)
        products = _multiply(locator[:, :terms], syndromes[:, r::-1][:, :terms])
        discrepancy = np.bitwise_xor.reduce(products, axis=1)
        shifted = np.zeros_like(other)
        shifted[:, 1:] = other[:, :-1]
        longer = (discrepancy != 0) & (2 * length <= r)
        other = np.where(longer[:, None], locator, shifted)
        locator = _multiply(locator, scale[:, None]) ^ _multiply(shifted, discrepancy[:, None])
        length = np.where(longer, r + 1 - length, length)
        scale = np.where(longer, discrepancy, scale)
    return locator, length
