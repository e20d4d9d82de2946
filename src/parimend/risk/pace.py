"""How often to check while it runs: the interval follows what was found, and expects the worst.

Events come with a rate that nobody knows and that may jump. What is known of it is a distribution:
at first it is the Gamma prior of shape 1/2 (Jeffreys) below the worst rate, a number of events
found in some days multiplies it by a Poisson likelihood, and with some hazard the rate has jumped
meanwhile, to the worst rate or to anything. So it is a mixture of Gammas, one for every time that
the last jump may have been (R. P. Adams, D. J. C. MacKay, *Bayesian online changepoint detection*,
arXiv 0710.3742, 2007); here it is kept as weights on a grid of rates, whose number stays the same.
Old findings are forgotten, and many events at once are taken for a jump, by the same rule of Bayes.

The next interval is the longest in which a loss is as improbable as the target allows. A jump to
the worst rate within it counts from its start. It is never shorter than what the worst rate needs
if it lasts for ever; so a target that is met there is met whatever the rate does below.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import real_number
from parimend.errors import SpecError
from parimend.record import Record
from parimend.risk.chance import SHORTEST, lost, risk
from parimend.risk.environment import DAYS, Environment
from parimend.risk.events import Events
from parimend.risk.exposed import WORD_BITS, Exposed, seen

JUMPS = 1.0 / 45.0
"""Hazard per day that the rate jumps: eight times a year. One storm in 60 days is within the
target; see docs/measurements/planning.md. More are not where a budget is small: with one of 4,
three days of 100 times the rate every six weeks, two jumps in that time, cost 1.24 times the
target."""
LONGEST_PACE = 1.0
"""Days between two checks at most: damage is repaired within a day even where it could wait."""

_PER_OCTAVE = 8
_STEP = 2.0 ** (1.0 / _PER_OCTAVE)
"""Ratio of neighbours on the grids of rates and of intervals, so that one table serves all products
of the two."""
_RATES = 17 * _PER_OCTAVE  # the lowest one is 1e-5 of the worst
_RAREST = 1e-300  # events per bit and day; close to the smallest number the others would be zero
_SMALL = 1e-2  # of what may be lost in the shortest interval
_LIKELY = 0.1  # a loss is then taken for certain
_LONG = 100.0  # times as long as any event: how many reach into a word does not matter then


class Horizon(NamedTuple):
    """What can be chosen from, and what it would cost.

    Attributes:
        rates: (k,) events per bit and day, increasing, up to the worst rate.
        intervals: (j,) days, increasing, from what the worst rate needs.
        losses: (k + j - 1,): a loss within ``intervals[i]`` at ``rates[h]`` is as probable as
            ``losses[h + i]``, at most.
        allowed: (j,): as probable as it may be.
        bits: of all words.
    """

    rates: NDArray[np.float64]
    intervals: NDArray[np.float64]
    losses: NDArray[np.float64]
    allowed: NDArray[np.float64]
    bits: float


@dataclass(frozen=True, eq=False, repr=False)
class Pace(Record):
    """What is known of the rate of events, and the interval that follows.

    It is a value: `after` gives the next one.

    Attributes:
        horizon: what can be chosen from.
        weights: (k,): how probable each of its rates is now.
        target: probability of an unrepaired event in a year.
        jumps: hazard per day that the rate jumps.

    Example:
        >>> word = Exposed(bits=1e9, failing=np.zeros(9))
        >>> pace = Pace.of([word], Environment("a storm", rate=2e-8), target=1e-3)
        >>> pace
        <Pace: every 1.26 h (never below 0.892 h), 6.96 events a day>
        >>> hours = 24 * pace.interval
        >>> for _ in range(100):
        ...     pace = pace.after(events=0, days=pace.interval)  # nothing was found
        >>> calm = 24 * pace.interval
        >>> pace = pace.after(events=5, days=pace.interval)
        >>> f"{hours:.2f} h at first, then {calm:.2f} h, after 5 events {24 * pace.interval:.2f} h"
        '1.26 h at first, then 2.12 h, after 5 events 0.89 h'
    """

    horizon: Horizon
    weights: NDArray[np.float64]
    target: float
    jumps: float = JUMPS

    def __repr__(self) -> str:
        found = f"{24 * self.interval:.3g} h (never below {24 * self.shortest:.3g} h)"
        return f"<Pace: every {found}, {self.events:.3g} events a day>"

    @classmethod
    def of(
        cls,
        words: Sequence[Exposed],
        worst: Environment,
        target: float,
        *,
        longest: float = LONGEST_PACE,
        jumps: float = JUMPS,
    ) -> Pace:
        """The pace before anything is known.

        Args:
            words: that are checked together.
            worst: the highest rate that there ever is, and the sizes of events. Cells that fail for
                good and events by reading depend on no interval and are left out.
            target: probability of an unrepaired event in a year.
            longest: days between two checks at most.
            jumps: hazard per day that the rate jumps, up to the worst rate.

        Raises:
            SpecError: if ``target`` is not between 0 and 1, the worst rate not above 1e-300 and at
                most 1, ``longest`` or ``jumps`` make no sense, or if the worst rate misses the
                target at any interval; says why.
        """
        target = real_number(target, "target", "a probability per year", above=0, below=1)
        real_number(worst.rate, "the worst rate", "events per bit and day", above=_RAREST, most=1)
        longest = real_number(longest, "longest", "a number of days", least=SHORTEST)
        jumps = real_number(jumps, "jumps", "a rate per day", least=0)
        if not words:
            raise SpecError("there is no protected word that could be checked")
        worst = replace(worst, hard_rate=0.0, read_rate=0.0)
        horizon = _horizon(words, worst, target, longest)
        return cls(horizon, _prior(horizon.rates), target, jumps)

    @property
    def shortest(self) -> float:
        """Days: the interval that the worst rate needs, and never less."""
        return float(self.horizon.intervals[0])

    @property
    def interval(self) -> float:
        """Days until the next check."""
        allowed = self._losses() <= self.horizon.allowed
        allowed[0] = True
        last = len(allowed) if allowed.all() else int(allowed.argmin())
        return float(self.horizon.intervals[last - 1])

    @property
    def left(self) -> float:
        """Probability of a loss in a year, if every interval were as the next one."""
        at = int(np.searchsorted(self.horizon.intervals, self.interval))
        within = float(self._losses()[at])
        return -math.expm1(DAYS / self.interval * math.log1p(-within)) if within < 1.0 else 1.0

    @property
    def rate(self) -> float:
        """Events per bit and day, as far as is known."""
        return float(self.weights @ self.horizon.rates)

    @property
    def events(self) -> float:
        """Events per day in all words, as far as is known."""
        return self.rate * self.horizon.bits

    def after(self, events: int, days: float) -> Pace:
        """What is known after so many events were found in so many days."""
        jumped = -math.expm1(-self.jumps * days)
        rates, bits = self.horizon.rates, self.horizon.bits
        weights = (1.0 - jumped) * self.weights + jumped * _after_jump(rates)
        with np.errstate(divide="ignore", under="ignore"):
            logs = np.log(weights) + events * np.log(rates) - rates * (bits * days)
            weights = np.exp(logs - logs.max())
        return replace(self, weights=weights / weights.sum())

    def _losses(self) -> NDArray[np.float64]:
        """(j,): how probable a loss is within each interval, now."""
        _, intervals, losses, _, _ = self.horizon
        jumped = -np.expm1(-self.jumps * intervals)
        steady = np.correlate(losses, self.weights)
        return (1.0 - jumped) * steady + jumped * losses[-len(intervals) :]


def _prior(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jeffreys' prior below the highest rate; what lies between two rates counts as the higher."""
    return np.diff(np.sqrt(rates / rates[-1]), prepend=0.0)


