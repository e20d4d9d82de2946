"""What an environment does to a network in some time, at its published rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from parimend.campaign.bits import bits_of, by_width, merged, word_at
from parimend.errors import FaultError
from parimend.faults import FaultList, Words, draw, select
from parimend.risk import Environment
from parimend.rng import Stream
from parimend.words.bits import WORD

_WORD_BITS = 8 * WORD
MOST_EVENTS = 1e6
"""More are expected at once where somebody meant other units."""


@dataclass(frozen=True)
class EnvironmentDamage:
    """Events of an environment, as many as come in some days.

    Their number is Poisson; each strikes a run of so many words of 32 bits, of whatever dtype: a
    single one by a flipped bit, longer runs by random patterns. Tensors lie one after the other,
    each begins with a word of its own, and a run goes on from one to the next; elements of 64 bits
    are struck whole. Cells that fail for good are left out: there is ``stays`` for them.

    Attributes:
        where: the environment.
        days: between two checks.
        only: shell patterns of tensors; None: all of them.
        beside: whether what a protection keeps beside the weights is struck as well.
    """

    where: Environment
    days: float
    only: Sequence[str] | None = None
    beside: bool = False
    stays: ClassVar[bool] = False

    def draw(self, words: Iterable[Words], seed: int) -> FaultList:
        """Draw the damage of a seed for a network, which is not changed.

        Raises:
            FaultError: if a tensor cannot be struck, or more than a million events are expected.
        """
        return self._struck(select(tuple(words), self.only), seed)

    def draw_beside(
        self, kept: Iterable[Words], words: Iterable[Words], seed: int
    ) -> FaultList | None:
        """Draw the damage of what is kept; None if there is none. See `Damage.draw_beside`."""
        kept, seed = tuple(kept), int(Stream(seed, "campaign beside").raw(1)[0])
        return self._struck(kept, seed) if self.beside and kept else None

    def _struck(self, chosen: Sequence[Words], seed: int) -> FaultList:
        bits = bits_of(chosen)
        stream = Stream(seed, "campaign events")
        events = self._events(self.where.expected(bits, self.days), stream)
        lists = [_event(chosen, size, own) for size, own in events]
        return merged(lists, seed, self.where.name, "events")

    def _events(self, expected: float, stream: Stream) -> list[tuple[int, int]]:
        """The size and the seed of every event."""
        from scipy.stats import poisson  # takes half a second to load

        if expected > MOST_EVENTS:
            raise FaultError(
                f"{self.where.name}: in {self.days:g} days {expected:.3g} events are expected, and "
                f"at most {MOST_EVENTS:.0e} can be drawn: take fewer days"
            )
        count = int(poisson.ppf(stream.uniforms(1)[0] + 2.0**-54, expected))
        sizes = self.where.events.drawn(stream.uniforms(count))
        return list(zip(sizes, stream.raw(count).tolist(), strict=True))


def _event(chosen: Sequence[Words], size: int, seed: int) -> FaultList:
    """What one event of so many words strikes."""
    if size == 1:
        return draw("bitflip", _struck_once(chosen, seed), 1, seed)
    left, begin = size, _begin(chosen, size, seed)
    firsts, struck = dict[str, int](), list[Words]()
    for each in chosen:
        width = each.format.bits
        if left > 0 and begin < len(each):
            first = begin - begin % max(1, _WORD_BITS // width)  # where its word begins
            some = each.bits[first : first + -(-left * _WORD_BITS // width)]
            firsts[each.name] = first
            struck.append(Words(each.name, some, each.dtype))
            left -= -(-len(some) * width // _WORD_BITS)
        begin = max(begin - len(each), 0)
    found = draw("random", struck, sum(map(len, struck)), seed)
    shift = np.array([firsts[name] for name in found.names], np.int64)
    return replace(found, index=found.index + shift[found.tensor])


def _struck_once(chosen: Sequence[Words], seed: int) -> list[Words]:
    """The tensors of one width that a flipped bit is in."""
    groups = by_width(chosen)
    bit = int(Stream(seed, "campaign width").integers(bits_of(chosen), 1)[0])
    for group in groups:
        if bit < bits_of(group):
            break
        bit -= bits_of(group)
    return group


def _begin(chosen: Sequence[Words], size: int, seed: int) -> int:
    """An element in the first word of a run, which leaves room for it, each as likely as it has
    bits.
    """
    total = bits_of(chosen)
    room = max(total - _WORD_BITS * size, 0) + _WORD_BITS
    return word_at(chosen, int(Stream(seed, "campaign run").integers(min(room, total), 1)[0]))
