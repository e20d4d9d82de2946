"""Placements that follow the rows and banks of a memory chip.

A model, as tensors do not say where they lie: a row holds 8 KiB, aligned to the first word of its
tensor; the rows of all tensors are numbered one after the other, and row r lies in bank r modulo
16.
"""

from __future__ import annotations

import numpy as np

from parimend.faults.placements import Blocks, Placement, Positions, Space, expand, within_one
from parimend.rng import Stream

ROW_BYTES = 8192
"""Bytes in a row."""
BANKS = 16
"""Banks that rows lie in by turns."""
HAMMERED = 4
"""Banks that are hammered at once."""


def row(space: Space, count: int, stream: Stream) -> Positions:
    """Scattered words within one row, every row that has enough being equally likely."""
    return within_one(space, Blocks(space, ROW_BYTES), count, stream)


def bank(space: Space, count: int, stream: Stream) -> Positions:
    """Scattered words within one bank, every bank that has enough being equally likely."""
    rows, possible = Blocks(space, ROW_BYTES), 0
    for number in stream.distinct(BANKS, BANKS).tolist():
        choices = rows.changeable(np.arange(number, rows.total, BANKS))
        if choices.size >= count:
            return np.sort(choices[stream.distinct(choices.size, count)])
        possible = max(possible, choices.size)
    raise space.impossible(count, possible)


def column(space: Space, count: int, stream: Stream) -> Positions:
    """The words at one place of ``count`` rows of a tensor that follow each other.

    Every first row with such places is equally likely, and then every place.
    """
    rows = Blocks(space, ROW_BYTES)
    for batch in stream.shuffled(rows.total, 1):
        for first in batch.tolist():
            places = _places(space, rows, first, count)
            if places.shape[1]:
                return places[:, int(stream.integers(places.shape[1], 1)[0])]
    raise space.impossible(count, _longest(space, rows))


def rowhammer(space: Space, count: int, stream: Stream) -> Positions:
    """Words of one row in each of four banks, shared out evenly; fewer than four: one in each."""
    rows, used = Blocks(space, ROW_BYTES), set[int]()
    shares = [len(part) for part in np.array_split(np.arange(count), min(count, HAMMERED))]
    found: list[Positions] = []
    for batch in stream.shuffled(rows.total, HAMMERED):
        for number in batch.tolist():
            if number % BANKS in used:
                continue
            choices = rows.changeable(np.array([number]))
            if choices.size < shares[0]:
                continue
            found.append(choices[stream.distinct(choices.size, shares[len(used)])])
            used.add(number % BANKS)
            if len(used) == len(shares):
                return np.sort(np.concatenate(found))
    raise space.impossible(count, _hammered(rows))


MEMORY: dict[str, Placement] = {"row": row, "bank": bank, "column": column, "rowhammer": rowhammer}
"""These placements by name."""


def _places(space: Space, rows: Blocks, first: int, count: int) -> Positions:
    """The places, one a column, whose words in all of so many rows can be changed."""
    starts, stops = rows.bounds(np.arange(first, min(first + count, rows.total)))
    tensor = np.searchsorted(space.edges, starts, side="right")
    if len(starts) < count or tensor[-1] != tensor[0]:
        return np.empty((count, 0), np.int64)
    inside = starts[:, None] + np.arange(int((stops - starts).min()))
    able = space.changeable(inside.ravel()).reshape(inside.shape)
    return inside[:, able.all(axis=0)]


def _longest(space: Space, rows: Blocks) -> int:
    """Most rows that a column can have."""
    longest, run, before = 0, np.zeros(0, np.int64), -1
    for number in range(rows.total):
        positions = expand(*rows.bounds(np.array([number])))
        tensor = int(np.searchsorted(space.edges, positions[0], side="right"))
        if tensor != before:
            run = np.zeros(positions.size, np.int64)
        run = (run[: positions.size] + 1) * space.changeable(positions)
        longest, before = max(longest, int(run.max())), tensor
    return longest


def _hammered(rows: Blocks) -> int:
    """Most words that rowhammer can strike."""
    most = np.zeros(BANKS, np.int64)
    for number in range(rows.total):
        size = rows.changeable(np.array([number])).size
        most[number % BANKS] = max(most[number % BANKS], size)
    fourth = int(np.sort(most)[-HAMMERED])
    return HAMMERED * fourth if fourth else int((most > 0).sum())
