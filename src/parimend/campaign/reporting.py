"""What a campaign says: a line for each network, protection and fault, and paired comparisons.

`lines` and `compare` give records; whatever shows them, on a terminal or a page, starts there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from parimend.arguments import path_of
from parimend.atomic import PathLike
from parimend.campaign.belonging import require_apart, require_same, terms
from parimend.campaign.estimates import bonett_price, mcnemar, mean, probability, sequence
from parimend.campaign.facts import Fact
from parimend.campaign.rounds import Rounds, Unit, Value, units
from parimend.campaign.stats import Row, Statistics
from parimend.campaign.store import Store
from parimend.campaign.task import Setting, Stratum, Task
from parimend.errors import MismatchError, SpecError
from parimend.experiment import Estimate, Outcome
from parimend.record import Record


@dataclass(frozen=True, repr=False)
class Line(Record):
    """What became of one network under one protection and one kind of fault.

    Attributes:
        network, protection, fault: their names in the spec.
        trials: that count. Of a campaign with strata these are those of complete rounds.
        outcomes: an estimate for each `Outcome`.
        event: an estimate of what the campaign looks for, see `Stop`.
        harmed: of a score lower than the intact network's; None without a metric.
        score: mean after the repair; None without a metric.
        intact: score of the protected network that nothing strikes.
        change: of the score by protecting, without any fault.
        nbytes: that the protection keeps beside the weights.
        seconds: median of a repair.
        guaranteed: any that many wrong words are repaired, always; 0 where nothing is proven.
        where: what the line is of: all places, or one stratum.
    """

    network: str
    protection: str
    fault: str
    trials: int
    outcomes: Mapping[str, Estimate]
    event: Estimate
    harmed: Estimate | None
    score: Estimate | None
    intact: float | None
    change: float | None
    nbytes: int
    seconds: float
    guaranteed: int
    where: Stratum


@dataclass(frozen=True, repr=False)
class Comparison(Record):
    """Two protections under the same faults, trial by trial.

    Attributes:
        network, fault: their names.
        a, b: the two, as they were asked for.
        trials: of the tasks that both have.
        only_a, only_b: trials in which the event came with one of them alone.
        p: that the difference is chance (McNemar's exact test); None with strata, or if the
            trials were ended by what was seen.
        difference: of the probabilities of the event, a - b. It excludes zero if a and b differ.
        score: difference of the mean scores, a - b; None without a metric.
    """

    network: str
    fault: str
    a: str
    b: str
    trials: int
    only_a: int
    only_b: int
    p: float | None
    difference: Estimate
    score: Estimate | None


@dataclass(frozen=True)
class _Sample:
    """Trials of one protection, stratum by stratum and round by round."""

    unit: Unit
    protection: Setting
    rows: Rounds

    @property
    def fact(self) -> Fact:
        return self.unit.facts[self.protection.name]

    @property
    def flat(self) -> list[Row]:
        return [row for rounds in self.rows.values() for round_ in rounds for row in round_]

    @property
    def sequential(self) -> bool:
        return len(self.unit.strata) > 1 or self.unit.spec.stop.width is not None

    @property
    def terms(self) -> dict[str, Any]:
        return terms(self.unit, self.protection.name)

    def within(self, stratum: Stratum) -> _Sample:
        """The trials of one stratum, which is all that there is then."""
        alone = replace(stratum, weight=1.0)
        return _Sample(self.unit, self.protection, {alone: self.rows[stratum]})


def lines(*outs: PathLike, strata: bool = False) -> list[Line]:
    """The lines of a campaign, or of several that are added up.

    Args:
        outs: folders of campaigns.
        strata: a line for each stratum, after that of all places.

    Raises:
        FormatError, MismatchError: as `Store` does; or if campaigns do not belong together: what
            has one name has to be the same, and no trial may be in two tasks.
    """
    groups: dict[tuple[str, str, str], list[_Sample]] = {}
    for sample in _samples(outs):
        key = (sample.unit.network, sample.protection.name, sample.unit.fault.name)
        groups.setdefault(key, []).append(sample)
    found = []
    for key, samples in groups.items():
        _require_one(key, samples)
        found.append(_line(*key, samples, Stratum()))
        parts = samples[0].unit.strata if strata else ()
        for stratum in parts if len(parts) > 1 else ():
            within = [sample.within(stratum) for sample in samples]
            found.append(_line(*key, within, stratum))
    return found


def compare(a: PathLike, b: PathLike) -> list[Comparison]:
    """Compare two protections under the same faults, or two campaigns.

    Args:
        a: ``DIR:PROTECTION``, or ``DIR`` for all its protections, each with its namesake in b.
        b: likewise.

    Raises:
        SpecError: if there is no such protection, or they share no trials; says why.
        FormatError, MismatchError: as `Store` does; or if they look for other things.
    """
    path_of(a, "a"), path_of(b, "b")  # refuse what is none
    (out_a, name_a), (out_b, name_b) = folder_of(a), folder_of(b)
    left, right = _chosen(Path(out_a), name_a), _chosen(Path(out_b), name_b)
    found = []
    for one in left:
        for other in right:
            named = bool(name_a) or one.protection.name == other.protection.name
            same = (one.unit.network, one.unit.fault.label, one.fact.weights)
            if named and same == (other.unit.network, other.unit.fault.label, other.fact.weights):
                found += _compared(one, other, f"{os.fspath(a)} and {os.fspath(b)}", out_a, out_b)
    if not found:
        raise SpecError(
            f"{a} and {b} share no trials: compare campaigns of the same networks, faults, strata, "
            "seed and block, or two protections of one campaign (DIR:PROTECTION)"
        )
    return found


def confidence_of(*outs: PathLike) -> float:
    """Of all intervals of some campaigns.

    Raises:
        FormatError, MismatchError: as `Store` does; or if they have intervals of several kinds.
        SpecError: without campaigns.
    """
    if not outs:
        raise SpecError("there is no campaign: name the folder of one, or of several")
    found = {os.fspath(out): Store(out).spec.stop.confidence for out in outs}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{100 * level:g} % in {out}" for out, level in found.items())
        raise MismatchError(f"one page has intervals of one confidence ({said}): report one by one")
    return next(iter(found.values()))


def _require_one(key: Sequence[str], samples: Sequence[_Sample]) -> None:
    """Refuse samples of one name that are not of one thing, or have a trial twice."""
    first, what = samples[0], f"campaigns with {', '.join(key)}"
    for other in samples[1:]:
        one, two = ({**each.terms, "protection": each.protection} for each in (first, other))
        require_same(what, one, two)
    require_apart(what, (row for sample in samples for row in sample.flat))


def _samples(outs: Sequence[PathLike]) -> Iterator[_Sample]:
    every, counted = Statistics(), set[str]()
    for out in outs:
        store = Store(out)
        rows = store.statistics()
        every += rows  # refuses a task with two results
        if store.prepared is None:
            continue
        # A row that another folder has as well counts once.
        fresh = Statistics(row for key, row in rows.rows.items() if key not in counted)
        named: dict[tuple[str, ...], list[Row]] = {}
        for row in fresh.sorted():
            named.setdefault(_names(row.task), []).append(row)
        for unit in units(store.spec, store.prepared):
            complete = unit.advance(rows)[0]
            for protection in store.spec.protections:
                rounds = ((each, unit.tasks(each, protection)) for each in complete)
                history = [each for each, tasks in rounds if all(task in fresh for task in tasks)]
                mine = named.get((unit.network, protection.name, unit.fault.name), [])
                sample = _sample(unit, protection, history, fresh, mine)
                # Not those of a round that is not complete: another folder may have all of it.
                counted.update(row.task.key for row in sample.flat)
                yield sample


def _names(task: Task) -> tuple[str, ...]:
    return task.network, task.protection.name, task.fault.name


def _sample(
    unit: Unit, protection: Setting, history: Any, done: Statistics, named: Sequence[Row]
) -> _Sample:
    """The sample of a protection; `named` are the rows of its name, in their order."""
    if len(unit.strata) > 1:
        return _Sample(unit, protection, unit.rows(protection, history, done))
    (stratum,), weights = unit.strata, unit.facts[protection.name].weights
    mine = [  # also of a round that is not complete; what else is there is of another campaign
        row
        for row in named
        if (row.task.network, row.task.weights, row.task.protection, row.task.fault)
        == (unit.network, weights, protection, unit.fault)
        and (row.task.stratum, row.task.seed) == (stratum, unit.spec.seed)
    ]
    return _Sample(unit, protection, {stratum: [mine]})


def folder_of(which: PathLike) -> tuple[str, str]:
    """The folder and the protection of ``DIR:PROTECTION``, or of ``DIR`` alone the folder and
    nothing. Names of folders may have colons, too: one that holds a campaign is meant then.
    """
    text = os.fspath(which)
    colons = [at for at, letter in enumerate(text) if letter == ":"]
    for at in (len(text), *reversed(colons)):
        if Path(text[:at], "campaign.json").exists():
            return text[:at], text[at + 1 :]
    out, _, name = text.partition(":")
    return out, name


def _chosen(out: Path, name: str) -> list[_Sample]:
    """The samples of a campaign, or of one protection in it."""
    samples = list(_samples([out]))
    names = {sample.protection.name for sample in samples}
    if name and name not in names:
        known = f"there are {', '.join(sorted(names))}" if names else "there are no results yet"
        raise SpecError(f"{out} has no protection {name!r}; {known}")
    return [sample for sample in samples if not name or sample.protection.name == name]


def _line(
    network: str, protection: str, fault: str, samples: list[_Sample], where: Stratum
) -> Line:
    first, rounds = samples[0], [sample.rows for sample in samples]
    rows = [row for sample in samples for row in sample.flat]
    fact = first.fact
    change = None if fact.score is None or fact.given is None else fact.score - fact.given
    confidence = first.unit.spec.stop.confidence
    scored = bool(rows) and fact.score is not None
    sequential = any(sample.sequential for sample in samples)

    def share(event: Value) -> Estimate:
        return probability(rounds, event, confidence, sequential)

    return Line(
        network=network,
        protection=protection,
        fault=fault,
        trials=sum(len(row.outcomes) for row in rows),
        outcomes={each.value: share(partial(Row.which, outcomes=[each])) for each in Outcome},
        event=share(first.unit.event),
        harmed=share(first.unit.harmed) if scored else None,
        score=mean(rounds, lambda row: row.scores, confidence) if scored else None,
        intact=fact.score,
        change=change,
        nbytes=fact.nbytes,
        seconds=median(time for row in rows for time in row.seconds) if rows else 0.0,
        guaranteed=fact.guaranteed,
        where=where,
    )


def _compared(one: _Sample, other: _Sample, what: str, a: str, b: str) -> list[Comparison]:
    """The comparison of two samples, if they share trials.

    Args:
        one, other: the samples.
        what: is compared, for messages.
        a, b: their folders.
    """
    partners = {_place(row): row for row in other.flat}
    shared = [
        [[row for row in part if _place(row) in partners] for part in round_]
        for round_ in zip(*one.rows.values(), strict=True)
    ]
    # A round counts where all strata have trials in it: its batches are estimates of the whole.
    whole = [round_ for round_ in shared if all(round_)]
    if not whole:
        return []
    paired = _Sample(
        one.unit,
        one.protection,
        dict(zip(one.rows, map(list, zip(*whole, strict=True)), strict=True)),
    )
    require_same(what, one.terms, other.terms)

    def gap(row: Row) -> list[float]:
        """Of the events in each trial: 1, 0 or -1."""
        theirs = other.unit.event(partners[_place(row)])
        return [x - y for x, y in zip(one.unit.event(row), theirs, strict=True)]

    def score_gap(row: Row) -> list[float]:
        theirs = partners[_place(row)].scores
        return [x - y for x, y in zip(row.scores, theirs, strict=True)]

    confidence = one.unit.spec.stop.confidence
    gaps = [x for row in paired.flat for x in gap(row)]
    only_a, only_b = gaps.count(1.0), gaps.count(-1.0)
    fixed = not (one.sequential or other.sequential)
    scored = all(row.scores for row in paired.flat)
    return [
        Comparison(
            network=one.unit.network,
            fault=one.unit.fault.name,
            a=f"{a}:{one.protection.name}",
            b=f"{b}:{other.protection.name}",
            trials=len(gaps),
            only_a=only_a,
            only_b=only_b,
            p=mcnemar(only_a, only_b) if fixed else None,
            difference=(
                bonett_price(only_a, only_b, len(gaps), confidence)
                if fixed
                else sequence(paired.rows, gap, confidence)
            ),
            score=mean([paired.rows], score_gap, confidence) if scored else None,
        )
    ]


def _place(row: Row) -> tuple[Any, ...]:
    return row.task.seed, row.task.stratum.name, row.task.start, row.task.stop
