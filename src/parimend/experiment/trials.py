"""What a target is, and the one loop over seeds: damage, repair, compare, count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from parimend.experiment.counts import Counts, Trial
from parimend.faults import FaultList, Tensors, draw
from parimend.outcomes import Verdict


@dataclass(frozen=True)
class Faults:
    """How much damage of which kind; see `parimend.faults.draw`.

    Attributes:
        kind: a name of `parimend.faults.KINDS`.
        count: number of elements that change.
        placement: a name of `parimend.faults.PLACEMENTS`; None is that of the kind.
        options: of the kind, such as ``scale``.
    """

    kind: str
    count: int
    placement: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def draw(self, words: Tensors, seed: int, only: Sequence[str] | None = None) -> FaultList:
        """Draw the damage for some named arrays or words, which are not changed.

        Raises:
            FaultError: if there cannot be such damage.
        """
        return draw(
            self.kind,
            words,
            self.count,
            seed,
            only=only,
            placement=self.placement,
            **self.options,
        )


class Answer(NamedTuple):
    """What a repair says: its verdict, and how many wrong words or elements it names."""

    verdict: Verdict
    found: int

    @classmethod
    def of(cls, right: int, wrong: int = 0) -> Answer:
        """That so many were put right, and that so many others are wrong and stay so."""
        verdict = Verdict.CORRECTED if right else Verdict.CLEAN
        return cls(Verdict.UNCORRECTABLE if wrong else verdict, right + wrong)


F = TypeVar("F", contravariant=True)
S = TypeVar("S")


class Target(Protocol[F, S]):
    """What is damaged and repaired: it keeps an intact state, which no method changes.

    F describes damage: `Faults`, or what a target understands instead. S is a state.
    """

    def damaged(self, faults: F, seed: int) -> S:
        """A damaged copy of the intact state; the same arguments give the same copy."""

    def repair_(self, state: S) -> Answer:
        """Repair a damaged state in place. This is what a trial times."""

    def same(self, state: S) -> bool:
        """Whether a state is the intact one again."""


def trial(
    target: Target[F, S],
    faults: F,
    seed: int,
    score: Callable[[S], float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    *,
    twice: bool = True,
) -> Trial:
    """Damage, repair and compare once; see `run`. Unless ``twice``, the repaired state alone is
    scored.
    """
    state = target.damaged(faults, seed)
    before = score(state) if score and twice else None
    began = clock()
    answer = target.repair_(state)
    seconds = clock() - began
    same = target.same(state)
    after = score(state) if score else None
    return Trial(answer.verdict, same, answer.found, seconds, before, after)


def run(
    target: Target[F, S],
    faults: F,
    seeds: Iterable[int],
    score: Callable[[S], float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Counts:
    """Damage, repair, compare and count, once for every seed.

    Args:
        target: what is damaged; not changed.
        faults: how.
        seeds: of the damage. The counts do not depend on their order.
        score: of a state before and after its repair, such as the accuracy of a model.
        clock: in seconds; `time.process_time` is fairer on a busy machine.

    Raises:
        FaultError: if there cannot be such damage.
    """
    return Counts.of(trial(target, faults, seed, score, clock) for seed in seeds)
