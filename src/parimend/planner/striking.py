"""Real injections: bits of a model flipped at a rate, the loss measured, everything put back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.carriers import repair_
from parimend.functions import score_of
from parimend.record import Record
from parimend.rng import Stream
from parimend.seal import Seal
from parimend.stores.base import Tensors
from parimend.words.layout import Part


class Strike(NamedTuple):
    """Where bits are flipped, and with which probability each."""

    planes: Sequence[Part]
    rate: float


@dataclass(frozen=True, repr=False)
class Trials(Record):
    """What damage did, in independent trials.

    Attributes:
        trials: number of trials.
        loss: mean loss of the metric after a repair.
        error: standard error of that mean.
        lost: trials in which a word that is to hold at this rate was not repaired.
    """

    trials: int
    loss: float
    error: float
    lost: int = 0

    def within(self, tolerance: float) -> bool:
        """Whether the loss is at most so much, two standard errors allowed for."""
        return self.loss + 2.0 * self.error <= tolerance


class Judged(NamedTuple):
    """A model that may be damaged, and what its damage costs.

    Attributes:
        tensors: of the model.
        metric: of the model as it is; larger is better.
        best: the metric of the undamaged model.
    """

    tensors: Tensors
    metric: Callable[[], float]
    best: float

    @classmethod
    def of(cls, tensors: Tensors, metric: Callable[[], float]) -> Judged:
        """An undamaged model.

        Raises:
            SpecError: if the metric gives no finite number.
        """
        return cls(tensors, metric, score_of(metric(), "the metric"))

    def loss(self) -> float:
        """How much worse the model is than it was."""
        return self.best - score_of(self.metric(), "the metric")


def injected(
    judged: Judged,
    strikes: Sequence[Strike],
    seeds: Sequence[int],
    seal: Seal | None = None,
    holding: int | None = None,
) -> Trials:
    """Damage, and a repair by the seal, if there is one.

    Args:
        judged: the model.
        strikes: on it.
        seeds: of the damage, one for each trial.
        seal: of the undamaged model.
        holding: so many of its first words are to hold; None: all.

    Raises:
        SpecError: if the metric gives no finite number.
    """
    losses, lost = list[float](), 0
    for seed in seeds:
        with struck(judged.tensors, strikes, seed):
            if seal is not None:
                outcome = repair_(seal, judged.tensors)
                lost += not all(word.verdict.ok for word in outcome.words[:holding])
            losses.append(judged.loss())
    error = float(np.std(losses, ddof=1)) / math.sqrt(len(losses))
    return Trials(len(losses), float(np.mean(losses)), error, lost)


@contextmanager
def struck(tensors: Tensors, strikes: Sequence[Strike], seed: int) -> Iterator[int]:
    """Bits flipped until the context ends.

    Of each strike, the number of flips is drawn from a Poisson distribution, and any that many of
    the bits are as likely.

    Yields:
        The number of flipped bits.
    """
    stream, before, flips = Stream(seed, "planner.striking"), list[_Before](), 0
    try:
        for planes, rate in strikes:
            places = _places(stream, sum(part.count * part.bits for part in planes), rate)
            flips += places.size
            for part in planes:
                size = part.count * part.bits
                mine, places = places[places < size], places[places >= size] - size
                if mine.size:
                    before.append(_flip_(tensors, part, mine))
        yield flips
    finally:
        for each in reversed(before):
            tensors.write(*each)


class _Before(NamedTuple):
    """Elements of a tensor that were changed, and what they were."""

    whole: Part
    elements: NDArray[np.int64]
    values: NDArray[np.uint8]


def _places(stream: Stream, total: int, rate: float) -> NDArray[np.int64]:
    """Which ones of so many bits are flipped, sorted."""
    from scipy.stats import poisson  # takes half a second to load

    chance = (float(stream.raw(1)[0]) + 0.5) / 2.0**64
    return np.sort(stream.distinct(total, min(total, int(poisson.ppf(chance, rate * total)))))


def _flip_(tensors: Tensors, part: Part, places: NDArray[np.int64]) -> _Before:
    """Flip some bits of a plane, counted element by element."""
    mask = part.mask or (1 << part.bits) - 1
    bits = np.array([i for i in range(mask.bit_length()) if mask >> i & 1])
    element, which = np.divmod(places, part.bits)
    elements, row = np.unique(element, return_inverse=True)
    whole = replace(part, mask=0)
    before = tensors.read(whole).reshape(part.count, part.itemsize)[elements].copy()
    after, bit = before.copy(), bits[which]
    np.bitwise_xor.at(after, (row, bit // 8), (1 << bit % 8).astype(np.uint8))
    tensors.write(whole, elements, after)
    return _Before(whole, elements, before)
