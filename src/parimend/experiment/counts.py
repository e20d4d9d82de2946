"""Outcomes of trials and how often they came: frozen rows that add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from parimend.experiment.estimates import Rate
from parimend.outcomes import Verdict


class Outcome(StrEnum):
    """What came of one trial; `meaning` says it in words.

    >>> Outcome.SILENT.meaning
    'nothing was found, and something is wrong'
    """

    MASKED = "masked"
    REPAIRED = "repaired"
    DETECTED = "detected"
    MISCORRECTED = "miscorrected"
    SILENT = "silent"

    @property
    def meaning(self) -> str:
        """What came of such a trial, in words."""
        return _MEANINGS[self]

    @classmethod
    def of(cls, verdict: Verdict, same: bool) -> Outcome:
        """The outcome of a repair that ended with ``verdict``; ``same``: the intact state is back.

        >>> Outcome.of(Verdict.CORRECTED, same=False).value
        'miscorrected'
        """
        if not verdict.ok:
            return cls.DETECTED
        if verdict is Verdict.CORRECTED:
            return cls.REPAIRED if same else cls.MISCORRECTED
        return cls.MASKED if same else cls.SILENT


_MEANINGS = {
    Outcome.MASKED: "nothing was found, and nothing is wrong",
    Outcome.REPAIRED: "all is as before, bit for bit",
    Outcome.DETECTED: "something was found wrong and not repaired",
    Outcome.MISCORRECTED: "a repair was claimed, and something is wrong",
    Outcome.SILENT: "nothing was found, and something is wrong",
}


@dataclass(frozen=True)
class Trial:
    """One damaged state and its repair.

    Attributes:
        verdict: of the repair.
        same: whether the intact state is back, bit for bit where arithmetic is exact.
        found: number of wrong words or elements that the repair named.
        seconds: that the repair took.
        before: score of the damaged state; None if there was no score to compute.
        after: score of the repaired state.
    """

    verdict: Verdict
    same: bool
    found: int
    seconds: float
    before: float | None = None
    after: float | None = None

    @property
    def outcome(self) -> Outcome:
        return Outcome.of(self.verdict, self.same)


@dataclass(frozen=True)
class Counts:
    """What came of many trials. Rows add up, in any order: ``a + b == b + a``.

    Attributes:
        masked, repaired, detected, miscorrected, silent: number of trials of each `Outcome`.
        seconds: of every repair, increasing. Two rows are equal whatever their times.
        before: scores of the damaged states, increasing; as many as were computed.
        after: scores of the repaired states, increasing.

    >>> Counts(repaired=2) + Counts(repaired=1, silent=1)
    Counts(masked=0, repaired=3, detected=0, miscorrected=0, silent=1)
    """

    masked: int = 0
    repaired: int = 0
    detected: int = 0
    miscorrected: int = 0
    silent: int = 0
    # Sorted, so that adding rows up stays associative: sums of floats would not be.
    seconds: tuple[float, ...] = field(default=(), compare=False, repr=False)
    before: tuple[float, ...] = field(default=(), repr=False)
    after: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> Counts:
        """The row of some trials."""
        trials = tuple(trials)
        outcomes = [trial.outcome for trial in trials]
        return cls(
            **{outcome.value: outcomes.count(outcome) for outcome in Outcome},
            seconds=tuple(sorted(trial.seconds for trial in trials)),
            before=tuple(sorted(trial.before for trial in trials if trial.before is not None)),
            after=tuple(sorted(trial.after for trial in trials if trial.after is not None)),
        )

    def __add__(self, other: Counts) -> Counts:
        def added(name: str) -> Any:
            both = getattr(self, name) + getattr(other, name)
            return tuple(sorted(both)) if isinstance(both, tuple) else both

        return Counts(**{field.name: added(field.name) for field in fields(self)})

    @property
    def trials(self) -> int:
        return self.masked + self.repaired + self.wrong + self.detected

    @property
    def wrong(self) -> int:
        """Trials that ended silently wrong: the worst that can happen."""
        return self.miscorrected + self.silent

    def rate(self, *outcomes: Outcome) -> Rate:
        """How often one of ``outcomes`` came out."""
        return Rate(sum(getattr(self, outcome.value) for outcome in set(outcomes)), self.trials)
