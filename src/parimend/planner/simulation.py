"""A plan's formula against years that are simulated, with the decoders that would do the work.

Rare losses cannot be simulated. So the rate is raised until about one year in three loses
something, and a year has few checks; the formula is asked about that same year.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import require, require_callable, seed_of, whole_number
from parimend.carriers import PlannedWord
from parimend.carriers.exposure import exposed_of
from parimend.codes import SumsCode
from parimend.codes.structure import SparseIntegers
from parimend.decoders import Prepared, decoder_for
from parimend.errors import SpecError
from parimend.experiment import Rate
from parimend.outcomes import Verdict
from parimend.planner.planning import Plan
from parimend.record import Record
from parimend.risk import Environment
from parimend.risk.chance import risk
from parimend.risk.environment import DAYS
from parimend.risk.exposed import Exposed, around
from parimend.rng import Stream
from parimend.words.bits import WORD

CHECKS = 12
"""In a simulated year."""
WORDS = 8
"""Protected words that are simulated, the first ones of a plan."""
_WANTED = 0.3
_RARELY = 0.01  # of the times between two checks


@dataclass(frozen=True, repr=False)
class Simulation(Record):
    """What was simulated, and what the formula says of it.

    Attributes:
        formula: probability that a simulated year loses something.
        lost: years that did.
        years: that were simulated.
        wrong: checks that ended with a wrong answer, not called one before the SHA-256.
        factor: by which all rates are raised.
        checks: in a year.
        words: protected words that take part.
        low, high: 95 % interval of the probability (Wilson).
        bounded: whether the formula is an upper bound only: as what it rests on is not proven, or
            as so much happens between two checks that some of it meets in one word of 32 bits,
            which the formula counts apart.
    """

    formula: float
    lost: int
    years: int
    wrong: int
    factor: float
    checks: int
    words: int
    low: float
    high: float
    bounded: bool

    @property
    def inside(self) -> bool:
        """Whether the formula lies inside the interval."""
        return self.low <= self.formula <= self.high


def simulate(
    plan: Plan,
    years: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda years: None,
) -> Simulation:
    """Simulate years of a plan at a raised rate.

    Args:
        plan: with an environment.
        years: number of them.
        seed: of the events.
        progress: called with 1 after every year.

    Raises:
        SpecError: if the plan has no environment or no words, or nothing ever happens there.

    Example:
        >>> import torch
        >>> from parimend.planner import plan
        >>> it = simulate(plan(torch.nn.Linear(512, 10), errors=4, service="leo"), years=60)
        >>> it.years, it.inside
        (60, True)
    """
    require(plan, "plan", "a Plan", Plan)
    require_callable(progress, "progress", "a function of a number of years")
    years, seed = whole_number(years, "years", least=1), seed_of(seed)
    if plan.where is None:
        raise SpecError("a simulation needs an environment: plan with service=")
    words = plan.words[:WORDS]
    if not words:
        raise SpecError("a simulation needs a protected word, and the plan has none")
    factor = _raised(words, plan.where)
    where = _times(plan.where, factor)
    stream = Stream(seed, "planner simulation")
    beside = exposed_of(words)
    memories = [_Memory(word, where, stream, beside) for word in words]
    lost = wrong = 0
    for _ in range(years):
        ends = [memory.year() for memory in memories]
        lost += any(end is not None for end in ends)
        wrong += sum(end is Verdict.CORRECTED for end in ends)
        progress(1)
    low, high = Rate(lost, years).interval()
    return Simulation(
        formula=_formula(words, where),
        lost=lost,
        years=years,
        wrong=wrong,
        factor=factor,
        checks=CHECKS,
        words=len(words),
        low=low,
        high=high,
        bounded=any(not word.promise.proven or _meets(word, where) for word in words),
    )


class _Memory:
    """A word in its environment."""

    def __init__(
        self, word: PlannedWord, where: Environment, stream: Stream, beside: Sequence[Exposed]
    ) -> None:
        self.code = word.code
        self.decoder: Prepared = decoder_for(self.code).prepare(self.code)
        [exposed] = exposed_of([word])
        exposed, where = around(exposed, where, beside)
        self.promise, self.where, self.stream = word.promise, where, stream
        bits = exposed.bits
        self.events = _Poisson(where.expected(bits, 1.0))
        self.fresh = _Poisson(where.expected_hard(bits, 1.0))
        self.elements = _elements(self.code, word)
        self.size = self.code.n // self.elements

    def year(self) -> Verdict | None:
        """None if all was repaired; else what was said of the word that was not."""
        hard = np.empty(0, np.int64)
        for _ in range(CHECKS):
            known = hard
            hard = np.union1d(hard, self._places(self.fresh.draw(self.stream)))
            struck = np.union1d(self._struck(), hard)
            if self.where.told:
                known = struck
            if struck.size and (end := self._check(struck, known)) is not None:
                return end
        return None

    def _struck(self) -> NDArray[np.int64]:
        """Words that events strike before a check."""
        count = self.events.draw(self.stream)
        runs = [np.empty(0, np.int64)]
        for drawn in self.where.events.drawn(self.stream.uniforms(count)):
            size = min(drawn, self.size)
            first = int(self.stream.integers(self.size - size + 1, 1)[0])
            runs.append(np.arange(first, first + size))
        return np.unique(np.concatenate(runs))

    def _places(self, count: int) -> NDArray[np.int64]:
        return self.stream.integers(self.size, count).astype(np.int64)

    def _check(self, struck: NDArray[np.int64], known: NDArray[np.int64]) -> Verdict | None:
        positions, erased = self._within(struck), None
        if self.promise.erasures and known.size:
            erased = self._within(known)
        values = _damage(self.code, positions.size, self.stream)
        decoding = self.decoder.decode(_syndrome(self.code, positions, values), erased)
        if decoding.verdict is not Verdict.CORRECTED:
            return decoding.verdict
        found = decoding.values != 0  # an erased word may have been right
        right = np.array_equal(decoding.positions[found], positions) and np.array_equal(
            decoding.values[found], _as_decoded(self.code, values)
        )
        return None if right else Verdict.CORRECTED

    def _within(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions in the code of words of 32 bits."""
        each = np.arange(self.elements)
        return (words[:, None] * self.elements + each).ravel()


