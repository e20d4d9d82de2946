"""Digests of blocks: which parts of a word are as they were, when there are too many wrong words.

A word is cut into blocks of 2^14 words, 64 KiB. The digest of a block is made of the first two of
its power sums, as if it were a word of its own (`Beside` says which code): all of S_0, 33 bits, and
the 7 lowest bits of S_1. A single wrong word always changes S_0; a block with any other content has
the same digest with a probability of 2^-39. So a digest says where to look, and no more: what is
right is proven by the SHA-256 of the whole word.

Five bytes of 64 KiB are 1 in 13,107, and with the parity of a seal 1 in 11,468. Digests cost no time
when a word is sealed: the first sums of the word are those of its blocks, moved to their places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parimend.codes.base import Code
from parimend.codes.beside import Beside
from parimend.codes.power import PowerSums
from parimend.codes.sums import Sums
from parimend.errors import SpecError
from parimend.kernels import points_numba
from parimend.kernels.field_numba import element

BLOCK = 1 << 14
"""Words in a block."""
DIGEST = 5
"""Bytes of the digest of a block."""
_MOST_SUMS = 16  # first sums that are computed in one pass
_SECOND = np.uint64(33)  # bits of the first sum


def has_blocks(code: Code) -> bool:
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
            self._sums[number : number + count] = self._code.of_blocks(whole)
        if rest.size:
            self._code.accumulate(self._sums[number + count], rest)

    def total(self) -> Sums:
        """The first sums of the word, `SumsCode.few`."""
        step = self._code.places.shift(BLOCK)
        return np.asarray(points_numba.joined(self._sums, element(step)))

    @property
    def digests(self) -> NDArray[np.uint8]:
        """(blocks, `DIGEST`) uint8."""
        return _digests(self._sums)


def digest_of(code: Code, words: NDArray[np.uint32]) -> bytes:
    """The digest of one block, at most `BLOCK` words, of a word of this code."""
    mine = _of_block(code)
    return _digests(mine.accumulate(mine.zeros(), words)[None]).tobytes()


def _of_block(code: Code) -> PowerSums:
    """The code whose words are blocks: a part of the sums of one is a part of those of the word."""
    if not (has_blocks(code) and isinstance(code, Beside)):
        raise SpecError(f"{code!r} has no digests of blocks: it is too short, or of another family")
    screen = code.parts[0]
    assert isinstance(screen, PowerSums)
    return PowerSums(BLOCK, screen.m, screen.seed)


def _digests(sums: Sums) -> NDArray[np.uint8]:
    joined = (sums[:, 0] | sums[:, 1] << _SECOND).astype("<u8")
    return joined.view(np.uint8).reshape(-1, joined.itemsize)[:, :DIGEST]
