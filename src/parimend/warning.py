"""Warnings that point at the code of whoever uses this package."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

_BETWEEN = frozenset({"parimend", "torch", "contextlib", "functools", ""})
"""Packages whose calls lie between what a user wrote and what warns: hooks, contexts, wrappers; and
code that is executed under no name, where Python does not warn."""
_THREADS = frozenset({"threading", "concurrent"})


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user that led here: a constructor, a step, a forward.

    In a thread of this package there is none, and it is that of the call.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warn("nothing is watched any more")
        >>> print(said[0].message)
        nothing is watched any more
    """
    frame = sys._getframe(1)
    level = 2  # of the call
    while _package(frame) in _BETWEEN and frame.f_back:
        frame, level = frame.f_back, level + 1
    level = 2 if _package(frame) in _THREADS else level
    warnings.warn(message, category, stacklevel=level)


def _package(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__", "<string>")  # as in Python
    return name.partition(".")[0] if isinstance(name, str) else ""