def _after_jump(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a rate is after a jump: one half at the highest, one half anywhere."""
    weights = _prior(rates) / 2.0
    weights[-1] += 0.5
    return weights


def _horizon(
    words: Sequence[Exposed], worst: Environment, target: float, longest: float
) -> Horizon:
    table = _table(words, worst, longest)
    daily = -math.log1p(-target) / DAYS
    most = math.floor(_PER_OCTAVE * math.log2(longest / SHORTEST))

    def met(steps: int) -> bool:
        return table(-steps) <= daily * longest * _STEP**-steps

    if not met(most):
        raise SpecError(_why_never(words, worst, target))
    steps = bisect_left(range(most), True, key=met)  # the fewest below the longest interval
    intervals = longest * _STEP ** -np.arange(steps, -1.0, -1.0)
    return Horizon(
        rates=worst.rate * _STEP ** -np.arange(_RATES - 1, -1.0, -1.0),
        intervals=intervals,
        losses=_filled(table, _RATES + steps, _SMALL * daily * float(intervals[0])),
        allowed=daily * intervals,
        bits=math.fsum(word.times * word.bits for word in words),
    )


def _filled(table: Callable[[int], float], size: int, small: float) -> NDArray[np.float64]:
    """The last ``size`` entries of a table up to 0. Those above what is likely are 1, those below
    what is ``small`` are as the first that is: both are safe, and take no time.
    """
    losses = np.ones(size)
    for at in range(_RATES - 1, size):
        losses[at] = table(at - size + 1)
        if losses[at] > _LIKELY:
            losses[at:] = 1.0
            break
    for at in range(_RATES - 2, -1, -1):
        losses[at] = losses[at + 1] if losses[at + 1] <= small else table(at - size + 1)
    return np.maximum.accumulate(losses)


def _table(words: Sequence[Exposed], worst: Environment, longest: float) -> Callable[[int], float]:
    """How probable a loss is in any word, by steps above the worst rate for the longest interval.

    Sizes of words are rounded up to steps of the grid, so that words that are alike share a table:
    the smallest of them, struck as often as they are.
    """
    bits = max(word.bits for word in words)
    smallest: dict[Hashable, Exposed] = {}
    steps = Counter[tuple[Hashable, int]]()
    for word in words:
        kind = _kind(word, worst.events)
        if kind not in smallest or word.bits < smallest[kind].bits:
            smallest[kind] = word
        below = math.floor(_PER_OCTAVE * math.log2(bits / word.bits))
        steps[kind, below] += word.times
    beside = [seen(word, worst) for word in words]
    known: dict[tuple[Hashable, int], float] = {}

    def alone(kind: Hashable, at: int) -> float:
        if (kind, at) not in known:
            word = smallest[kind]
            known[kind, at] = lost(word, worst, longest * _STEP**at * bits / word.bits, beside)
        return known[kind, at]

    def losses(at: int) -> float:
        return math.fsum(n * alone(kind, at - s) for (kind, s), n in steps.items())

    return losses


def _kind(word: Exposed, events: Events) -> Hashable:
    """What a loss depends on, beside how often a word is struck: its budget; and its length, where
    events begin before it and reach into it.
    """
    short = _LONG * (events.largest - 1) * WORD_BITS / word.bits
    length = math.ceil(_PER_OCTAVE * math.log2(short)) if short > 1.0 else 0
    return word.failing.tobytes(), word.reach, word.beyond, word.crowd, word.spread, length


def _why_never(words: Sequence[Exposed], worst: Environment, target: float) -> str:
    """Why no interval meets a target at the worst rate."""
    left, weakest = risk(words, worst, SHORTEST), min(words, key=lambda word: word.errors)
    unsure = max(float(word.failing.max()) for word in words)
    if left.large > target / 2.0:
        why = (
            f"events of up to {worst.events.largest} words at once are more than the budget of "
            f"{weakest.errors}, and no scrubbing removes their {left.large:.2g} a year: take a "
            "larger budget"
        )
    elif unsure:
        why = (
            f"damage within the budget is not repaired with a probability of up to {unsure:g}, "
            "and no scrubbing removes that: take a budget that is guaranteed"
        )
    else:
        why = (
            f"even checks every {86400 * SHORTEST:.2g} s leave {left.unrepaired:.2g} a year: take "
            "a larger budget, or more words"
        )
    return f"a target of {target:g} a year is met at no interval at the worst rate: {why}"
