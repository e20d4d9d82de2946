"""Protected words as an environment sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from parimend.carriers.carrier import PlannedWord
from parimend.codes import SumsCode
from parimend.risk.exposed import Exposed
from parimend.words.bits import WORD


def side_by_side(words: Sequence[PlannedWord]) -> tuple[PlannedWord, ...]:
    """Words of the same memory: behind one that is no whole number of words of 32 bits, the tensors
    of others are shifted against those of memory.
    """
    odd = (word.crowd.odd or (word.crowd.nbytes or word.nbytes) % WORD for word in words)
    if len(words) < 2 or not any(odd):
        return tuple(words)
    # A carrier that counts weights takes them one after the other, wherever they are.
    return tuple(
        replace(word, crowd=word.crowd._replace(shifted=True))
        if isinstance(word.code, SumsCode)
        else word
        for word in words
    )


def exposed_of(words: Iterable[PlannedWord]) -> list[Exposed]:
    """What `parimend.risk.chance` has to know of words, equal ones together.

    Args:
        words: that are protected.

    >>> from parimend.codes import Promise, sums_for
    >>> large, small = (PlannedWord("w", n, 4 * n, sums_for(n, 4), Promise(4)) for n in (25, 15))
    >>> [word.times for word in exposed_of([large, small, large])]
    [2, 1]
    """
    alike = Counter((word.nbytes, word.code.n, word.promise, word.crowd) for word in words)
    # Words of 32 bits, at most: some lie at the end of a tensor, and are not full.
    sizes = [max(-(-nbytes // WORD), length) for nbytes, length, _, _ in alike]
    largest = max(sizes, default=0)
    return [
        Exposed(
            bits=8.0 * nbytes,
            failing=promise.failing(largest),
            noticed=promise.noticed,
            missed=promise.missed,
            erasures=promise.erasures,
            times=times,
            words=size,
            crowd=crowd,
            spread=max(1.0, crowd.nbytes / nbytes) if nbytes else 1.0,
        )
        for ((nbytes, _, promise, crowd), times), size in zip(alike.items(), sizes, strict=True)
    ]
