"""Weights that went wrong in a training step, as the checks of their word show them.

What a step does to the checks is about what the steps before it did. Checks far beyond that hold
damage, which is located if few weights explain it: their checks agree on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.carriers import Chosen
from parimend.codes import Sparse
from parimend.decoders import Agreement, Prepared
from parimend.events import Event
from parimend.lasting import cached_property
from parimend.names import some
from parimend.outcomes import Verdict
from parimend.training.projection import Projection

MEMORY = 100
"""Projections that one is compared with."""
FEWEST = 20
"""So many must have been seen."""
FACTOR = 10.0
"""A check is damaged if it is so many times as large as the largest of those, for each step."""
SIGMAS = 6.0
"""How far a check is from zero at most where its weights are rounded to the grid."""

PERSISTENT = 3
"""So many times in a row the same weights are not damaged: training moves them so far."""

CHECKS_PER_ERROR = 4
"""Damage of more weights than this allows is no explanation."""
LOWEST = 4.0
"""Less than so many times the noise is not seen of a weight; see `Agreement`."""
OUTGROWN = 2.0**20
"""No training makes weights so many times as large as the range of their grid, which holds them at
the start."""

Noise = Callable[[NDArray[np.float64], float], float]


class Damage(NamedTuple):
    """Wrong weights: positions in the word, (k,), and received minus original, in grid steps."""

    positions: NDArray[np.int64]
    values: NDArray[np.float64]


class Outliers:
    """Watches the checks of one word, from projection to projection.

    Attributes:
        steps: optimizer steps since the last projection, each of which may do what one before did.

    Example:
        >>> code, rng = Sparse(n=5120, m=320), np.random.default_rng(0)
        >>> outliers = Outliers(code)
        >>> all(outliers.ordinary(code.matvec(rng.normal(0, 2, 5120))) for _ in range(100))
        True
        >>> step = rng.normal(0, 2, 5120)
        >>> step[1234] += 30_000
        >>> outliers.ordinary(code.matvec(step))
        False
        >>> damage = outliers.locate(code.matvec(step), np.empty(0, np.int64))
        >>> damage.positions.tolist(), bool(abs(damage.values[0] - 30_000) < 100)
        ([1234], True)
    """

    def __init__(self, code: Sparse) -> None:
        self._code = code
        self.steps = 1
        self._largest: deque[float] = deque(maxlen=MEMORY)  # for each step
        self._suspected: NDArray[np.int64] = np.empty(0, np.int64)
        self._times = 0  # in a row

    @property
    def limit(self) -> float:
        """Checks beyond this are damaged; infinite until enough have been seen."""
        return max(FACTOR * self.largest, self.rounding) if self.enough else np.inf

    @cached_property
    def rounding(self) -> float:
        """What rounding weights to the grid may make of checks: less says nothing of damage."""
        return SIGMAS * float(np.sqrt(self._code.gram.diagonal.max() / 12))

    def ordinary(self, checks: NDArray[np.float64]) -> bool:
        """Whether checks before a projection, (m,) in the scale of `Sparse.matvec`, are like those
        before; always while too few have been seen, if they are finite.
        """
        largest = float(np.abs(checks).max())
        if not np.isfinite(largest) or largest > self.limit:
            return False
        self._times = 0
        self.accept(checks)
        return True

    def accept(self, checks: NDArray[np.float64]) -> None:
        """Take checks for what the steps do."""
        self._largest.append(float(np.abs(checks).max()) / self.steps)

    @property
    def most(self) -> int:
        """So many wrong weights are an explanation."""
        return self._code.m // CHECKS_PER_ERROR

    @property
    def enough(self) -> bool:
        """Whether enough projections were seen to judge others by them."""
        return len(self._largest) >= FEWEST

    @property
    def largest(self) -> float:
        """The largest check that steps like those before lead to; 0.0 if there were none."""
        return self.steps * max(self._largest, default=0.0)

    def fit(self, checks: NDArray[np.float64], scale: float = 1.0) -> bool:
        """Whether checks are such as weights of so many times the range of their grid have."""
        return bool((np.abs(checks) < scale * 2.0**62 / self._code.unit).all())

    def locate(
        self,
        checks: NDArray[np.float64],
        wild: NDArray[np.int64],
        noise: float | None = None,
        scale: float = 1.0,
    ) -> Damage | None:
        """The damage that explains all checks to within the noise, if there is one.

        Args:
            checks: (m,) of the word with its wild weights set to zero.
            wild: (k,) positions known to be wrong.
            noise: how large checks are without damage; by default as large as the limit.
            scale: by which weights have outgrown the range of their grid.
        """
        noise = self.limit if noise is None else noise
        if not (np.isfinite(noise) and self.fit(checks, scale)):
            return None
        unit = self._code.unit / scale
        syndrome = np.rint(checks * unit).astype(np.int64)
        decoding = self._decoder.decode(syndrome, wild, noise=noise * unit)
        if decoding.verdict is not Verdict.BELOW_FLOOR:
            return None
        # With so many unknowns as checks everything can be explained.
        if decoding.positions.size > self.most:
            return None
        return Damage(decoding.positions, decoding.values * scale)

    def persists(self, positions: NDArray[np.int64]) -> bool:
        """Whether one of the weights that were located, (k,), was so in every one of the last
        projections: to be asked once for each that is not ordinary.
        """
        again = np.intersect1d(self._suspected, positions) if self._times else positions
        self._suspected = again if again.size else positions
        self._times = self._times + 1 if again.size else 1
        if self._times < PERSISTENT:
            return False
        self._times = 0
        return True

    @cached_property
    def _decoder(self) -> Prepared:
        return Agreement().prepare(self._code)

    def state(self) -> list[float]:
        """What `load` needs to go on."""
        return list(self._largest)

    def load(self, state: Sequence[float]) -> None:
        """Go on where `state` was taken."""
        self._largest = deque(state, maxlen=MEMORY)


class Suspects(NamedTuple):
    """Weights that differ from what the checks say: positions in the word, (k,), and both values
    of each, in grid steps.
    """

    positions: NDArray[np.int64]
    received: NDArray[np.float64]
    now: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> Suspects:
        """Some of them."""
        return Suspects(self.positions[chosen], self.received[chosen], self.now[chosen])


def suspects(
    projection: Projection, number: int, outliers: Outliers, noise: Noise | None = None
) -> Suspects | None:
    """The few weights of a word that explain its checks; None where there are no such weights.

    All weights are left as they are.

    Args:
        projection: of all words.
        number: of the word in it.
        outliers: what its checks were before.
        noise: how large checks are without damage, given those of the word with its wild weights
            set to zero, and by how much the weights have outgrown their range; by default as large
            as what is ordinary.
    """
    scale, wild, before, checks = 1.0, *_zeroed(projection, number)
    # Where many are out of range, or must have been, they have been trained to be.
    while (wild.size > outliers.most // 2 or not outliers.fit(checks, scale)) and scale < OUTGROWN:
        projection.set_(number, wild, before)
        scale *= 2.0
        wild, before, checks = _zeroed(projection, number, scale)
    level = outliers.limit if noise is None else noise(checks, scale)
    damage = outliers.locate(checks, wild, level, scale)
    found = None
    if damage is not None:
        positions, values = damage
        now = projection.get(number, positions) - values
        received = now + values
        received[np.searchsorted(positions, wild)] = before
        differ = ~(np.abs(received - now) <= LOWEST * level)
        found = Suspects(positions, received, now).where(differ)
    projection.set_(number, wild, before)
    return found


def _zeroed(
    projection: Projection, number: int, scale: float = 1.0
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Set the wild weights of a word to zero; where and what they were, and the checks then."""
    wild = projection.wild(number, scale)
    before = projection.get(number, wild)
    projection.set_(number, wild, np.zeros(len(wild)))
    return wild, before, projection.checks_of(number)


