"""How large the gradients of a run are: one that is far larger is wrong, unless it stays so."""

from __future__ import annotations

import math
from collections import deque

MEMORY, FEWEST = 100, 20
"""Steps that a gradient is compared with, and how many of them must have been seen."""
PERSISTENT = 5
"""So many gradients in a row that are too large, and alike, are no fault: the run has changed."""
ALIKE = 10.0
"""Norms are alike if the largest is at most so many times the smallest."""


class Scale:
    """Watches the norms of gradients, from step to step.

    A loss whose weight was raised and a layer that was unfrozen make gradients larger for good; a
    flipped bit makes one larger, by a factor of its own.

    Args:
        factor: how many times the largest norm of the last steps a gradient may have.

    Example:
        >>> scale = Scale(100.0)
        >>> all(scale.ordinary(1.0) for _ in range(30)), scale.ordinary(1e6), scale.largest
        (True, False, 1.0)
        >>> [scale.persists(1e6 * (1 + step)) for step in range(5)], scale.ordinary(1e6)
        ([False, False, False, False, True], True)
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._norms: deque[float] = deque(maxlen=MEMORY)
        self._rejected: deque[float] = deque(maxlen=PERSISTENT)

    @property
    def largest(self) -> float:
        """The largest norm of the last steps; 0.0 if there were none."""
        return max(self._norms, default=0.0)

    def ordinary(self, norm: float) -> bool:
        """Whether a gradient is like those before; always while too few have been seen, if it is
        finite.
        """
        if not math.isfinite(norm):
            return False
        if len(self._norms) >= FEWEST and norm > self._factor * self.largest:
            return False
        if norm:  # what has no gradient yet says nothing about size
            self._norms.append(norm)
        self._rejected.clear()
        return True

    def persists(self, norm: float) -> bool:
        """Whether a gradient that is not ordinary is the last of several that are alike. They are
        taken for ordinary then.
        """
        self._rejected.append(norm)
        several = len(self._rejected) == PERSISTENT
        if not several or not max(self._rejected) <= ALIKE * min(self._rejected) < math.inf:
            return False
        self._norms.extend(self._rejected)
        self._rejected.clear()
        return True
