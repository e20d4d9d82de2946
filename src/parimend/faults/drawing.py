"""Drawing faults: from a kind and a seed to a list of changed words."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np

from parimend.arguments import real_number, require, seed_of, whole_number
from parimend.errors import FaultError
from parimend.faults.faultlist import FaultList
from parimend.faults.memory import MEMORY
from parimend.faults.numeric import Noise, NonFinite, Replace, Stuck
from parimend.faults.patterns import BitFlip, DoubleByte, MultiFlip, Pattern, RandomBits, Sign, Zero
from parimend.faults.placements import AREAS, Placement, Positions, Space
from parimend.faults.words import Tensors, Words, select
from parimend.rng import Stream

_T = TypeVar("_T")

PATTERNS: Mapping[str, type[Pattern]] = MappingProxyType(
    {
        "noise": Noise,
        "replace": Replace,
        "random": RandomBits,
        "bitflip": BitFlip,
        "multiflip": MultiFlip,
        "doublebyte": DoubleByte,
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
        pattern: a name of `PATTERNS`.
        placement: a name of `PLACEMENTS`; that of a draw which names no other.
    """

    pattern: str
    placement: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {name: Kind(name, "scattered") for name in PATTERNS}
    | {area: Kind("random", area) for area in ("burst", "lines", "page", "row", "bank")}
    | {area: Kind("bitflip", area) for area in ("column", "rowhammer")}
)
"""Kinds by name: every pattern on scattered words, and overwritten areas of memory."""

PLACEMENTS: Mapping[str, Placement] = MappingProxyType({**AREAS, **MEMORY})
"""Placements by name."""


def draw(
    kind: str,
    words: Tensors,
    count: int,
    seed: int,
    *,
    only: str | Sequence[str] | None = None,
    placement: str | None = None,
    **options: Any,
) -> FaultList:
    """Draw exactly ``count`` faults: elements that change, and what they change to.

    Nothing is changed yet. The selected tensors, in the order of their names, count as one row of
    elements; every one, and every line, page or run of that row is equally likely. "Change" is
    meant of bits: 0.0 to -0.0 is one. Elements that the damage would leave as they are (zeroing a
    zero) are passed over. The same arguments give the same list on every platform and in every
    release; kinds that share a placement strike the same elements under the same seed, where all
    are changeable.

    Args:
        kind: a name of `KINDS`.
        words: named numpy arrays of any shape (float16/32/64, (u)int8..64), or `Words` for raw
            patterns of other dtypes.
        count: number of elements to change, >= 0.
        seed: 0 <= seed < 2^64.
        only: shell patterns of tensor names; by default all tensors.
        placement: a name of `PLACEMENTS`; by default that of the kind.
        **options: of the pattern, given to every tensor: ``scale`` (noise), ``step`` and ``limit``
            (replace), ``value`` (stuck), ``fewest`` and ``most`` (multiflip),
            ``lowest`` and ``highest`` (bitflip: the bits that may be struck).

    Returns:
        The faults, ordered by tensor name and flat index.

    Raises:
        ImpossibleFaultError: if fewer than ``count`` elements can be changed.
        FaultError: for an unknown kind, placement, option or dtype, a value out of range, a tensor
            that the kind does not suit, tensors that share memory, or if nothing is selected.

    Example:
        >>> import numpy as np
        >>> weights = {"fc.weight": np.full((4, 5), 0.5, np.float32)}
        >>> faults = draw("bitflip", weights, 2, seed=0)
        >>> for fault in faults:
        ...     print(fault)
        fc.weight[6]: 3f000000 -> 3f020000
        fc.weight[16]: 3f000000 -> 3f000004
        >>> faults.apply_(weights)
        >>> float(weights["fc.weight"][1, 1])
        0.5078125
        >>> faults.revert_(weights)
        >>> bool((weights["fc.weight"] == 0.5).all())
        True
    """
    count = whole_number(count, "count", least=0, error=FaultError)
    seed = seed_of(seed, error=FaultError)
    registered = _look_up(KINDS, kind, "kind of damage")
    placement = registered.placement if placement is None else placement
    place = _look_up(PLACEMENTS, placement, "placement")
    chosen = select(words, only)
    require_options(kind, options)
    pattern = PATTERNS[registered.pattern]
    space = Space(kind, placement, [pattern(each, **options) for each in chosen])
    positions = np.empty(0, dtype=np.int64)
    if count:
        positions = place(space, count, Stream(seed, "placement"))
    return _strike(space, positions, seed)


def _strike(space: Space, positions: Positions, seed: int) -> FaultList:
    """The faults at these places, sorted ones."""
    contents = Stream(seed, "pattern")
    index, tensor = np.empty_like(positions), np.empty_like(positions)
    before, after = (np.empty(positions.size, dtype=np.uint64) for _ in range(2))
    struck: list[Words] = []
    for number, part in space.groups(positions):
        index[part] = positions[part] - space.edges[number]
        present = space.tensors[number].bits[index[part]]
        before[part] = present
        after[part] = space.patterns[number].damage(present, contents)
        tensor[part] = len(struck)
        struck.append(space.tensors[number])
    return FaultList(
        seed=seed,
        kind=space.kind,
        placement=space.placement,
        names=tuple(words.name for words in struck),
        dtypes=tuple(words.dtype for words in struck),
        tensor=tensor,
        index=index,
        before=before,
        after=after,
    )


def options_of(kind: str) -> list[str]:
    """Names of the options of a kind.

    >>> options_of("bitflip")
    ['lowest', 'highest']
    """
    pattern = PATTERNS[KINDS[kind].pattern]
    return [name for name in inspect.signature(pattern).parameters if name != "words"]


def require_options(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a kind does not have, or that are no numbers as it takes them.

    Raises:
        FaultError: names the option.

    >>> require_options("bitflip", {"lowest": 1.5})
    Traceback (most recent call last):
    parimend.errors.FaultError: bitflip: lowest must be a whole number, not a float: 1.5
    """
    known = options_of(kind)
    pattern = PATTERNS[KINDS[kind].pattern]
    for name, value in options.items():
        if name not in known:
            raise FaultError(
                f"{kind} has no option {name!r}; it takes {', '.join(known) if known else 'none'}"
            )
        hint = get_type_hints(pattern.__init__)[name]
        if value is None and NoneType in get_args(hint):
            continue
        whole = int in (hint, *get_args(hint))
        if whole:
            whole_number(value, f"{kind}: {name}", error=FaultError)
        else:
            real_number(value, f"{kind}: {name}", finite=False, error=FaultError)


def _look_up(registry: Mapping[str, _T], name: str, what: str) -> _T:
    require(name, what, "a name", str)
    try:
        return registry[name]
    except KeyError:
        raise FaultError(f"unknown {what} {name!r}: take one of {', '.join(registry)}") from None
