"""Tables of a spec as frozen dataclasses: unknown keys and values of the wrong type are refused."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from parimend.arguments import real_number
from parimend.errors import SpecError
from parimend.names import listed

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def table(cls: type[T], given: Any, where: str) -> T:
    """An instance of a dataclass from the keys and values of a table.

    Raises:
        SpecError: names the table, the key, and the nearest key that there is.

    >>> from parimend.campaign.spec import Stop
    >>> table(Stop, {"trails": 100}, "[stop]")
    Traceback (most recent call last):
    parimend.errors.SpecError: [stop]: unknown key 'trails'; did you mean 'trials'?
    """
    require_table(given, where)
    known = {each.name: each for each in fields(cls) if each.init}  # type: ignore[arg-type]
    require_keys(given, known, where)
    hints = get_type_hints(cls)
    for name, each in known.items():
        if name not in given and each.default is MISSING and each.default_factory is MISSING:
            raise SpecError(f"{where}: {name} is missing")
    return cls(
        **{name: _typed(value, hints[name], f"{where}: {name}") for name, value in given.items()}
    )


def require_table(given: Any, where: str) -> None:
    """Refuse what has no keys."""
    if not isinstance(given, Mapping):
        raise SpecError(f"{where} must be a table of keys and values, not {given!r}")


def require_keys(given: Mapping[str, Any], known: Any, where: str) -> None:
    """Refuse a key that is not known; names the nearest one. ``where`` is empty for a spec."""
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"take {listed(list(known), 20)}"
            raise SpecError(f"{where}: unknown key {key!r}; {hint}".removeprefix(": "))


def one_of(name: Any, known: Mapping[str, T], where: str) -> T:
    """What is known by this name.

    Raises:
        SpecError: names the nearest one.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {listed(list(known), 30)}"
    raise SpecError(f"{where}: unknown kind {name!r}; {hint}")


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as the field holds it: lists become tuples."""
    if get_origin(hint) in (Union, types.UnionType):
        choices = [each for each in get_args(hint) if each is not type(None)]
        return value if value is None else _typed(value, choices[0], where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise SpecError(f"{where} must be a list, not {value!r}")
        inner = get_args(hint)[0]
        return tuple(_typed(each, inner, where) for each in value)
    if get_origin(hint) is Mapping or get_origin(hint) is dict:
        require_table(value, where)
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return real_number(value, where)  # a whole number may be larger than any float
    if hint in _WORDS and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise SpecError(f"{where} must be {_WORDS[hint]}, not {value!r}")
    return value
