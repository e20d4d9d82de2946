"""Drawing faults: from a seed to a list of changed words."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from parimend.faults.errors import FaultError
from parimend.faults.faultlist import FaultList
from parimend.faults.kinds import bind, kind_of, placement_of
from parimend.faults.space import Space
from parimend.faults.stream import Stream
from parimend.faults.words import Tensors, Words, select

__all__ = ["draw"]


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
    """Draw exactly ``count`` faults: words that change, and what they change to.

    Nothing is changed yet. The selected tensors, in the order of their names, count as one row of
    words; every word, line, page or run of that row is equally likely. "Change" is meant of bits:
    0.0 to -0.0 is one. Words that the damage would leave as they are (zeroing a zero) are passed
    over. The same arguments give the same list on every platform and in every release; kinds that
    share a placement strike the same words under the same seed, where all words are changeable.

    Args:
        kind: a name of :data:`KINDS`.
        words: named numpy arrays of any shape (float16/32/64, (u)int8..64), or :class:`Words` for
            raw patterns of other formats.
        count: number of words to change, >= 0.
        seed: 0 <= seed < 2^64.
        only: shell-style patterns over tensor names; default: all tensors.
        placement: a name of :data:`PLACEMENTS`; default: that of the kind.
        **options: options of the pattern, given to every tensor: ``scale`` (noise), ``step`` and
            ``limit`` (replace), ``value`` (stuck), ``fewest`` and ``most`` (multiflip).

    Returns:
        The faults, ordered by tensor name and flat index.

    Raises:
        ImpossibleFaultError: fewer than ``count`` words can be changed.
        FaultError: unknown kind, placement, option or dtype; a value out of range; a tensor that
            the kind does not suit; tensors that share memory; nothing selected.

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
    placement = kind_of(kind).placement if placement is None else placement
    place = placement_of(placement)
    count, seed = operator.index(count), operator.index(seed)
    if count < 0:
        raise FaultError(f"count {count} is negative")
    space = Space(kind, placement, bind(kind, select(words, only), options))
    where, contents = Stream(seed, "placement"), Stream(seed, "pattern")
    positions = place(space, count, where) if count else np.empty(0, dtype=np.int64)
    after = np.empty(count, dtype=np.uint64)
    before = np.empty(count, dtype=np.uint64)
    tensor = np.empty(count, dtype=np.int64)
    index = np.empty(count, dtype=np.int64)
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
        kind=kind,
        placement=placement,
        names=tuple(words.name for words in struck),
        dtypes=tuple(words.dtype for words in struck),
        tensor=tensor,
        index=index,
        before=before,
        after=after,
    )
