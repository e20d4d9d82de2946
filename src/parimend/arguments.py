"""Arguments of the wrong type, refused in one sentence before anything is done."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path

import numpy as np

from parimend.errors import ParimendError, SpecError

SEEDS = 1 << 64
"""Seeds are smaller than this, and not negative."""
_ENDLESS = "a number of thousands of digits"  # which Python does not write


def path_of(value: object, name: str = "path") -> Path:
    """A path that was given as an argument.

    >>> path_of(3)
    Traceback (most recent call last):
    parimend.errors.SpecError: path must be the path of a file, not an int: 3
    """
    with suppress(TypeError, UnicodeEncodeError):  # of no path; of what no name can be made of
        path = os.fspath(value)  # type: ignore[call-overload]
        if isinstance(path, str) and path and b"\0" not in os.fsencode(path):
            return Path(path)
    raise SpecError(f"{name} must be the path of a file, not {_shown(value)}")


def goal_of(value: object, name: str = "path") -> Path:
    """A path that was given as an argument, and is written to. What ends in a separator is a
    folder, which a `Path` would forget.

    Raises:
        SpecError: also if it is to be a folder and is none.

    >>> goal_of("no-such-folder/")
    Traceback (most recent call last):
    parimend.errors.SpecError: no-such-folder/ is no folder: make it first, or name a file
    """
    path = path_of(value, name)
    text = os.fspath(value)  # type: ignore[call-overload]
    if os.path.basename(text) in ("", os.curdir) and not path.is_dir():
        raise SpecError(f"{text} is no folder: make it first, or name a file")
    return path


def whole_number(
    value: object,
    name: str = "errors",
    least: int | None = None,
    most: int | None = None,
    *,
    error: type[ParimendError] = SpecError,
) -> int:
    """A whole number that was given as an argument, numpy's included; True and False are none.

    >>> whole_number(2.5)
    Traceback (most recent call last):
    parimend.errors.SpecError: errors must be a whole number, not a float: 2.5
    """
    if not isinstance(value, bool):
        try:
            found = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            if (least is None or found >= least) and (most is None or found <= most):
                return found
            bounds = _range(least, None, most, None).removeprefix(" of")
            raise error(f"{name} must be{bounds}, not {_figure(found)}")
    raise error(f"{name} must be a whole number, not {_shown(value)}")


def seed_of(value: object, *, error: type[ParimendError] = SpecError) -> int:
    """A seed that was given as an argument: a whole number from 0 to 2^64 - 1.

    >>> seed_of(-1)
    Traceback (most recent call last):
    parimend.errors.SpecError: seed must be from 0 to 2^64 - 1, not -1
    """
    seed = whole_number(value, "seed", error=error)
    if not 0 <= seed < SEEDS:
        raise error(f"seed must be from 0 to 2^64 - 1, not {_figure(seed)}")
    return seed


def real_number(
    value: object,
    name: str,
    what: str = "a number",
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    finite: bool = True,
    error: type[ParimendError] = SpecError,
) -> float:
    """A number that was given as an argument, numpy's included; True and False are none.

    Args:
        value: the argument.
        name: what it is called.
        what: what it must be, in words.
        least, above: what it must not be below, or must be above; one of them at most.
        most, below: what it must not be above, or must be below; one of them at most.
        finite: whether infinite numbers are refused, too, and NaN, which no bounds hold.
        error: to raise.

    Raises:
        ParimendError: names the argument, and says what it is and what it must be.

    Example:
        >>> real_number(1.5, "share", above=0, most=1)
        Traceback (most recent call last):
        parimend.errors.SpecError: share must be a number above 0 and at most 1, not 1.5
    """
    what += _range(least, above, most, below)
    if not isinstance(value, Real) or isinstance(value, bool):
        raise error(f"{name} must be {what}, not {_shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found, finite = math.inf, True
    if (
        (finite and not math.isfinite(found))
        or (least is not None and not found >= least)
        or (above is not None and not found > above)
        or (most is not None and not found <= most)
        or (below is not None and not found < below)
    ):
        raise error(f"{name} must be {what}, not {_figure(value)}")
    return found


def _range(
    least: float | None, above: float | None, most: float | None, below: float | None
) -> str:
    """In words, and with a space before; empty without bounds."""
    low = "" if least is None else f"of at least {least}"
    low = low if above is None else f"above {above}"
    high = "" if most is None else f"at most {most}"
    high = high if below is None else f"below {below}"
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if above is not None and below is not None:
        return f" between {above} and {below}"
    return "".join(f" {word}" for word in (low, low and high and "and", high) if word)


def one_of(
    value: object,
    name: str,
    choices: Sequence[str | None],
    *,
    error: type[ParimendError] = SpecError,
) -> None:
    """Refuse what is none of some names.

    >>> one_of("leave", "on_damage", ("raise", "repair", "warn"))
    Traceback (most recent call last):
    parimend.errors.SpecError: on_damage must be 'raise', 'repair' or 'warn', not a str: 'leave'
    """
    # Of an array nobody knows whether it is among them.
    if not isinstance(value, str | None) or value not in choices:
        *most, last = map(repr, choices)
        raise error(f"{name} must be {', '.join(most)} or {last}, not {_shown(value)}")


def flag(value: object, name: str) -> bool:
    """True or False, numpy's included; nothing else is taken for one of them: "no" is not False.

    >>> flag("no", "force")
    Traceback (most recent call last):
    parimend.errors.SpecError: force must be True or False, not a str: 'no'
    """
    require(value, name, "True or False", bool, np.bool_)
    return bool(value)


def workers_of(value: object) -> int | None:
    """How many work at the same time, as it was given as an argument; None for one on each core.

    >>> workers_of(0)
    Traceback (most recent call last):
    parimend.errors.SpecError: workers must be from 1 to 32768, not 0
    """
    return None if value is None else whole_number(value, "workers", least=1, most=1 << 15)


def require(value: object, name: str, what: str, *types: type) -> None:
    """Refuse a value of another type.

    Args:
        value: the argument.
        name: what it is called.
        what: what it must be, in words.
        types: that are right.

    Raises:
        SpecError: names the argument, and says what it is and what it must be.

    Example:
        >>> require("model.parimend", "seal", "a Seal", bytes)
        Traceback (most recent call last):
        parimend.errors.SpecError: seal must be a Seal, not a str: 'model.parimend'
    """
    if not isinstance(value, types):
        raise SpecError(f"{name} must be {what}, not {_shown(value)}")


def require_iterable(
    value: object, name: str, what: str, *, error: type[ParimendError] = SpecError
) -> None:
    """Refuse what cannot be gone through, as arrays without dimensions, which look as if.

    >>> require_iterable(3, "seeds", "whole numbers, such as range(20)")
    Traceback (most recent call last):
    parimend.errors.SpecError: seeds must be whole numbers, such as range(20), not an int: 3
    """
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        raise error(f"{name} must be {what}, not {_shown(value)}") from None


def require_callable(value: object, name: str, what: str) -> None:
    """Refuse what cannot be called.

    >>> require_callable(3, "on_event", "a function of an Event")
    Traceback (most recent call last):
    parimend.errors.SpecError: on_event must be a function of an Event, not an int: 3
    """
    if not callable(value):
        raise SpecError(f"{name} must be {what}, not {_shown(value)}")


def _figure(value: object) -> str:
    """A number, if it has not too many digits to be read, or even to be written."""
    try:
        text = str(value)
    except ValueError:
        return _ENDLESS
    return text if len(text) <= 60 else f"a number of {len(text)} digits"


def _shown(value: object) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    if not isinstance(value, str | bytes | int | float):
        return f"{_article(kind)} {kind}"  # a model, for one, says more than a sentence can hold
    try:
        text = repr(value)
    except ValueError:
        text = _ENDLESS
    return f"{_article(kind)} {kind}: {text if len(text) <= 60 else text[:57] + '...'}"


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"
