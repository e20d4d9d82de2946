"""How often to project: the weights need it now and then, the training loop should not notice."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

WATCHED = 20
"""Steps that are timed before the interval is chosen; each of them is followed by a projection."""

LONG = 20_000
"""Words of more weights than this are long."""
SHORT_COST, LONG_COST = 0.04, 0.12
"""What projecting may take of a training step, for short words and for long ones."""

LONGEST_INTERVAL = 256
"""Projections are not further apart than this, whatever they cost: a network that is away from its
code for too long comes back to it with a loss of accuracy."""

UNTIMED_INTERVAL = 25
"""The interval for long words where nothing can be timed."""


def untimed_interval(n: int) -> int:
    """The steps between projections of ``n`` weights when nothing can be timed."""
    return UNTIMED_INTERVAL if n > LONG else 1


def cheap_interval(n: int, projections: Sequence[float], steps: Sequence[float]) -> int:
    """The steps between projections that keep their cost below its limit.

    A power of two, so that runs on the same machine mostly choose the same.

    Args:
        n: number of constrained weights.
        projections: seconds that projections took.
        steps: seconds that training steps took without them.

    Example:
        >>> cheap_interval(400_000, [0.006] * 20, [0.005] * 20)
        16
        >>> cheap_interval(5_000, [0.0001] * 20, [0.005] * 20)
        1
    """
    share = statistics.median(projections) / max(statistics.median(steps), 1e-9)
    needed = share / (LONG_COST if n > LONG else SHORT_COST)
    return min(2 ** max(0, math.ceil(math.log2(max(needed, 1.0)))), LONGEST_INTERVAL)
