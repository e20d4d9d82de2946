"""When to sweep: without a rest, or so that a target is met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real

from parimend.arguments import real_number, require
from parimend.carriers import Chosen, carrier_of
from parimend.carriers.exposure import exposed_of, side_by_side
from parimend.errors import SpecError
from parimend.risk import Environment, Events, environment
from parimend.risk.pace import Pace
from parimend.seal import Seal

_DAY = 86400.0
"""Seconds."""

Rate = float | Environment | str
"""Events per bit and day, or an environment with them, or its name."""


class Schedule:
    """When the next sweep begins. Times are in seconds, of any clock that never goes back.

    Args:
        pace: what sets the interval, before anything is known; None: sweeps follow each other.
        now: what was checked until now is right.

    Attributes:
        pace: what is known now.
        found: events that were repaired since the last sweep that saw every word.
        lost: whether a word was beyond repair since then. How many events that takes cannot be
            told, so that what is known of their rate is given up.
        late: whether the last sweep took longer than the interval.
    """

    def __init__(self, pace: Pace | None, now: float) -> None:
        self._first = self.pace = pace
        self._since = self._began = now
        self.found = 0
        self.lost = self.late = False
        self._due = False  # whatever the interval is

    def began(self, now: float) -> None:
        """A sweep begins."""
        self._began, self._due = now, False

    def hurry(self) -> None:
        """The next sweep is due at once."""
        self._due = True

    def ended(self, *, complete: bool) -> None:
        """The sweep is over that began last; ``complete``: it saw every word. If not, the next one
        is due at once.
        """
        if not complete:
            self.hurry()
        elif self.pace is not None:
            days = max(self._began - self._since, 0.0) / _DAY
            self.pace = self._first if self.lost else self.pace.after(self.found, days)
            self.found, self.lost, self._since = 0, False, self._began

    def seconds_left(self, now: float) -> float:
        """Seconds until the next sweep; negative if it should have begun before."""
        left = 0.0 if self.pace is None else self._began + _DAY * self.pace.interval - now
        return min(left, 0.0) if self._due else left

    def is_newly_late(self, now: float) -> bool:
        """Whether the sweep that ends now took longer than the interval, and the last one not."""
        before, self.late = self.late, self.seconds_left(now) < 0.0
        return self.late and not before


def pace_for(
    seal: Seal,
    target: float | None,
    worst_rate: Rate | None,
    events: Events | Mapping[int, float] | str | None,
) -> Pace | None:
    """The pace that meets a target; None without one.

    Raises:
        SpecError: if these do not go together, or cannot be; see `Pace.of`.
    """
    if target is None:
        if worst_rate is not None or events is not None:
            raise SpecError(
                "worst_rate and events are what a target is met against: give target=..., the "
                "probability of an unrepaired event in a year"
            )
        return None
    if worst_rate is None:
        raise SpecError(
            "a target needs worst_rate=...: the most events per bit and day that there ever are, "
            "or the name of an environment"
        )
    worst = _worst(worst_rate, events)
    planned = [
        carrier_of(word.code).plan(Chosen(word.code, word.word, word.certificate), seal.errors)
        for word in seal.words
    ]
    return Pace.of(exposed_of(side_by_side(planned)), worst, target)


def _worst(rate: Rate, events: Events | Mapping[int, float] | str | None) -> Environment:
    what = "a number of events per bit and day, an Environment or its name"
    require(rate, "worst_rate", what, Real, Environment, str)
    if not isinstance(rate, Environment | str):
        rate = real_number(rate, "worst_rate", "events per bit and day", above=0, most=1)
        sizes = Events() if events is None else Events.of(events)
        return Environment("worst", rate=rate, events=sizes)
    where = environment(rate)
    return where if events is None else replace(where, events=Events.of(events))
