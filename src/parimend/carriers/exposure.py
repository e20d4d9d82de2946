"""Protected words as an environment sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from parimend.carriers.carrier import PlannedWord
from parimend.risk.exposed import Exposed
from parimend.words.bits import WORD


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
