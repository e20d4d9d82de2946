"""Weights that went wrong in a training step, as the checks of their word show them.

What a step does to the checks is about what the steps before it did. Checks far beyond that hold
damage, which is located if few weights explain it: their checks agree on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.codes import Sparse
from parimend.decoders import Agreement, Prepared
from parimend.events import Event
from parimend.names import some
from parimend.outcomes import Verdict
from parimend.training.projection import Constrained, Projection

MEMORY = 100
"""Projections that one is compared with."""
FEWEST = 20
"""So many must have been seen."""
FACTOR = 10.0
"""A check is damaged if it is so many times as large as the largest of those."""
SIGMAS = 6.0
"""How far a check is from zero at most where its weights are rounded to the grid."""

PERSISTENT = 3
"""So many times in a row the same weights are not damaged: training moves them so far."""

CHECKS_PER_ERROR = 4
"""Damage of more weights than this allows is no explanation."""


class Damage(NamedTuple):
    """Wrong weights: positions in the word, (k,), and received minus original, in grid steps."""

    positions: NDArray[np.int64]
    values: NDArray[np.float64]


class Outliers:
    """Watches the checks of one word, from projection to projection.

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
        self._largest: deque[float] = deque(maxlen=MEMORY)
        self._suspected: NDArray[np.int64] = np.empty(0, np.int64)
        self._times = 0  # in a row

    @property
    def limit(self) -> float:
        """Checks beyond this are damaged; infinite until enough have been seen."""
        if len(self._largest) < FEWEST:
            return np.inf
        return max(FACTOR * max(self._largest), self._rounding)

    @cached_property
    def _rounding(self) -> float:
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
        """Take checks for what a step does."""
        self._largest.append(float(np.abs(checks).max()))

    def locate(self, checks: NDArray[np.float64], wild: NDArray[np.int64]) -> Damage | None:
        """The damage that explains all checks to within the limit, if there is one.

        Args:
            checks: (m,) of the word with its wild weights set to zero.
            wild: (k,) positions known to be wrong.
        """
        if not (np.isfinite(self.limit) and np.isfinite(checks).all()):
            return None
        unit = self._code.unit
        most = 2.0**62  # what is beyond it is explained by nothing that is looked for
        syndrome = np.rint(np.clip(checks * unit, -most, most)).astype(np.int64)
        decoding = self._decoder.decode(syndrome, wild, noise=self.limit * unit)
        if decoding.verdict is not Verdict.BELOW_FLOOR or not decoding.positions.size:
            return None
        # With so many unknowns as checks everything can be explained.
        if decoding.positions.size > self._code.m // CHECKS_PER_ERROR:
            return None
        return Damage(decoding.positions, decoding.values)

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


def put_back_(
    projection: Projection, number: int, word: Constrained, outliers: Outliers, step: int
) -> Event:
    """Put back single weights that explain the odd checks of a word; tells what was done.

    Args:
        projection: of all words.
        number: of the word in it.
        word: itself.
        outliers: what its checks were before.
        step: number of the step, for the event.
    """
    name = some({part.name for part in word.word})
    wild = projection.wild(number)
    before = projection.get(number, wild)
    projection.set_(number, wild, np.zeros(len(wild)))
    damage = outliers.locate(projection.checks()[number], wild)
    if damage is None:
        projection.set_(number, wild, before)
        reason = f"{name}: the step moved the checks far more than those before it"
        return Event("unexplained", step, reason)
    positions, values = damage
    if np.isfinite(before).all() and outliers.persists(positions):
        projection.set_(number, wild, before)
        reason = f"{name}: steps move the same weights far, again and again; it is no fault"
        return Event("accepted", step, reason)
    now = projection.get(number, positions) - values
    received = now + values
    received[np.searchsorted(positions, wild)] = before
    projection.set_(number, positions, now)
    changes = projection.changes(number, positions, received, now)
    names = some({change.tensor for change in changes})
    return Event("repaired", step, f"wrong in {names}", changes)
