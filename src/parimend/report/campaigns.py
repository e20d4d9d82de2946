"""Sheets of campaigns and of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from parimend.atomic import PathLike
from parimend.campaign import (
    Comparison,
    Line,
    Setting,
    Store,
    Stratum,
    lines,
    status,
)
from parimend.experiment import Outcome
from parimend.report.sheet import Chart, Column, Known, Sheet, Value, percent

_AMOUNTS = ("rate", "count", "days")
"""Options of a fault that say how much of it there is."""


def campaign_sheets(*outs: PathLike) -> list[Sheet]:
    """What became of the trials of a campaign, or of several that are added up.

    Args:
        outs: folders of campaigns.

    Returns:
        ``outcomes``, and with strata ``strata``: the same for each of them.

    Raises:
        FormatError, MismatchError: as `parimend.campaign.lines` does.
    """
    found = lines(*outs, strata=True)
    stores = [Store(out) for out in outs]
    # Campaigns of other networks or protections may call other faults the same.
    faults = {
        (network, protection.name, fault.name): fault
        for spec in (store.spec for store in stores)
        for network, protection, fault in product(spec.networks, spec.protections, spec.faults)
    }
    scored = any(line.score is not None for line in found)
    whole = [line for line in found if line.where == Stratum()]
    about = (
        "Every protection met the same seeded faults. A row is what became of the trials of one "
        "network under one protection and one kind of fault; where nothing was seen, a bound of "
        "the share follows the <."
    )
    campaigns = [status(store.path) for store in stores]
    for now in campaigns:
        if not now.finished:
            about += f" {now.path} is not finished: {now.trials:,} trials so far."
    for said in dict.fromkeys(reach.said for now in campaigns for reach in now.reach):
        about += f" {said}" * bool(said)
    sheets = [_Table(faults, whole, scored).sheet("outcomes", about)]
    if len(whole) < len(found):
        parts = [line for line in found if line.where != Stratum()]
        about = "The same, for the places that were struck: each stratum by itself."
        sheets.append(_Table(faults, parts, scored, strata=True).sheet("strata", about))
    return sheets


def comparison_sheets(found: Sequence[Comparison]) -> list[Sheet]:
    """Two protections under the same faults, trial by trial.

    Args:
        found: as `parimend.campaign.compare` gives it.
    """
    share = "share of trials with what is looked for, a - b."
    score = "difference of the mean scores, a - b."
    columns = (
        Column("network", choice=True),
        Column("fault", choice=True),
        Column("a", choice=True),
        Column("b", choice=True),
        Column("trials"),
        Column("only a", note="trials in which what is looked for came with a alone."),
        Column("only b"),
        Column("difference", "points of %", Known.MEASURED, share, neutral=0.0),
        Column("p", note="that the difference is chance (McNemar's exact test)."),
        Column("score", "", Known.MEASURED, score, neutral=0.0),
    )
    rows = [
        (each.network, each.fault, each.a, each.b, each.trials, each.only_a, each.only_b)
        + (percent(each.difference), each.p, each.score)
        for each in found
    ]
    about = (
        "Paired differences: both protections met the same faults, trial by trial. A star marks "
        "an interval that leaves out zero."
    )
    values = ("difference", *("score",) * any(each.score is not None for each in found))
    chart = Chart(("fault",), values, ("a", "b", "network"), lying=True)
    return [Sheet("comparison", about, columns, rows, chart)]


@dataclass(frozen=True)
class _Table:
    """Columns, rows and chart of some lines."""

    faults: dict[tuple[str, str, str], Setting]
    lines: Sequence[Line]
    scored: bool
    strata: bool = False

    @property
    def amounts(self) -> list[str]:
        """How the amount of every fault is said."""
        options = [dict(self._fault(line).options) for line in self.lines]
        return [name for name in _AMOUNTS if any(name in each for each in options)]

    def sheet(self, name: str, about: str) -> Sheet:
        rows = [self._row(line) for line in self.lines]
        return Sheet(name, about, self._columns(), rows, self._chart())

    def _columns(self) -> tuple[Column, ...]:
        where = (Column("layer", choice=True), Column("bits", choice=True)) * self.strata
        head = ("network", "protection", "fault", "kind")
        scores = (
            Column("score", "", Known.MEASURED, "mean after the repair."),
            Column("intact", "", Known.MEASURED, "score of the protected network without damage."),
            Column("change", "", Known.MEASURED, "of the score by protecting, without damage."),
            Column("harmed", "%", Known.MEASURED, "trials with a lower score than intact."),
        )
        guaranteed = "any that many wrong words of 32 bits are repaired, always."
        return (
            *(Column(name, choice=True) for name in head),
            *(Column(name, choice=True, log=True) for name in self.amounts),
            *where,
            Column("trials"),
            Column("guaranteed", "words", Known.PROVEN, guaranteed),
            *(Column(each, "%", Known.MEASURED, f"{each.meaning}.") for each in Outcome),
            *scores * self.scored,
            Column("kept", "bytes", note="beside the weights."),
            Column("repair", "ms", Known.MEASURED, "median time."),
        )

    def _chart(self) -> Chart:
        values = (*("score", "harmed") * self.scored, *(each.value for each in reversed(Outcome)))
        if self.strata:
            return Chart(
                ("layer", "bits"), values, ("protection", "fault", "network", "bits"), lying=True
            )
        along = (*(name for name in self.amounts if self._spread(name)), "fault")
        by = ("protection", *("kind",) * (along[0] != "fault"), "network")
        panels = tuple((along[0], value) for value in ("score", "silent")) if self.scored else ()
        return Chart(along, values, by, joined=along[0] != "fault", panels=panels)

    def _fault(self, line: Line) -> Setting:
        return self.faults[line.network, line.protection, line.fault]

    def _spread(self, name: str) -> bool:
        """Whether all faults have this amount, of each kind several."""
        options = [dict(self._fault(line).options) for line in self.lines]
        return len({each.get(name) for each in options}) > 1 and all(name in x for x in options)

    def _row(self, line: Line) -> tuple[Value, ...]:
        setting = self._fault(line)
        options: dict[str, Any] = dict(setting.options)
        low, high = line.where.bits or (None, None)
        where = (", ".join(line.where.tensors) or "all", "all" if low is None else f"{low}-{high}")
        scores = (line.score, line.intact, line.change, percent(line.harmed))
        return (
            *(line.network, line.protection, line.fault, setting.kind),
            *(options.get(name) for name in self.amounts),
            *where * self.strata,
            line.trials,
            line.guaranteed,
            *(percent(line.outcomes[each.value]) for each in Outcome),
            *scores * self.scored,
            line.nbytes,
            1e3 * line.seconds,
        )
