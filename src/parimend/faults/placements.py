"""Placements: which words are struck."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from parimend.faults.space import Blocks, Positions, Space
from parimend.faults.stream import Stream

__all__ = ["LINE_BYTES", "PAGE_BYTES", "PLACEMENTS", "Placement"]

LINE_BYTES = 64
"""Bytes in a cache line."""
PAGE_BYTES = 4096
"""Bytes in a memory page."""

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
    pages = Blocks(space, PAGE_BYTES)
    possible = 0
    for batch in stream.shuffled(pages.total, 1):
        starts, stops = pages.bounds(batch)
        inside = _expand(starts, stops)
        able = space.changeable(inside)
        ends = np.cumsum(stops - starts)
        able_before = np.concatenate([[0], np.cumsum(able)])
        per_page = able_before[ends] - able_before[ends - (stops - starts)]
        enough = np.flatnonzero(per_page >= count)
        if enough.size:
            first = enough[0]
            here = slice(ends[first] - (stops - starts)[first], ends[first])
            choices = inside[here][able[here]]
            return np.sort(choices[stream.distinct(choices.size, count)])
        possible = max(possible, int(per_page.max()))
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


PLACEMENTS: MappingProxyType[str, Placement] = MappingProxyType(
    {"scattered": scattered, "burst": burst, "lines": lines, "page": page}
)
"""Placements by name."""


def _by_blocks(space: Space, blocks: Blocks, count: int, stream: Stream) -> Positions:
    """Words of blocks taken in random order, until there are enough that can be changed."""
    if count > space.total:  # said at once: a search would first put the whole row in order
        fixed = sum(space.unchangeable(tensor).size for tensor in range(len(space.tensors)))
        raise space.impossible(count, space.total - fixed)
    found: list[Positions] = []
    missing = count
    for batch in stream.shuffled(blocks.total, -(-count // blocks.fewest)):
        positions = _expand(*blocks.bounds(batch))
        positions = positions[space.changeable(positions)][:missing]
        found.append(positions)
        missing -= positions.size
        if not missing:
            return np.sort(np.concatenate(found))
    raise space.impossible(count, count - missing)


def _expand(starts: Positions, stops: Positions) -> Positions:
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
