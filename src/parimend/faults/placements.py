"""Placements: which words of the selected tensors are struck."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from parimend.errors import FaultError, ImpossibleFaultError
from parimend.faults.patterns import Pattern
from parimend.faults.words import Words
from parimend.names import listed
from parimend.rng import Stream

LINE_BYTES = 64
"""Bytes in a cache line."""
PAGE_BYTES = 4096
"""Bytes in a memory page."""

Positions = NDArray[np.int64]
"""Places in the row: the words of all selected tensors, one tensor after the other."""


class Space:
    """Selected tensors in a row, each with its pattern.

    Args:
        kind: the kind of damage asked for, for messages.
        placement: the placement asked for, for messages.
        patterns: one pattern per tensor, bound to it.

    Raises:
        FaultError: if two tensors share memory.
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

    def changeable(self, positions: Positions) -> NDArray[np.bool_]:
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
        return ImpossibleFaultError(
            f"{self.kind} (placement {self.placement}) can change only {possible} of the {count} "
            f"elements asked for in {listed(names, 5)}; ask for fewer, select other tensors, or "
            "take another kind, placement or option",
            kind=self.kind,
            tensors=names,
            count=count,
            possible=possible,
        )


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

    def changeable(self, blocks: Positions) -> Positions:
        """Positions of the words in these blocks that the damage can change, block by block."""
        positions = expand(*self.bounds(blocks))
        return positions[self._space.changeable(positions)]


Placement = Callable[[Space, int, Stream], Positions]
"""From a space, a number of words >= 1 and a stream to that many places, sorted and distinct, all
changeable; raises ImpossibleFaultError where there are not so many."""


def scattered(space: Space, count: int, stream: Stream) -> Positions:
    """Single words, every set of ``count`` changeable words equally likely."""
    return _by_blocks(space, Blocks(space, None), count, stream)


def lines(space: Space, count: int, stream: Stream) -> Positions:
    """Whole aligned cache lines, every line equally likely.

    In lines that hold words which cannot be changed, the others are struck. Of the last line only
    as many words, from its beginning, as are still missing.
    """
    return _by_blocks(space, Blocks(space, LINE_BYTES), count, stream)


def page(space: Space, count: int, stream: Stream) -> Positions:
    """Scattered words within one aligned page, every page that has enough being equally likely."""
    return within_one(space, Blocks(space, PAGE_BYTES), count, stream)


def within_one(space: Space, blocks: Blocks, count: int, stream: Stream) -> Positions:
    """Scattered words within one block, every block that has enough being equally likely."""
    possible = 0
    for batch in stream.shuffled(blocks.total, 1):
        starts, stops = blocks.bounds(batch)
        able = space.changeable(expand(starts, stops))
        begins = np.cumsum(stops - starts) - (stops - starts)
        in_each = np.add.reduceat(able, begins, dtype=np.int64)
        enough = np.flatnonzero(in_each >= count)
        if enough.size:
            choices = blocks.changeable(batch[enough[:1]])
            return np.sort(choices[stream.distinct(choices.size, count)])
        possible = max(possible, int(in_each.max()))
    raise space.impossible(count, possible)


def burst(space: Space, count: int, stream: Stream) -> Positions:
    """One run of words without a gap, within one tensor, every such run being equally likely."""
    starts, lengths = space.edges[:-1], np.diff(space.edges)
    run = _run(starts, lengths, count, stream)
    if run is not None and space.changeable(run).all():
        return run
    # Some words cannot be changed. Starting afresh between them keeps all runs equally likely.
    gaps_start: list[Positions] = []
    gaps_length: list[Positions] = []
    for tensor in range(len(space.tensors)):
        stop = space.edges[tensor + 1]
        walls = space.unchangeable(tensor) + space.edges[tensor]
        begin = np.concatenate([space.edges[tensor : tensor + 1], walls + 1])
        gaps_start.append(begin)
        gaps_length.append(np.append(walls, stop) - begin)
    starts, lengths = np.concatenate(gaps_start), np.concatenate(gaps_length)
    run = _run(starts, lengths, count, stream)
    if run is None:
        raise space.impossible(count, int(lengths.max()))
    return run


AREAS: dict[str, Placement] = {"scattered": scattered, "burst": burst, "lines": lines, "page": page}
"""These placements by name."""


def _by_blocks(space: Space, blocks: Blocks, count: int, stream: Stream) -> Positions:
    """Words of blocks taken in random order, until there are enough that can be changed."""
    if count > space.total:  # said at once: a search would first put the whole row in order
        fixed = sum(space.unchangeable(tensor).size for tensor in range(len(space.tensors)))
        raise space.impossible(count, space.total - fixed)
    found: list[Positions] = []
    missing = count
    for batch in stream.shuffled(blocks.total, -(-count // blocks.fewest)):
        positions = blocks.changeable(batch)[:missing]
        found.append(positions)
        missing -= positions.size
        if not missing:
            return np.sort(np.concatenate(found))
    raise space.impossible(count, count - missing)


def expand(starts: Positions, stops: Positions) -> Positions:
    """All places from each start to its stop, one block after the other."""
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    within = np.arange(int(lengths.sum()), dtype=np.int64)
    return np.asarray(within + np.repeat(starts - before, lengths))


def _run(starts: Positions, lengths: Positions, count: int, stream: Stream) -> Positions | None:
    """A run of ``count`` places within one of the stretches, None where none is long enough."""
    ways = np.maximum(lengths - count + 1, 0)
    ends = np.cumsum(ways)
    if not ends.size or not ends[-1]:
        return None
    way = int(stream.integers(int(ends[-1]), 1)[0])
    stretch = int(np.searchsorted(ends, way, side="right"))
    start = int(starts[stretch]) + way - int(ends[stretch] - ways[stretch])
    return np.arange(start, start + count, dtype=np.int64)


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
