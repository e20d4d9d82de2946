"""What all records have in common: how they are written as JSON, and that their `repr` is short."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np

from parimend.showing import brief


@dataclass(frozen=True, eq=False, repr=False)
class Record:
    """What every record can do: be written as JSON, and say in one short line what it holds."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values.

        Bytes are in hexadecimal, in the order in which they lie in the file or, little-endian, in
        memory. Numbers that JSON does not have, NaN and infinities, are text.
        """
        return {name: plain(getattr(self, name)) for name in self._names()}

    def to_json(self) -> str:
        """`as_dict` as one JSON object on one line."""
        return json.dumps(self.as_dict(), allow_nan=False)

    def __repr__(self) -> str:
        values = {name: repr(getattr(self, name)) for name in self._names()}
        most = max(160 // len(values), 16)
        shown = ", ".join(f"{name}={brief(value, most)}" for name, value in values.items())
        return f"{type(self).__name__}({brief(shown, most=250)})"

    def _names(self) -> tuple[str, ...]:
        return field_names(type(self))  # type: ignore[arg-type]  # a class can be hashed


@cache
def field_names(of: type) -> tuple[str, ...]:
    """Names of the fields of a dataclass; `dataclasses.fields` takes as long as a small word."""
    return tuple(each.name for each in fields(of))


def plain(value: Any) -> Any:
    """A value of a record as JSON knows it."""
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value
