"""Protected words as an environment sees them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from parimend.codes import Promise
from parimend.risk.chance import Exposed


def exposed(words: Iterable[tuple[int, Promise] | tuple[int, Promise, int]]) -> list[Exposed]:
    """What `parimend.risk.chance` has to know of words, equal ones together.

    Args:
        words: of each its bytes, what is promised of it and, if that is known, of how many words of
            32 bits it is, at most.

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
            words=size[0] if size else math.inf,
        )
        for (nbytes, promise, *size), times in Counter(words).items()
    ]
