"""What came of tasks: frozen rows, kept trial by trial, that add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parimend.campaign.task import Task, canonical
from parimend.errors import MismatchError
from parimend.experiment import Outcome, Trial
from parimend.record import Record

_LETTERS: dict[Outcome, str] = {
    Outcome.MASKED: "m",
    Outcome.REPAIRED: "r",
    Outcome.DETECTED: "d",
    Outcome.MISCORRECTED: "x",
    Outcome.SILENT: "s",
}


@dataclass(frozen=True, repr=False)
class Row(Record):
    """What came of a task.

    Attributes:
        task: that was done.
        outcomes: a letter for each trial, in the order of their numbers: masked, repaired,
            detected, x for miscorrected, silent.
        found: wrong words or elements that each repair named.
        scores: of the network after each repair; empty without a metric.
        seconds: of each repair. Rows are equal whatever their times.
    """

    task: Task
    outcomes: str
    found: tuple[int, ...]
    scores: tuple[float, ...]
    seconds: tuple[float, ...] = field(compare=False)

    @classmethod
    def of(cls, task: Task, trials: Iterable[Trial]) -> Row:
        """The row of a task's trials, in their order."""
        trials = tuple(trials)
        return cls(
            task,
            "".join(_LETTERS[trial.outcome] for trial in trials),
            tuple(trial.found for trial in trials),
            tuple(trial.after for trial in trials if trial.after is not None),
            tuple(round(trial.seconds, 7) for trial in trials),
        )

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Row:
        """From `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        columns = {name: tuple(given[name]) for name in ("found", "scores", "seconds")}
        row = cls(Task.of(given["task"]), given["outcomes"], **columns)
        trials = row.task.stop - row.task.start
        lengths = {len(row.outcomes), len(row.found), len(row.seconds), len(row.scores) or trials}
        if lengths != {trials} or not set(row.outcomes) <= set(_LETTERS.values()):
            raise ValueError("the columns do not fit the task")
        return row

    def which(self, outcomes: Sequence[Outcome]) -> list[float]:
        """For each trial, whether one of these came out: 1 or 0."""
        letters = {_LETTERS[outcome] for outcome in outcomes}
        return [float(letter in letters) for letter in self.outcomes]


class Statistics:
    """Rows by the keys of their tasks; no task counts twice.

    Args:
        rows: in any order. A task may come several times with the same result.

    Raises:
        MismatchError: if a task has two results: something does not depend on its seeds alone.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: dict[str, Row] = {}
        for row in rows:
            self.add_(row)

    def add_(self, row: Row) -> None:
        """Count one more row."""
        known = self.rows.setdefault(row.task.key, row)
        if known != row:
            raise MismatchError(
                f"the trials {row.task.start} to {row.task.stop - 1} of {row.task.network}, "
                f"{row.task.protection.name}, {row.task.fault.name} have two results: the network, "
                "the metric, its tolerance or the machine is not the same"
            )

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics([*self.rows.values(), *other.rows.values()])

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, task: Task) -> bool:
        return task.key in self.rows

    def __getitem__(self, task: Task) -> Row:
        return self.rows[task.key]

    def sorted(self) -> list[Row]:
        """The rows in the one order that depends on the tasks alone."""
        return sorted(self.rows.values(), key=lambda row: _place(row.task))

    def to_bytes(self) -> bytes:
        """The statistics file: a line for each task, without the times, which no two runs share.

        Two campaigns with the same tasks give the same bytes, whatever ran them.
        """
        lines = []
        for row in self.sorted():
            known = {"key": row.task.key, **row.as_dict()}
            del known["seconds"]
            lines.append(canonical(known))
        return b"".join(line + b"\n" for line in lines)


def _place(task: Task) -> tuple[Any, ...]:
    names = (task.network, task.fault.name, task.protection.name, task.stratum.name)
    return *names, task.start, task.stop, task.key
