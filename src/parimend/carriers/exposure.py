"""Protected words as an environment sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from parimend.codes import Promise
from parimend.risk.chance import Exposed


def exposed(words: Iterable[tuple[int, Promise]]) -> list[Exposed]:
    """What `parimend.risk.chance` has to know of words, equal ones together.

    Args:
        words: of each its bytes, and what is promised of it.

    >>> [word.times for word in exposed([(100, Promise(4)), (60, Promise(4)), (100, Promise(4))])]
    [2, 1]
    """
    return [
        Exposed(
            bits=8.0 * nbytes,
            failing=promise.failing(),
            noticed=promise.noticed,
            missed=promise.missed,
            erasures=promise.erasures,
            times=times,
        )
        for (nbytes, promise), times in Counter(words).items()
    ]
