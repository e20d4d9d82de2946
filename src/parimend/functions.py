"""Functions that users give: found by their names, and the scores that they make."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat

from parimend.errors import SpecError


def function_of(
    text: str, base: Path, where: str = "", what: str = "function"
) -> Callable[..., Any]:
    """What ``MODULE:FUNCTION`` names; the folder ``base`` is looked into, too.

    Args:
        text: the names.
        base: stays among the folders that modules are looked for in.
        where: they were written, for messages.
        what: it is, for messages.

    Raises:
        SpecError: if there is no such module or function, or another module of that name is loaded.

    Example:
        >>> function_of("math:sqrt", Path())(9.0)
        3.0
        >>> function_of("math", Path())
        Traceback (most recent call last):
        parimend.errors.SpecError: 'math' names no function: give MODULE:FUNCTION
        >>> function_of("math.py:sqrt", Path())
        Traceback (most recent call last):
        parimend.errors.SpecError: 'math.py:sqrt': a module is named without .py and without folders
    """
    prefix = f"{where}: " if where else ""
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise SpecError(f"{prefix}{text!r} names no {what}: give MODULE:{what.upper()}")
    if module_name.endswith(".py"):
        raise SpecError(f"{prefix}{text!r}: a module is named without .py and without folders")
    base = base.absolute()
    if str(base) not in sys.path:
        sys.path.append(str(base))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a module that is not ours may raise
        said = f"{type(error).__name__}: {error}"
        raise SpecError(
            f"{prefix}module {module_name!r} cannot be imported, from {base} or installed: {said}"
        ) from error
    found = getattr(module, "__file__", None)
    beside = base.joinpath(*module_name.split(".")).with_suffix(".py")
    if beside.exists() and found and Path(found).resolve() != beside.resolve():
        raise SpecError(f"{prefix}{beside} is hidden by {found}: give it another name")
    called = getattr(module, name, None)
    if not callable(called):
        raise SpecError(f"{prefix}module {module_name!r} has no {what} {name!r}")
    given: Callable[..., Any] = called
    return given


METRIC = "a function of a model that gives a number"
"""What a metric must be, in words."""


def score_of(value: SupportsFloat, metric: str) -> float:
    """A score of a model, which may be damaged.

    Args:
        value: what the metric gives.
        metric: its name.

    Raises:
        SpecError: if it is no number, or no finite one.

    Example:
        >>> score_of(1, "accuracy")
        1.0
    """
    try:
        score = float(value)
    except OverflowError:  # a whole number that has no float
        score = math.inf
    except (TypeError, ValueError, RuntimeError):  # torch's, of several numbers
        kind = type(value).__name__
        raise SpecError(f"{metric} gives no number but a {kind}: a score must be one") from None
    if not math.isfinite(score):
        raise SpecError(
            f"{metric} gives {score}: a score must be a finite number also for a damaged model; "
            "give a share, or bound it"
        )
    return score
