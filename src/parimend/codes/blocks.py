"""Digests of blocks: which parts of a word are as they were, when there are too many wrong words.

A word is cut into blocks of 2^14 words, 64 KiB. The digest of a block is made of the first two of
its power sums, as if it were a word of its own (`Beside` says which code): all of S_0, 33 bits, and
the 7 lowest bits of S_1. A single wrong word always changes S_0; a block with any other content has
the same digest with a probability of 2^-39. So a digest says where to look, and no more: what is
right is proven by the SHA-256 of the whole word.

Five bytes of 64 KiB are 1 in 13,107, and with the parity of a seal 1 in 11,462. Digests cost no
time when a word is sealed: its first sums are those of its blocks, moved to their places.
"""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.base import Code
from parimend.codes.beside import Beside
from parimend.codes.power import PowerSums
from parimend.codes.sums import Sums
from parimend.errors import SpecError
from parimend.kernels.field import PRIME, element

BLOCK = 1 << 14
"""Words in a block."""
DIGEST = 5
"""Bytes of the digest of a block."""
_MOST_SUMS = 16  # first sums that are computed in one pass
_SECOND = np.uint64(33)  # bits of the first sum


def has_blocks(code: Code) -> TypeGuard[Beside]:
    """Whether a code has digests of blocks: it has a few power sums, and there are two blocks."""
    return isinstance(code, Beside) and code.first <= _MOST_SUMS and code.n > BLOCK


def digests_size(code: Code) -> int:
    """Bytes of the digests of all blocks.

    >>> from parimend.codes import sums_for
    >>> digests_size(sums_for(250_000_000, errors=210)), digests_size(sums_for(100, errors=2))
    (76295, 0)
    """
    return DIGEST * -(-code.n // BLOCK) if has_blocks(code) else 0


class BlockSums:
    """The first power sums of the blocks of a word, added up in parts.

    Args:
        code: of the word, one that `has_blocks`.

    Example:
        >>> from parimend.codes import sums_for
        >>> words = np.arange(20_000, dtype=np.uint32)
        >>> code = sums_for(words.size, errors=3)
        >>> blocks = BlockSums(code)
        >>> blocks.add(words[:16], 0)
        >>> blocks.add(words[16:], 16)
        >>> bool((blocks.total() == code.few(code.syndrome(words))).all())
        True
        >>> bytes(blocks.digests[1]) == digest_of(code, words[BLOCK:])
        True
    """

    def __init__(self, code: Code) -> None:
        self._code = _of_block(code)
        self._sums = np.zeros((-(-code.n // BLOCK), self._code.m), np.uint64)

    def add(self, words: NDArray[np.uint32], start: int) -> None:
        """Add a part of the words; see `SumsCode.accumulate`."""
        number, skipped = divmod(start, BLOCK)
        head = min(-skipped % BLOCK, words.size)
        if head:
            self._code.accumulate(self._sums[number], words[:head], skipped)
            number += 1
        count = (words.size - head) // BLOCK
        whole, rest = np.split(words[head:], [count * BLOCK])
        if count:
            ends = np.arange(BLOCK, whole.size + 1, BLOCK)
            self._sums[number : number + count] = self._code.of_each(whole, ends)
        if rest.size:
            self._code.accumulate(self._sums[number + count], rest)

    def total(self) -> Sums:
        """The first sums of the word, `SumsCode.few`."""
        step = self._code.places.shift(BLOCK)
        return np.asarray(kernels.on("points").joined(self._sums, element(step)))

    @property
    def digests(self) -> NDArray[np.uint8]:
        """(blocks, `DIGEST`) uint8."""
        return _digests(self._sums)


def digest_of(code: Code, words: NDArray[np.uint32]) -> bytes:
    """The digest of one block, at most `BLOCK` words, of a word of this code."""
    mine = _of_block(code)
    return _digests(mine.accumulate(mine.zeros(), words)[None]).tobytes()


def mixed(
    code: Code, here: NDArray[np.uint32], there: NDArray[np.uint32], digest: bytes
) -> NDArray[np.uint32] | None:
    """A block of two damaged copies of it, if one copy is damaged in one range of its words.

    Sums are linear: with d_i = (here_i - there_i) u_i, S_0 of a block that has words a .. b - 1
    from ``here`` and the others from ``there`` is that of ``there`` plus D_b - D_a, where D_k is
    the sum of the first k of d. So a sealed S_0 that is neither copy's own names a and b among all
    pairs, in the time that it takes to sort.

    Args:
        code: of the word.
        here, there: (`BLOCK`,) uint32.
        digest: that of the block as it was.

    Returns:
        (`BLOCK`,) uint32; None if there is no such block.

    Example:
        >>> from parimend.codes import sums_for
        >>> code, block = sums_for(100_000, errors=2), np.arange(BLOCK, dtype=np.uint32)
        >>> here, there = block.copy(), block.copy()
        >>> here[100:900] = 7
        >>> there[900:] = 8
        >>> np.array_equal(mixed(code, here, there, digest_of(code, block)), block)
        True
    """
    mine = _of_block(code)
    sealed = int.from_bytes(digest, "little") & ((1 << int(_SECOND)) - 1)
    factors = mine.factors(np.arange(BLOCK))
    for inside, outside in ((here, there), (there, here)):
        change = (inside.astype(np.int64) - outside.astype(np.int64)) % PRIME
        steps = kernels.on("points").products(change.astype(np.uint64), factors).astype(np.int64)
        until = np.concatenate([[0], np.cumsum(steps)]) % PRIME
        missing = sealed - int(mine.syndrome(outside)[0])
        values, places = np.unique(until, return_index=True)
        found = np.searchsorted(values, wanted := (until[places] + missing) % PRIME)
        found = np.minimum(found, values.size - 1)
        for k in np.flatnonzero(values[found] == wanted).tolist():
            block = outside.copy()
            part = slice(places[k], places[found[k]])
            block[part] = inside[part]
            if digest_of(code, block) == digest:
                return block
    return None


def _of_block(code: Code) -> PowerSums:
    """The code whose words are blocks: a part of the sums of one is a part of those of the word."""
    if not has_blocks(code):
        raise SpecError(f"{code!r} has no digests of blocks: it is too short, or of another family")
    screen = code.parts[0]
    return PowerSums(BLOCK, screen.m, screen.seed)


def _digests(sums: Sums) -> NDArray[np.uint8]:
    joined = (sums[:, 0] | sums[:, 1] << _SECOND).astype("<u8")
    return joined.view(np.uint8).reshape(-1, joined.itemsize)[:, :DIGEST]
