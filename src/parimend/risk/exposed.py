"""Protected words as an environment sees them, and how it strikes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.risk.crowd import Crowd
from parimend.risk.environment import Environment
from parimend.risk.events import Events

WORD_BITS = 32.0


class Exposed(NamedTuple):
    """A protected word as an environment sees it.

    Attributes:
        bits: of the word.
        failing: (t + 1,): with which probability e wrong words in it are not repaired, at most, not
            decreasing; more than t never are. See `parimend.codes.promise.Promise.failing`.
        noticed: any that many wrong words are noticed, always.
        missed: probability that more than that are not.
        erasures: whether words that are known to fail cost half of what others do.
        times: how many such words there are.
        words: of 32 bits that it has, at most; no more can be wrong at once.
        crowd: which of its tensors lie closer together than their words.
        spread: how many times as many bits its elements have as are in the word: more than 1 of
            planes, in each of which an event of several words strikes as many.
    """

    bits: float
    failing: NDArray[np.float64]
    noticed: int = 0
    missed: float = 0.0
    erasures: bool = False
    times: int = 1
    words: float = math.inf
    crowd: Crowd = Crowd()
    spread: float = 1.0

    @property
    def errors(self) -> int:
        """The budget."""
        return len(self.failing) - 1

    @property
    def reach(self) -> int:
        """Wrong words up to which they are counted: the budget, or all that there are."""
        return int(min(self.errors, self.words))

    @property
    def beyond(self) -> float:
        """With which probability more events than that are not repaired, at most."""
        return 1.0 if self.words > self.errors else float(self.failing[self.reach])


def seen(word: Exposed, where: Environment) -> Exposed:
    """A word as it is where it may be told what is struck. All are erasures then, of which there
    may be twice as many as of errors; those that fail for good take no less of them.

    Example:
        >>> word = Exposed(bits=1e9, failing=np.zeros(5), erasures=True)
        >>> seen(word, Environment("disk", told=True)).errors
        8
    """
    if not where.told:
        return word
    word = word._replace(missed=0.0)
    if not word.erasures:
        return word
    erased = np.arange(2 * word.errors + 1)
    return word._replace(failing=word.failing[(erased + 1) // 2], erasures=False)


def around(
    word: Exposed, where: Environment, beside: Sequence[Exposed] = ()
) -> tuple[Exposed, Environment]:
    """A word and an environment with its events as they strike the word: with as many words as
    there may be in a `Crowd`; those of several words in a plane wherever they are; and those that
    begin before a word and reach into it, unless they are lost for certain where they begin.

    Args:
        word: that is struck.
        where: it is.
        beside: all words of that memory, itself too; without them the others are as it is.

    >>> word, where = Exposed(800.0, np.zeros(5)), Environment("x", 1e-9, Events.of("1:0.5,4:0.5"))
    >>> plane, there = around(word._replace(spread=4.0), where)
    >>> plane.bits, there.events.shares
    (2000.0, (0.2, 0.8))
    >>> around(word._replace(words=25), where)[0].bits  # 3 of 25 longer ones more
    848.0
    """
    events = word.crowd.struck_by(where.events, within=where.told)
    if events.largest == 1 or (word.spread == 1.0 and math.isinf(word.words)):
        return word, where if events is where.events else replace(where, events=events)
    length = math.inf if math.isinf(word.words) else word.spread * word.bits / WORD_BITS

    def often(size: int) -> float:
        if size == 1:
            return 1.0
        part = 1.0 if size <= word.errors else _unlost(word, where, size, beside)
        return word.spread * (1.0 + part * (size - 1) / length)

    pairs = zip(events.sizes, events.shares, strict=True)
    shares = {size: share * often(size) for size, share in pairs}
    times = math.fsum(shares.values())
    events = Events.of({size: share / times for size, share in shares.items()})
    hard_rate = where.hard_rate / times  # cells that fail for good are single ones
    there = replace(where, events=events, hard_rate=hard_rate)
    return word._replace(bits=word.bits * times), there


def _unlost(word: Exposed, where: Environment, size: int, beside: Sequence[Exposed]) -> float:
    """How much of what reaches into a word counts there, of events of more words than its budget:
    what begins in another word is lost there already, but where that has no more words than its
    budget, or a budget that is enough. No more are lost than there are in all.
    """
    if word.beyond == 0.0:
        return 0.0
    # Elsewhere it may strike fewer words than here.
    at_least = min(n for n in where.events.sizes if n > 1 and word.crowd.most(n) >= size)
    certain = [each for each in beside if at_least > each.errors and each.beyond >= 1.0]
    if len(certain) == len(beside):
        return 0.0
    if word.beyond < 1.0:  # one event may be several words' chance
        return 1.0
    there = math.fsum(each.times * each.bits for each in beside) / WORD_BITS
    counted = math.fsum(each.times * each.spread * each.bits for each in certain) / WORD_BITS
    times = sum(each.times for each in certain) or word.times
    # All that begins early enough; more often in a small memory, if events lie wholly in it.
    more = there / (there - size + 1) if there >= size else math.inf
    reaching = more * (times * (size - 1) + counted) - counted
    return max(0.0, min(there - counted, reaching)) / (times * (size - 1))
