"""Kinds of damage: pairs of a pattern and a placement."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from parimend.faults.bitwise import BitFlip, MultiFlip, RandomBits, Sign, Zero
from parimend.faults.errors import FaultError
from parimend.faults.numeric import Noise, NonFinite, Replace, Stuck
from parimend.faults.pattern import Pattern
from parimend.faults.placements import PLACEMENTS, Placement
from parimend.faults.words import Words

__all__ = ["KINDS", "PATTERNS", "Kind", "bind", "kind_of", "placement_of"]

_T = TypeVar("_T")

PATTERNS: MappingProxyType[str, type[Pattern]] = MappingProxyType(
    {
        "noise": Noise,
        "replace": Replace,
        "random": RandomBits,
        "bitflip": BitFlip,
        "multiflip": MultiFlip,
        "stuck": Stuck,
        "zero": Zero,
        "sign": Sign,
        "nonfinite": NonFinite,
    }
)
"""Patterns by name: what a struck word becomes."""


@dataclass(frozen=True)
class Kind:
    """A kind of damage.

    Attributes:
        pattern: a name of :data:`PATTERNS`.
        placement: a name of :data:`~parimend.faults.PLACEMENTS`; the default, where a caller of
            :func:`~parimend.faults.draw` names no other.
    """

    pattern: str
    placement: str


KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {name: Kind(name, "scattered") for name in PATTERNS}
    | {area: Kind("random", area) for area in ("burst", "lines", "page")}
)
"""Kinds by name: every pattern on scattered words, and overwritten areas of memory."""


def kind_of(name: str) -> Kind:
    """The kind of that name.

    Raises:
        FaultError: the name is none of :data:`KINDS`.
    """
    return _look_up(KINDS, name, "kind of damage")


def placement_of(name: str) -> Placement:
    """The placement of that name.

    Raises:
        FaultError: the name is none of :data:`~parimend.faults.PLACEMENTS`.
    """
    return _look_up(PLACEMENTS, name, "placement")


def bind(kind: str, words: Sequence[Words], options: Mapping[str, Any]) -> list[Pattern]:
    """The pattern of a kind, bound to each of the tensors.

    Raises:
        FaultError: the pattern has no such option, or refuses its value or the dtype of a tensor.
    """
    pattern = PATTERNS[kind_of(kind).pattern]
    known = [name for name in inspect.signature(pattern).parameters if name != "words"]
    for name in options:
        if name not in known:
            raise FaultError(
                f"{kind} has no option {name!r}; it takes {', '.join(known) if known else 'none'}"
            )
    return [pattern(tensor, **options) for tensor in words]


def _look_up(registry: Mapping[str, _T], name: str, what: str) -> _T:
    try:
        return registry[name]
    except KeyError:
        raise FaultError(f"unknown {what} {name!r}: take one of {', '.join(registry)}") from None
