"""Work beside a running model, and the time that it takes from it.

On the CPU that is time of one core. On a GPU the work runs in a stream of its own, so that forward
passes do not queue behind it, and what counts is how long that stream was busy: as weights are only
read, this is a share of the memory's bandwidth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

_LOWEST = 0
"""The priority below which there is none; streams of a model may have a higher one."""


def timed(work: Callable[[], Result], devices: Collection[torch.device]) -> tuple[Result, float]:
    """Do a piece of work beside forward passes.

    Args:
        work: what to do; it waits for its result.
        devices: that it reads from.

    Returns:
        What it gives, and for how many seconds it kept a core busy, or one of the GPUs.

    Example:
        >>> result, seconds = timed(lambda: 3, [torch.device("cpu")])
        >>> result, seconds < 1.0
        (3, True)
    """
    streams = [_stream(device) for device in devices if device.type == "cuda"]
    if not streams:
        began = time.perf_counter()
        result = work()
        return result, time.perf_counter() - began
    with ExitStack() as stack:
        starts = []
        for stream in streams:
            # What was written to weights before, by whatever was launched, is to be seen.
            stream.wait_stream(torch.cuda.current_stream(stream.device))
            stack.enter_context(torch.cuda.stream(stream))
            starts.append(_now(stream))
        result = work()
        ends = [_now(stream) for stream in streams]
    for end in ends:
        end.synchronize()
    spans = [start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)]
    return result, max(spans) / 1e3


class Stopwatch:
    """How long something kept a core busy: from now on, without what is done aside.

    Example:
        >>> watch = Stopwatch()
        >>> with watch.aside():
        ...     print("somebody else's turn")
        somebody else's turn
        >>> 0.0 < watch.seconds < 10.0
        True
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._began

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Waiting for others, and what they do, takes no time of ours."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - began


def wait_for(devices: Collection[torch.device]) -> None:
    """Wait until everything is done that was launched: calls of a model return before it is."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _now(stream: Any) -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


@lru_cache
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device, priority=_LOWEST)  # type: ignore[no-untyped-call]
