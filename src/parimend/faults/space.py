"""The selected words as one row, and its division into aligned blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from parimend.faults.errors import FaultError, ImpossibleFaultError
from parimend.faults.pattern import Pattern
from parimend.faults.words import Words

__all__ = ["Blocks", "Positions", "Space"]

Positions = npt.NDArray[np.int64]
"""Places in the row: the words of all selected tensors, one tensor after the other."""


class Space:
    """Selected tensors in a row, each with its pattern.

    Args:
        kind: the kind of damage asked for, for messages.
        placement: the placement asked for, for messages.
        patterns: one pattern per tensor, bound to it.

    Raises:
        FaultError: two tensors share memory.
    """

    def __init__(self, kind: str, placement: str, patterns: Sequence[Pattern]) -> None:
        self.kind = kind
        self.placement = placement
        self.patterns = patterns
        self.tensors: list[Words] = [pattern.words for pattern in patterns]
        _refuse_shared(self.tensors)
        self.edges = _edges([len(words) for words in self.tensors])
        """Places where tensors begin, and the end of the last: shape (tensors + 1,)."""

    @property
    def total(self) -> int:
        """Number of words."""
        return int(self.edges[-1])

    def groups(self, positions: Positions) -> Iterator[tuple[int, slice]]:
        """For sorted positions: each tensor that has any, and which part of them it has."""
        cuts = np.searchsorted(positions, self.edges)
        for tensor in np.flatnonzero(np.diff(cuts)).tolist():
            yield tensor, slice(int(cuts[tensor]), int(cuts[tensor + 1]))

    def changeable(self, positions: Positions) -> npt.NDArray[np.bool_]:
        """Which of the words at these positions, in any order, the damage can change."""
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        result = np.empty(positions.shape, dtype=np.bool_)
        for tensor, part in self.groups(ordered):
            local = ordered[part] - self.edges[tensor]
            pattern = self.patterns[tensor]
            result[order[part]] = pattern.changeable(pattern.words.bits[local])
        return result

    def unchangeable(self, tensor: int) -> Positions:
        """Flat indices of all words of one tensor that the damage cannot change, sorted."""
        pattern, start = self.patterns[tensor], 0
        found = [np.empty(0, dtype=np.int64)]
        for bits in pattern.words.chunks():
            found.append(np.flatnonzero(~pattern.changeable(bits)) + start)
            start += bits.size
        return np.concatenate(found)

    def impossible(self, count: int, possible: int) -> ImpossibleFaultError:
        """The exception to raise where only ``possible`` of ``count`` words can be changed."""
        names = [words.name for words in self.tensors]
        return ImpossibleFaultError(self.kind, self.placement, names, count, possible)


class Blocks:
    """Aligned blocks of memory, such as cache lines: places in the row from start to stop.

    Blocks are aligned to the first word of their tensor and never cross into the next one, so the
    last block of a tensor may be short. They are numbered from 0 to ``total - 1``.

    Args:
        space: the words.
        size: bytes in a block; None for blocks of one word.
    """

    def __init__(self, space: Space, size: int | None) -> None:
        widths = [words.bits.itemsize for words in space.tensors]
        self._space = space
        self._words = np.array([1 if size is None else size // width for width in widths])
        counts = [-(-len(w) // p) for w, p in zip(space.tensors, self._words.tolist(), strict=True)]
        self._edges = _edges(counts)
        self.total = int(self._edges[-1])
        self.fewest = int(self._words.min())
        """Words in a full block of the widest dtype."""

    def bounds(self, blocks: Positions) -> tuple[Positions, Positions]:
        """Start and stop positions of the blocks with these numbers."""
        tensor = np.searchsorted(self._edges, blocks, side="right") - 1
        start = self._space.edges[tensor] + (blocks - self._edges[tensor]) * self._words[tensor]
        return start, np.minimum(start + self._words[tensor], self._space.edges[tensor + 1])


def _edges(sizes: Sequence[int]) -> Positions:
    return np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))])


def _refuse_shared(tensors: Sequence[Words]) -> None:
    """Tied weights would be struck under two names, and the second fault would meet the first."""
    spans = sorted(
        (*np.lib.array_utils.byte_bounds(words.bits), words.name) for words in tensors if len(words)
    )
    for (_, stop, name), (start, _, following) in pairwise(spans):
        if start < stop:
            raise FaultError(
                f"tensors {name!r} and {following!r} share memory (tied weights?); "
                f"leave one of them out"
            )
