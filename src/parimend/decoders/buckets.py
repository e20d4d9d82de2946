"""Peeling buckets of `Modular` codes: a bucket that holds one wrong word names it.

A bucket changed by (S0, S1) names group g if S1 / S0 = a_g modulo p for a group that exists, and
lane l = bucket - start(g) if that is 0 .. 15. If it holds no other wrong word, that one is wrong by
S0; it is taken out of its buckets in all bands, which may leave other words alone there.

Another band *agrees* if the word's bucket there has changed by the same (S0, S1), and *contradicts*
if its bucket there has not changed at all. A word that more bands contradict than agree to is never
taken out. Of the others, those that a band agrees to go first, as they are safer; those that stand
alone follow when nothing else is left.

What can go wrong, for n words and bands of Z buckets: the ratio of a bucket with several wrong
words is a random residue, so the bucket names a word by accident with probability n / (2^32 Z),
5e-5 for n = 17 million and Z = 78. All other bands must then hold wrong words where that word would
be, or must agree, which takes two words that share two buckets, and another factor 1 / Z. A word
that was taken out wrongly adds errors elsewhere; these are found like any others, and when it is
named again with the opposite damage, the two cancel.

The answer counts only if every sum ends at zero. A wrong one does so if its difference from the
truth is a nonzero word with all sums zero. The likeliest way is that two of t wrong words share
their buckets in all d bands, with probability t^2 / (2 Z^d), and that the word they name by
accident shares them too: another n / (2^32 Z) x Z^(1 - d), in all 1e-17 for t = 210, d = 5. Whoever
repairs should compare a hash of the result besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.modular import Modular
from parimend.codes.sums import Sums
from parimend.decoders.base import Decoder, PreparedSums, nothing
from parimend.decoders.decoding import Decoding
from parimend.outcomes import Verdict

_RULES = ("agree", "alone")


@dataclass(frozen=True)
class Buckets(Decoder):
    """Peeling for `Modular` codes.

    ``values`` are residues, received - original modulo p, see `parimend.codes.sums.restore`.
    Knowing that a word is wrong does not help, as words name themselves: an erasure costs as much
    as an error. ``unexplained`` counts buckets.

    Example:
        >>> code = Modular.for_errors(n=1_000_000, errors=10)
        >>> changed = code.sums_of(np.array([3, 77_777]), np.array([1, code.prime - 5]))
        >>> decoding = Buckets().prepare(code).decode(changed)
        >>> decoding.verdict.value, decoding.positions.tolist(), decoding.values.tolist()
        ('corrected', [3, 77777], [1, 4294967306])
    """

    name: ClassVar[str] = "buckets"
    families: ClassVar[tuple[str, ...]] = ("modular",)

    def _prepare(self, code: Modular) -> PreparedBuckets:
        return PreparedBuckets(code)


class PreparedBuckets(PreparedSums):
    """A `Buckets` made ready for one code."""

    code: Modular

    def _decode_sums(self, syndrome: Sums, erasures: NDArray[np.int64]) -> Decoding:
        code = self.code
        positions, values, steps = peeled(code, syndrome)
        if left := int(np.count_nonzero(syndrome.any(axis=0))):
            return nothing(Verdict.UNCORRECTABLE, syndrome, unexplained=left, steps=steps)
        found = merged(positions, values, erasures, code.prime)
        return Decoding(Verdict.CORRECTED, *found, steps=steps)


def peeled(
    code: Modular, sums: Sums
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    """Take the words that buckets name out of ``sums``, in place, until none names another one.

    Returns:
        Their positions and values, some perhaps more than once, and how often each rule did it.
    """
    # Even at the highest load that can be peeled at all, a bucket holds less than one word.
    positions = np.empty(2 * code.m, np.int64)
    values = np.empty(2 * code.m, np.uint64)
    counts = np.zeros(len(_RULES), np.int64)
    kernels.on("buckets").peel(sums, code.n, code.key, code.excess, positions, values, counts)
    found = counts.sum()
    steps = dict(zip(_RULES, counts.tolist(), strict=True))
    return positions[:found], values[:found].astype(np.int64), steps


def merged(
    positions: NDArray[np.int64],
    values: NDArray[np.int64],
    erasures: NDArray[np.int64],
    prime: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Damage found in several steps as that of distinct words, those in order.

    >>> merged(np.array([9, 3, 5, 9]), np.array([1, 2, 1, 6]), np.array([4]), prime=7)
    (array([3, 4, 5]), array([2, 0, 1]))
    """
    distinct, where = np.unique(np.concatenate([positions, erasures]), return_inverse=True)
    damage = np.zeros(distinct.size, np.int64)
    np.add.at(damage, where[: positions.size], values)
    damage %= prime
    keep = (damage != 0) | np.isin(distinct, erasures)
    return distinct[keep], damage[keep]
