"""Protected words as an environment sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from parimend.codes import Code, SumsCode
from parimend.risk.crowd import Crowd
from parimend.risk.exposed import Exposed
from parimend.words.bits import WORD
from parimend.words.layout import Word

if TYPE_CHECKING:
    from parimend.carriers.carrier import PlannedWord


def crowded(code: Code, word: Word) -> Crowd:
    """The memory of a word where events strike more in it than they do in other words: tensors that
    lie closer together than words of 32 bits (a carrier that counts weights takes them one after
    the other, whatever tensor they are in), and planes.
    """
    if isinstance(code, SumsCode) and (word.odd or word.masked):
        return Crowd(sum(part.nbytes for part in word), word.odd)
    return Crowd()


def exposed_of(words: Iterable[PlannedWord]) -> list[Exposed]:
    """What `parimend.risk.chance` has to know of words, equal ones together.

    Args:
        words: that are protected.

    >>> from parimend.carriers.carrier import PlannedWord
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
