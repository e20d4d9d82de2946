"""Arguments of the wrong type, refused in one sentence before anything is done."""

from __future__ import annotations

import operator
import os
from pathlib import Path

from parimend.errors import SpecError


def path_of(value: object, name: str = "path") -> Path:
    """A path that was given as an argument.

    >>> path_of(3)
    Traceback (most recent call last):
    parimend.errors.SpecError: path must be the path of a file, not an int: 3
    """
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str) and path and "\0" not in path:
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


def whole_number(value: object, name: str = "errors", least: int | None = None) -> int:
    """A whole number that was given as an argument, numpy's included; True and False are none.

    >>> whole_number(2.5)
    Traceback (most recent call last):
    parimend.errors.SpecError: errors must be a whole number, not a float: 2.5
    """
    if not isinstance(value, bool):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            if least is None or number >= least:
                return number
            raise SpecError(f"{name} must be at least {least}, not {number}")
    raise SpecError(f"{name} must be a whole number, not {_shown(value)}")


def workers_of(value: object) -> int | None:
    """How many work at the same time, as it was given as an argument; None for one on each core.

    >>> workers_of(0)
    Traceback (most recent call last):
    parimend.errors.SpecError: workers must be at least 1, not 0
    """
    return None if value is None else whole_number(value, "workers", least=1)


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


def require_callable(value: object, name: str, what: str) -> None:
    """Refuse what cannot be called.

    >>> require_callable(3, "on_event", "a function of an Event")
    Traceback (most recent call last):
    parimend.errors.SpecError: on_event must be a function of an Event, not an int: 3
    """
    if not callable(value):
        raise SpecError(f"{name} must be {what}, not {_shown(value)}")


def _shown(value: object) -> str:
    kind = type(value).__name__
    if not isinstance(value, str | bytes | int | float | type(None)):
        return f"{_article(kind)} {kind}"  # a model, for one, says more than a sentence can hold
    text = repr(value)
    return f"{_article(kind)} {kind}: {text if len(text) <= 60 else text[:57] + '...'}"


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"
