"""What an environment does to a network in some time, at its published rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from parimend.errors import FaultError
from parimend.faults import FaultList, Words, draw, select
from parimend.risk import Environment
from parimend.rng import Stream

MOST_EVENTS = 1e6
"""More are expected at once where somebody meant other units."""


@dataclass(frozen=True)
class Weather:
    """Events of an environment, as many as come in some days.

    Their number is Poisson; each strikes a run of words of 32 bits or, of other dtypes, of as many
    elements: a single one by a flipped bit, longer runs by random patterns. Tensors lie one after
    the other, and a run goes on from one to the next; how much of the first and last it strikes is
    that of the run, and where in them is drawn. Cells that fail for
    good are left out: there is ``stays`` for them.

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
        bits = sum(len(each) * each.format.bits for each in chosen)
        stream = Stream(seed, "campaign events")
        lists = [
            found
            for size, own in self._events(self.where.expected(bits, self.days), stream)
            for found in _event(chosen, size, own)
        ]
        return merged(lists, seed, self.where.name)

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


def _event(chosen: Sequence[Words], size: int, seed: int) -> Iterator[FaultList]:
    """What one event of so many words strikes."""
    if size == 1:
        yield draw("bitflip", chosen, 1, seed)
        return
    total = sum(map(len, chosen))
    begin = int(Stream(seed, "campaign run").integers(max(total - size, 0) + 1, 1)[0])
    first = 0
    for each in chosen:
        count = min(first + len(each), begin + size) - max(first, begin)
        first += len(each)
        if count > 0:
            yield draw("burst", [each], count, seed)


def merged(lists: Iterable[FaultList], seed: int, kind: str) -> FaultList:
    """Faults that come one after the other, as one list, in which no word occurs twice."""
    dtypes: dict[str, str] = {}
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for faults in lists:
        for fault in faults:
            dtypes[fault.tensor] = fault.dtype
            before, after = found.get((fault.tensor, fault.index), (fault.before, fault.before))
            found[fault.tensor, fault.index] = before, after ^ fault.before ^ fault.after
    rows = sorted((*place, *both) for place, both in found.items() if both[0] != both[1])
    names = sorted({row[0] for row in rows})
    number = {name: place for place, name in enumerate(names)}
    return FaultList(
        seed=seed,
        kind=kind,
        placement="events",
        names=tuple(names),
        dtypes=tuple(dtypes[name] for name in names),
        tensor=np.array([number[row[0]] for row in rows], np.int64),
        index=np.array([row[1] for row in rows], np.int64),
        before=np.array([row[2] for row in rows], np.uint64),
        after=np.array([row[3] for row in rows], np.uint64),
    )