def put_back_(
    projection: Projection, number: int, word: Chosen, outliers: Outliers, step: int
) -> Event:
    """Put back single weights that explain the odd checks of a word; tells what was done.

    Args:
        projection: of all words.
        number: of the word in it.
        word: itself.
        outliers: what its checks were before.
        step: number of the step, for the event.
    """
    found = suspects(projection, number, outliers)
    if found is None or not found.positions.size:
        return unexplained(word, step, "the step moved the checks far more than those before it")
    if np.isfinite(found.received).all() and outliers.persists(found.positions):
        reason = "steps move the same weights far, again and again; it is no fault"
        return accepted(word, step, reason)
    return set_back_(projection, number, found, step)


def set_back_(projection: Projection, number: int, found: Suspects, step: int) -> Event:
    """Set suspects to what the checks say; tells of it."""
    projection.set_(number, found.positions, found.now)
    changes = projection.changes(number, *found)
    names = some({change.tensor for change in changes})
    return Event("repaired", step, f"wrong in {names}", changes)


def accepted(word: Chosen, step: int, why: str) -> Event:
    """Tells of a word that is taken for right."""
    return Event("accepted", step, f"{_names(word)}: {why}")


def unexplained(word: Chosen, step: int, what: str) -> Event:
    """Tells of a word whose checks no few weights explain."""
    return Event("unexplained", step, f"{_names(word)}: {what}")


def _names(word: Chosen) -> str:
    return some({part.name for part in word.word})