class _Poisson:
    """Draws how many events there are, by inversion."""

    def __init__(self, expected: float) -> None:
        from scipy.stats import poisson  # takes half a second to load

        most = int(expected + 12.0 * math.sqrt(expected) + 20.0)
        self.below = poisson.cdf(np.arange(most), expected) if expected else None

    def draw(self, stream: Stream) -> int:
        if self.below is None:
            return 0
        return int(np.searchsorted(self.below, stream.uniforms(1)[0], side="right"))


def _elements(code: Any, word: PlannedWord) -> int:
    """Positions of a code in a word of 32 bits."""
    if isinstance(code, SumsCode):
        return 1
    return max(1, WORD * word.elements // word.nbytes)


def _damage(code: Any, count: int, stream: Stream) -> NDArray[np.int64]:
    """What words change by: one valid value in place of another, which is the hardest."""
    bound = 1 << (32 if isinstance(code, SumsCode) else code.word_bits)
    before, by = stream.integers(bound, count), stream.integers(bound - 1, count)
    after = (before + by + np.uint64(1)) % np.uint64(bound)
    return after.astype(np.int64) - before.astype(np.int64)


def _syndrome(code: Any, positions: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[Any]:
    if isinstance(code, SumsCode):
        sums: NDArray[Any] = code.sums_of(positions, values)
        return sums
    assert isinstance(code, SparseIntegers)
    word = np.zeros(code.n, np.int64)
    word[positions] = values
    return code.syndrome(word)


def _as_decoded(code: Any, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Damage as a decoder tells it."""
    return values % code.prime if isinstance(code, SumsCode) else values


def _meets(word: PlannedWord, where: Environment) -> bool:
    """Whether it is to be expected that events between two checks strike what others struck, or
    what failed for good in the year.
    """
    bits = 8.0 * word.nbytes
    wrong = where.expected(bits, 1.0) * where.events.mean + where.expected_hard(bits, CHECKS)
    return wrong**2 / 2.0 > _RARELY * word.nbytes / WORD


def _formula(words: Sequence[PlannedWord], where: Environment) -> float:
    return risk(exposed_of(words), where, 1.0, CHECKS / DAYS).unrepaired


def _raised(words: Sequence[PlannedWord], where: Environment) -> float:
    """A factor for all rates at which about `_WANTED` of the years lose something."""
    if not (where.rate or where.read_rate or where.hard_rate):
        raise SpecError(f"nothing happens in the environment {where.name}: there is no rate")
    bits = sum(8.0 * word.nbytes for word in words)
    most = min(1.0 / max(where.rate, where.read_rate, where.hard_rate), 1e30)
    low, high = 1e-30, most
    for _ in range(80):
        middle = math.sqrt(low * high)
        there = _times(where, middle)
        crowded = there.expected(bits, 1.0) > bits / 64.0
        above = crowded or _formula(words, there) > _WANTED
        low, high = (low, middle) if above else (middle, high)
    return low


def _times(where: Environment, factor: float) -> Environment:
    return replace(
        where,
        rate=where.rate * factor,
        hard_rate=where.hard_rate * factor,
        read_rate=where.read_rate * factor,
    )
