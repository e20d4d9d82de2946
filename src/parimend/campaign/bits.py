"""Faults at a rate of bits: where words are of several widths, wider ones are struck more often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from parimend.faults import FaultList, Words


def bits_of(words: Iterable[Words]) -> int:
    """How many bits there are."""
    return sum(len(each) * each.format.bits for each in words)


def by_width(words: Iterable[Words]) -> list[list[Words]]:
    """Tensors whose words are as wide together: of these any word is as likely to be struck.

    >>> model = [Words.of(name, np.zeros(3, name)) for name in ("f4", "u1", "i4")]
    >>> [[each.name for each in some] for some in by_width(model)]
    [['u1'], ['f4', 'i4']]
    """
    found: dict[int, list[Words]] = {}
    for each in words:
        found.setdefault(each.format.bits, []).append(each)
    return [found[width] for width in sorted(found)]


def word_at(words: Sequence[Words], bit: int) -> int:
    """In which word of tensors in a row a bit of them lies.

    >>> model = [Words.of(name, np.zeros(3, name)) for name in ("f4", "u1")]
    >>> [word_at(model, bit) for bit in (0, 31, 32, 95, 96, 104)]
    [0, 0, 1, 2, 3, 4]
    """
    first = 0
    for each in words:
        if bit < len(each) * each.format.bits:
            break
        first += len(each)
        bit -= len(each) * each.format.bits
    return first + bit // each.format.bits


def merged(lists: Iterable[FaultList], seed: int, kind: str, placement: str) -> FaultList:
    """Faults that come one after the other, as one list, in which no word occurs twice."""
    dtypes: dict[str, str] = {}
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for faults in lists:
        for fault in faults:
            dtypes[fault.tensor] = fault.dtype
            before, after = found.get((fault.tensor, fault.index), (fault.before, fault.before))
            found[fault.tensor, fault.index] = before, after ^ fault.before ^ fault.after
    rows = sorted((*place, *both) for place, both in found.items() if both[0] != both[1])
    names = sorted({row[0] for row in rows})
    number = {name: place for place, name in enumerate(names)}
    return FaultList(
        seed=seed,
        kind=kind,
        placement=placement,
        names=tuple(names),
        dtypes=tuple(dtypes[name] for name in names),
        tensor=np.array([number[row[0]] for row in rows], np.int64),
        index=np.array([row[1] for row in rows], np.int64),
        before=np.array([row[2] for row in rows], np.uint64),
        after=np.array([row[3] for row in rows], np.uint64),
    )
