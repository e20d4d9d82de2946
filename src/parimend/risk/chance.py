"""How probable it is that an environment does more damage than can be repaired.

Every word is checked and repaired once in every interval. A word is lost if more is wrong in it
than its budget when it is checked; then the weights have to come from somewhere else. Events of
more words than the budget are a term of their own: checking more often does not make them rarer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parimend.errors import SpecError
from parimend.record import Record
from parimend.risk.environment import DAYS, Environment
from parimend.risk.events import Events, Tails
from parimend.risk.exposed import Exposed, around, seen

SHORTEST = 1e-6
"""Days between two checks that are considered: a tenth of a second."""

MOST = 1 << 16
"""Budgets that are considered to meet a target."""

_HOURS = 24 * DAYS
_NEVER = 1e-40  # at a check; less is not worth computing
_OCTAVE = math.log(2.0)
_STEPS = 40  # of a bisection
_MOST_HARD = 512
"""Cells that fail for good are counted up to here; a word with more is called lost."""


@dataclass(frozen=True, repr=False)
class Risk(Record):
    """What a protection leaves.

    Attributes:
        interval: days between two checks.
        years: for which the probabilities hold.
        events: expected in a year, in all words.
        repairs: expected in a year: checks of a word that find damage and put it right, whatever
            its number of events.
        unrepaired: probability that some damage is not repaired.
        wrong: probability that some damage is not even noticed.
        large: part of ``unrepaired`` that is due to single events of more words than a budget; no
            interval removes it, but for events by reading.
        hard: part of ``unrepaired`` that is due to cells that fail for good.
        yearly: ``unrepaired`` in the worst year of service: the last one, if everything was
            repaired until then. A year has 365.25 / ``interval`` checks, but one at least.
        fit: unrepaired events in 10^9 hours of that year, one in a word and check at most.
        coverage: share of the events that are noticed (ISO 26262 calls it diagnostic coverage).
        resolved: what is below that is not computed: ``unrepaired`` is then less than it says.
    """

    interval: float
    years: float
    events: float
    repairs: float
    unrepaired: float
    wrong: float
    large: float
    hard: float
    yearly: float
    fit: float
    coverage: float
    resolved: float


def lost(word: Exposed, where: Environment, days: float, beside: Sequence[Exposed] = ()) -> float:
    """Probability that a word that was right is beyond repair after so many days, from above.

    Args:
        word: that may be lost.
        where: it is.
        days: since it was right.
        beside: all words of that memory, as `seen` there.

    Example:
        >>> word = Exposed(bits=1e9, failing=np.zeros(5))
        >>> f"{lost(word, Environment('mine', rate=1e-9), days=1):.2e}"
        '3.66e-03'
    """
    word, where = around(seen(word, where), where, beside)
    return _lost_with(word, where.events.tails(where.expected(word.bits, days), word.reach), 0)


def risk(words: Sequence[Exposed], where: Environment, interval: float, years: float = 1.0) -> Risk:
    """What is left of an environment's damage.

    Args:
        words: that are protected.
        where: they are.
        interval: days between two checks of each; if that is more than the years of service, they
            are looked at in the end.
        years: of service.

    Example:
        >>> word = Exposed(bits=1e9, failing=np.zeros(5))
        >>> it = risk([word], Environment("mine", rate=1e-10), interval=1)
        >>> f"{it.unrepaired:.2e} a year, {it.fit:.3g} FIT"
        '2.80e-05 a year, 3.19 FIT'
    """
    given, interval = interval, min(interval, years * DAYS)  # what is wrong in the end counts
    checks, yearly = years * DAYS / interval, DAYS / interval
    last = min(years, 1.0)  # the worst year, or all of a shorter service
    within = max(1.0, last * DAYS / interval)  # checks of it
    soft = joint = worst = 0.0  # logarithms of the probability that nothing is lost
    repairs = events = missed = large = losses = 0.0
    beside = [seen(each, where) for each in words]
    in_all = math.fsum(each.times * where.expected(each.bits, interval) for each in words)
    for each, word in zip(words, beside, strict=True):
        word, there = around(word, where, beside)
        expected = there.expected(word.bits, interval)
        tails = there.events.tails(expected, word.reach)
        chance = _lost_with(word, tails, 0)
        n = word.times
        kept, kept_last = _logs_kept(word, there, interval, chance, checks, within)
        soft += n * (checks * _log_kept(chance))
        joint += n * kept
        worst += n * kept_last
        losses -= n * within * math.expm1(kept_last / within)
        events += n * where.expected(each.bits, interval)
        # What reaches into a word is an event of another one, of which there may be none.
        repairs += n * max(0.0, -math.expm1(-min(expected, in_all)) - chance)
        if word.missed and word.noticed < word.words:
            missed += n * word.missed * float(there.events.tails(expected, word.noticed).more[-1])
        if word.words > word.errors:
            large += n * expected * there.events.beyond(word.errors)
    unrepaired = abs(math.expm1(joint))
    return Risk(
        interval=given,
        years=years,
        events=events * yearly,
        repairs=repairs * yearly,
        unrepaired=unrepaired,
        wrong=abs(math.expm1(-missed * checks)),
        large=abs(math.expm1(-large * checks)),
        hard=max(0.0, unrepaired + math.expm1(soft)),
        yearly=abs(math.expm1(worst / last)),
        fit=losses / (last * _HOURS) * 1e9,
        coverage=1.0 - missed / events if events else 1.0,
        resolved=abs(math.expm1(-_NEVER * checks * sum(word.times for word in words))),
    )


def _log_kept(chance: float) -> float:
    """Logarithm of the probability that what has this chance does not happen."""
    return math.log1p(-chance) if chance < 1.0 else -math.inf


def _logs_kept(
    word: Exposed,
    where: Environment,
    interval: float,
    chance: float,
    checks: float,
    within: float,
) -> tuple[float, float]:
    """Logarithms of the probability that a word is lost at none of so many checks, and at none of
    those within the last year, if at none before. Checks need not be a whole number.
    """
    if not where.hard_rate or not word.beyond:  # or all may be wrong
        return checks * _log_kept(chance), within * _log_kept(chance)
    powers = _Powers(_ageing(word, where, interval, checks))
    before = math.ceil(checks - within)  # if it is not a whole number, the last year is a bit older
    long_kept, known = _aged(powers, np.eye(len(powers.step) - 1)[0], before)
    rest, _ = _aged(powers, known, checks - before)
    return long_kept + rest, _aged(powers, known, within)[0]


def _ageing(
    word: Exposed, where: Environment, interval: float, checks: float
) -> NDArray[np.float64]:
    """One of so many checks of a word with cells that fail for good, as a Markov chain.

    Their number grows, and each takes a part of the budget, half of what others take if it is known
    to fail and so an erasure. The cells themselves stay wrong.

    Returns:
        (k + 1, k + 1): from how many of them, below k, or from a lost word, to what.
    """
    fresh = where.expected_hard(word.bits, interval)
    whole = 2 if word.erasures else 1  # what an unknown error takes, in parts of the budget
    most = min(whole * word.reach, _MOST_HARD, _quantile(fresh * checks))
    new = Events().tails(fresh, min(most, _quantile(fresh)))
    soft = where.events.tails(where.expected(word.bits, interval), word.reach)
    gone = [_lost_with(word, soft, used) for used in range(-(-most // whole) + len(new.exactly))]
    step = np.zeros((most + 2, most + 2))
    step[-1, -1] = 1.0  # lost, for ever; summed up from small numbers, as 1 - kept would not be
    for known in range(most + 1):
        here = new.exactly[: most + 1 - known]
        for a, p in enumerate(here.tolist()):
            chance = gone[-(-known // whole) + a]
            step[known, known + a] = p * (1.0 - chance)
            step[known, -1] += p * chance
        step[known, -1] += float(new.more[len(here) - 1])
    return step


class _Powers:
    """Powers of the step of a Markov chain; it is squared once for all of them.

    Attributes:
        step: (k + 1, k + 1).
    """

    def __init__(self, step: NDArray[np.float64]) -> None:
        self.step = step
        self._squares = [step]

    def after(self, now: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        """(k + 1,): with which probability the chain is where after so many steps from now."""
        for bit in range(steps.bit_length()):
            if bit == len(self._squares):
                self._squares.append(self._squares[-1] @ self._squares[-1])
            if steps >> bit & 1:
                now = now @ self._squares[bit]
        return now


def _aged(
    powers: _Powers, known: NDArray[np.float64], checks: float
) -> tuple[float, NDArray[np.float64]]:
    """What so many checks do; the part of one does so in proportion.

    Args:
        powers: of the Markov chain; see `_ageing`.
        known: (k,) with which probability so many cells have failed.
        checks: need not be a whole number.

    Returns:
        The logarithm of the probability that nothing is lost, and how many cells have failed then,
        after the whole checks.
    """
    whole = math.floor(checks)
    after = powers.after(np.append(known, 0.0), whole)
    kept = math.fsum(after[:-1].tolist())
    if not kept:
        return -math.inf, known
    # Of the two the one that is not close to 1 says more.
    log = math.log1p(-after[-1]) if after[-1] < 0.5 else math.log(kept)
    known = after[:-1] / kept
    part = checks - whole
    return log + (part * _log_kept(float(known @ powers.step[:-1, -1])) if part else 0.0), known


def _lost_with(word: Exposed, soft: Tails, used: int) -> float:
    """Probability that a word is lost when so many errors of its budget are used up already."""
    if used > word.reach:
        return word.beyond
    # What is next to impossible is not worth a sum over a large budget.
    likely = int(np.searchsorted(-soft.more, -_NEVER))
    last = min(word.reach - used, likely)
    some = soft.exactly[: last + 1] @ word.failing[used : used + last + 1]
    return min(1.0, float(some) + float(soft.more[last]) * word.beyond)


def _quantile(expected: float) -> int:
    """More than a Poisson variable ever is, but for a chance of about 1e-20."""
    return math.ceil(expected + 12.0 * math.sqrt(expected) + 20.0)


def yearly_of(fit: float) -> float:
    """The probability in a year of so many failures in 10^9 hours; see `Risk.fit`.

    >>> f"{yearly_of(10):.3g}"
    '8.77e-05'
    """
    return -math.expm1(-fit * 1e-9 * _HOURS)


def longest_interval(
    words: Sequence[Exposed], where: Environment, target: float, years: float = 1.0
) -> float | None:
    """The days between two checks at which a target is just met; None if there are none.

    They are at most the years of service.

    Args:
        words, where, years: see `risk`.
        target: probability of an unrepaired event in the worst year; see `Risk.yearly`.

    Example:
        >>> word = Exposed(bits=1e9, failing=np.zeros(5))
        >>> days = longest_interval([word], Environment("mine", rate=1e-10), 1e-6)
        >>> round(days, 3)
        0.43
    """

    def met(days: float) -> bool:
        return risk(words, where, days, years).yearly <= target

    longest = years * DAYS
    if met(longest):
        return longest
    # Every read may strike, so that also too short an interval may miss the target.
    high = math.log(longest)
    while not met(max(math.exp(high - _OCTAVE), SHORTEST)):
        high -= _OCTAVE
        if high <= math.log(SHORTEST):
            return None
    low = max(high - _OCTAVE, math.log(SHORTEST))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if met(math.exp(middle)) else (low, middle)
    return math.exp(low)


def smallest_budget(
    words: Callable[[int], Sequence[Exposed]],
    where: Environment,
    interval: float,
    target: float,
    years: float = 1.0,
    proven: int = 0,
    least: int = 1,
    certain: Callable[[int], bool] = lambda errors: True,
) -> int | None:
    """The least number of errors whose words meet a target; None if none does.

    Args:
        words: what is exposed with a budget of so many errors; raises SpecError if that cannot be.
        where, interval, years: see `risk`.
        target: see `longest_interval`.
        proven: the largest budget that is guaranteed; the next one may leave more than it does.
        least: smaller ones are not considered.
        certain: whether a budget that meets the target, by its words, can be had; asked of those
            alone, as the answer may take long.
    """

    def met(errors: int) -> bool:
        try:
            left = risk(words(errors), where, interval, years).yearly
        except SpecError:  # there is no such code
            return False
        return left <= target and certain(errors)

    doubled = {1 << k for k in range(MOST.bit_length())}
    tried = [t for t in sorted({*doubled, proven, least, MOST}) if t >= least]
    high = next((t for t in tried if met(t)), None) or largest_budget(words, least)
    if high is None or not met(high):
        return None
    low = max((t for t in tried if t < high), default=least - 1)
    return bisect_left(range(high), True, lo=low + 1, key=met)


def largest_budget(words: Callable[[int], Sequence[Exposed]], least: int = 1) -> int | None:
    """The largest number of errors up to `MOST` that there is a code for; None if there is none.

    Args:
        words, least: see `smallest_budget`.

    Example:
        >>> def words(errors):
        ...     if errors > 300:
        ...         raise SpecError("too few weights")
        ...     return [Exposed(bits=1e9, failing=np.zeros(errors + 1))]
        >>> largest_budget(words)
        300
    """

    def impossible(errors: int) -> bool:
        try:
            words(errors)
        except SpecError:
            return True
        return False

    low, high = max(MOST, least), max(MOST, least) + 1
    while impossible(low):
        if low == least:
            return None
        low, high = max(low // 2, least), low
    return bisect_left(range(high), True, lo=low + 1, key=impossible) - 1
