"""How often to project: the weights need it now and then, the training loop should not notice."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from parimend.stores.shards import Shards
from parimend.training.hooks import in_parallel

TIMED = 20
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


class Pace:
    """When to project: after every so many steps, as given or as the first steps cost.

    Args:
        n: number of constrained weights.
        every: the interval, if it is given.
        shards: of the weights.
        weight: one of them, which is where the others are.

    Attributes:
        every: the interval; None until it is chosen.
    """

    def __init__(self, n: int, every: int | None, shards: Shards, weight: torch.Tensor) -> None:
        self._n, self._shards, self._weight = n, shards, weight
        if every is None and not shards.several and in_parallel():
            # Processes that train the same weights must do the same, and cannot be asked here.
            every = untimed_interval(n)
        self.restart(every)

    def restart(self, every: int | None) -> None:
        """Go on with an interval, or choose it anew."""
        self.every = every
        self._left = 0.0  # when the last projection was over
        self._timings: list[tuple[float, float]] = []

    def due(self, step: int) -> bool:
        """Whether to project after a step, counted from 1."""
        return self.every is None or step % self.every == 0

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Around a projection: chooses the interval once enough is known of its cost."""
        if self.every is not None:
            yield
            return
        began = self._now()
        yield
        ended = self._now()
        if self._left:
            self._timings.append((ended - began, began - self._left))
        self._left = ended
        if len(self._timings) == TIMED:
            projections, steps = zip(*self._timings, strict=True)
            chosen = cheap_interval(self._n, projections, steps)
            self.every = int(self._shards.largest(np.array([chosen]))[0])

    def _now(self) -> float:
        device = self._weight.device
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()
