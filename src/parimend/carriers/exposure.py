"""Protected words as an environment sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from parimend.codes import Promise
from parimend.risk.chance import Exposed
from parimend.words.bits import WORD


def exposed(words: Iterable[tuple[int, int, Promise]]) -> list[Exposed]:
    """What `parimend.risk.chance` has to know of words, equal ones together.

    Args:
        words: of each its bytes, the length of its code, and what is promised of it.

    >>> four = Promise(4)
    >>> [word.times for word in exposed([(100, 25, four), (60, 15, four), (100, 25, four)])]
    [2, 1]
    """
    alike = Counter(words)
    # Words of 32 bits, at most: some lie at the end of a tensor, and are not full.
    sizes = [max(-(-nbytes // WORD), n) for nbytes, n, _ in alike]
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
        )
        for ((nbytes, _, promise), times), size in zip(alike.items(), sizes, strict=True)
    ]
