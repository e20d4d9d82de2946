"""JSON as others write it: without the NaN and the infinities that Python reads and writes."""

from __future__ import annotations

import math
from typing import NoReturn


def refuse(constant: str) -> NoReturn:
    """NaN and infinities, for a reader of JSON: its ``parse_constant``."""
    raise ValueError(f"{constant} is no JSON")


def finite(text: str) -> float:
    """A number, for a reader of JSON; it refuses those that would read as infinite."""
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return number
