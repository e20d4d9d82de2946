"""Which tasks come next: rounds, each planned from what the complete ones before it gave.

A round is done as a whole before the next one is thought about, so what is done depends on results
alone, and not on which of them came first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parimend.campaign.confidence import bernoulli, bounded
from parimend.campaign.facts import Fact, Prepared
from parimend.campaign.spec import Spec
from parimend.campaign.stats import Row, Statistics
from parimend.campaign.task import Setting, Stratum, Task
from parimend.errors import SpecError
from parimend.experiment import Outcome

Round = Mapping[Stratum, range]
"""The numbers of the trials in every stratum."""
Rounds = Mapping[Stratum, Sequence[Sequence[Row]]]
"""The rows of every stratum, round by round."""
Value = Callable[[Row], Sequence[float]]
"""A number for each trial of a row."""


@dataclass(frozen=True)
class Unit:
    """A network and a fault: its protections meet the same faults, and stop together.

    Attributes:
        spec: of the campaign.
        network: its name.
        fault: that strikes it.
        strata: of the network.
        facts: of the network under each protection, by its name.
    """

    spec: Spec
    network: str
    fault: Setting
    strata: tuple[Stratum, ...]
    facts: Mapping[str, Fact]

    def advance(self, done: Statistics) -> tuple[list[Round], list[Task]]:
        """The rounds that are complete, and what the next one lacks; nothing if it is enough."""
        history: list[Round] = []
        begun = dict.fromkeys(self.strata, 0)
        while (size := self._size(history, sum(begun.values()), done)) > 0:
            more = self._allocate(size, history, done)
            round_ = {each: range(begun[each], begun[each] + more[each]) for each in self.strata}
            missing = [task for task in self.tasks(round_) if task not in done]
            if missing:
                return history, missing
            history.append(round_)
            begun = {each: numbers.stop for each, numbers in round_.items()}
        return history, []

    def tasks(self, round_: Round, *protections: Setting) -> Iterator[Task]:
        """The tasks of a round, of all protections or of some."""
        for setting in protections or self.spec.protections:
            for stratum in self.strata:
                yield from self.tasks_of(setting, stratum, round_[stratum])

    def tasks_of(self, protection: Setting, stratum: Stratum, numbers: range) -> Iterator[Task]:
        """The tasks of some trials of one protection in one stratum."""
        spec = self.spec
        for start in range(numbers.start, numbers.stop, spec.block):
            yield Task(
                network=self.network,
                weights=self.facts[protection.name].weights,
                metric=spec.networks[self.network].metric or "",
                protection=protection,
                fault=self.fault,
                stratum=stratum,
                seed=spec.seed,
                start=start,
                stop=min(start + spec.block, numbers.stop),
            )

    def rows(self, protection: Setting, history: Sequence[Round], done: Statistics) -> Rounds:
        """The rows of a protection after some rounds."""
        return {
            each: [
                [done[task] for task in self.tasks_of(protection, each, round_[each])]
                for round_ in history
            ]
            for each in self.strata
        }

    def event(self, row: Row) -> list[float]:
        """For each trial of a row, whether what the campaign looks for came: 1 or 0."""
        if self.spec.stop.harmed:
            return self.harmed(row)
        return row.which([Outcome(name) for name in self.spec.stop.outcomes])

    def harmed(self, row: Row) -> list[float]:
        """For each trial, whether the score is lower than that of the intact network."""
        intact = self.facts[row.task.protection.name].score
        assert intact is not None
        least = intact - self.spec.networks[self.network].slack(intact)
        return [float(score < least) for score in row.scores]

    def interval(
        self, protection: Setting, history: Sequence[Round], done: Statistics
    ) -> tuple[float, float]:
        """The confidence sequence of the event, after some rounds."""
        confidence = self.spec.stop.confidence
        rows = self.rows(protection, history, done)
        if len(rows) > 1:
            return bounded(batches(rows, self.event), confidence)
        (only,) = rows.values()
        events = flat(only, self.event)
        return bernoulli(int(sum(events)), len(events), confidence)

    def _size(self, history: list[Round], begun: int, done: Statistics) -> int:
        """Trials in the next round; 0 if there are enough."""
        stop, least = self.spec.stop, len(self.strata)
        left = stop.trials - begun
        if left < least:
            return 0
        if stop.width is None and least == 1:
            return left
        if history and stop.width is not None:
            ends = [self.interval(each, history, done) for each in self.spec.protections]
            if all(high - low <= stop.width for low, high in ends):
                return 0
        size = max(stop.first, 2 * least, begun // 2)
        return left if left - size < least else min(size, left)

    def _allocate(
        self, size: int, history: Sequence[Round], done: Statistics
    ) -> dict[Stratum, int]:
        """Neyman's allocation: by weight and spread, but a quarter is dealt out evenly.

        A stratum in which nothing was seen may still hold something. The spread is the mean over
        all protections, which meet the same faults.
        """
        found = [self.rows(each, history, done) for each in self.spec.protections]
        spreads = [self._spread(rows[each] for rows in found) for each in self.strata]
        wanted = np.array([each.weight for each in self.strata]) * spreads
        least = max(1, size // (4 * len(self.strata)))
        free = size - least * len(self.strata)
        exact = free * wanted / wanted.sum()
        counts = np.floor(exact).astype(int)
        order = np.argsort(counts - exact, kind="stable")  # the largest remainders first
        counts[order[: free - int(counts.sum())]] += 1
        return dict(zip(self.strata, (counts + least).tolist(), strict=True))

    def _spread(self, samples: Iterable[Sequence[Sequence[Row]]]) -> float:
        variances = []
        for rounds in samples:
            events = flat(rounds, self.event)
            share = (sum(events) + 0.5) / (len(events) + 1.0)
            variances.append(share * (1.0 - share))
        return math.sqrt(sum(variances) / len(variances))


def flat(rounds: Sequence[Sequence[Row]], value: Value) -> list[float]:
    """A number for each trial of one stratum."""
    return [x for round_ in rounds for row in round_ for x in value(row)]


def batches(rows: Rounds, value: Value) -> list[float]:
    """Unbiased estimates of the whole, one after the other, from trials of every stratum.

    A round's trials are dealt out to as many batches as its smallest stratum has trials; a batch
    weighs the means of its strata. Given the rounds before, each has the mean that is looked for,
    however the sizes of the rounds depend on them.

    Args:
        rows: of every stratum, round by round.
        value: of every trial of a row, in 0 .. 1.
    """
    found: list[float] = []
    for round_ in zip(*rows.values(), strict=True):
        values = [np.concatenate([value(row) for row in part]) for part in round_]
        count = min(len(part) for part in values)
        whole = np.zeros(count)
        for stratum, part in zip(rows, values, strict=True):
            means = [float(batch.mean()) for batch in np.array_split(part, count)]
            whole += stratum.weight * np.array(means)
        found += np.clip(whole, 0.0, 1.0).tolist()
    return found


def units(spec: Spec, prepared: Prepared) -> list[Unit]:
    """All of a campaign.

    Raises:
        SpecError: if there are fewer trials than strata.
    """
    found = []
    for network, strata in prepared.strata.items():
        if spec.strata.asked and spec.stop.trials < 2 * len(strata):
            raise SpecError(
                f"[stop]: {spec.stop.trials} trials are too few for the {len(strata)} strata of "
                f"{network}: take {2 * len(strata)} or more, or fewer strata"
            )
        facts = prepared.of(network)
        found += [Unit(spec, network, fault, strata, facts) for fault in spec.faults]
    return found
