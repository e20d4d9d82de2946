"""Faults at a rate of bits: where words are of several widths, wider ones are struck more often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def merged(lists: Sequence[FaultList], seed: int, kind: str, placement: str) -> FaultList:
    """Faults that come one after the other, as one list, in which no word occurs twice."""
    dtypes: dict[str, str] = {}
    for each in lists:
        dtypes |= zip(each.names, each.dtypes, strict=True)
    names = sorted(dtypes)
    numbers = [np.array([names.index(name) for name in each.names], np.int64) for each in lists]
    tensor = _joined([own[each.tensor] for own, each in zip(numbers, lists, strict=True)], np.int64)
    index = _joined([each.index for each in lists], np.int64)
    before = _joined([each.before for each in lists], np.uint64)
    changed = before ^ _joined([each.after for each in lists], np.uint64)
    order = np.lexsort((index, tensor))  # which leaves faults of one word one after the other
    tensor, index, before, changed = (c[order] for c in (tensor, index, before, changed))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(tensor) != 0) | (np.diff(index) != 0)
    first = np.flatnonzero(new)
    if len(first):
        changed = np.bitwise_xor.reduceat(changed, first)
    first, changed = first[changed != 0], changed[changed != 0]
    used, tensor = np.unique(tensor[first], return_inverse=True)
    found = [names[number] for number in used]
    return FaultList(
        seed=seed,
        kind=kind,
        placement=placement,
        names=tuple(found),
        dtypes=tuple(dtypes[name] for name in found),
        tensor=tensor,
        index=index[first],
        before=before[first],
        after=before[first] ^ changed,
    )


def _joined(columns: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *columns])
