"""How many threads or processes work at the same time."""

from __future__ import annotations

import os


def cores() -> int:
    """Processor cores that this process may use: a job is often given a few of many.

    >>> 1 <= cores() <= os.cpu_count()
    True
    """
    return len(os.sched_getaffinity(0))
