"""JSON as others write it: without the NaN and the infinities that Python reads and writes."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def decoder(**more: Any) -> json.JSONDecoder:
    """A reader of JSON.

    Args:
        more: see `json.JSONDecoder`.

    >>> decoder().decode("[1, NaN]")
    Traceback (most recent call last):
    ValueError: NaN is no JSON
    """
    return json.JSONDecoder(parse_constant=_refuse, parse_float=finite, **more)


def loads(text: str | bytes) -> Any:
    """What a text of JSON says.

    Raises:
        ValueError: if it is none, or a number in it would read as infinite.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=finite)


def finite(text: str) -> float:
    """A number; those that would read as infinite are refused."""
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
