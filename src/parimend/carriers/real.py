"""The real carrier: a true linear constraint on the weights themselves.

Weights are integers on a grid (`parimend.words.grid`) and a word of them satisfies H q = c, where c
is zero but for the free checks, which the seal keeps.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.base import Finding, Tensors
from parimend.carriers.imposed import DTYPES, Sealed, decode, values_of
from parimend.codes import Sparse
from parimend.errors import WordError
from parimend.impose.rounding import round_into
from parimend.seal import SealedWord
from parimend.words.grid import Grid, choose_grid
from parimend.words.layout import Part

_ROOM = 1.0 / 32.0  # of the range of a grid, for exact rounding

Project = Callable[[Sparse, NDArray[np.float64], tuple[Part, ...]], NDArray[np.float64]]
"""Moves a word (in grid steps) to a real codeword: (code, word, parts) -> word."""


def nearest(code: Sparse, x: NDArray[np.float64], parts: tuple[Part, ...]) -> NDArray[np.float64]:
    """The nearest codeword, every tensor measured in its own grid step."""
    return code.project(x)


def grid_of(part: Part, tensors: Tensors, bits: int | None) -> Grid:
    """The grid of the whole tensor that a part belongs to.

    Raises:
        WordError: see `choose_grid`.
    """
    data: NDArray[Any] = tensors.read(replace(part, start=0, count=math.prod(part.shape)))
    if part.dtype in DTYPES:  # else choose_grid says what is wrong
        data = data.view(DTYPES[part.dtype]).reshape(part.shape)
    return choose_grid(data, part.dtype, part.name, bits)


GridOf = Callable[[Part, Tensors, int | None], Grid]


def on_grids(
    words: Sequence[tuple[Part, ...]], tensors: Tensors, bits: int | None, grid_of: GridOf = grid_of
) -> list[tuple[tuple[Part, ...], int]]:
    """Give every part its grid; tensors with different numbers of bits go to different words.

    Returns:
        Words of parts with exponents, each with the bits of its grid.

    Raises:
        WordError: see `choose_grid`.
    """
    result = []
    grids: dict[str, Grid] = {}
    for word in words:
        for part in word:
            if part.name not in grids:
                # One grid per tensor, also where several words share it.
                grids[part.name] = grid_of(part, tensors, bits)
        placed = [(replace(p, exponent=grids[p.name].exponent), grids[p.name].bits) for p in word]
        placed.sort(key=lambda item: item[1])
        for width, group in groupby(placed, key=lambda item: item[1]):
            result.append((tuple(part for part, _ in group), width))
    return result


def doublings(code: Sparse, largest: float) -> int:
    """How often the steps of a word must be doubled, so that its largest weight has room.

    A projection that minds the loss may let weights grow. Coarser steps, all by the same factor,
    leave the constraint what it is.
    """
    limit = Grid(code.word_bits, 0).limit * (1.0 - _ROOM)
    return math.frexp(largest / limit)[1] if limit <= largest < math.inf else 0


def seal_word(
    code: Sparse, parts: tuple[Part, ...], tensors: Tensors, project: Project = nearest
) -> Sealed:
    """Find the weights inside ``code`` that are nearest to those of a word; nothing is written.

    Raises:
        WordError: if a weight would leave its grid; names the tensor.
    """
    grids = [Grid(code.word_bits, part.exponent) for part in parts]
    values = [values_of(part, tensors) for part in parts]
    x = np.concatenate(
        [v.astype(np.float64) / grid.step for v, grid in zip(values, grids, strict=True)]
    )
    moved_to = project(code, x, parts)
    if shift := doublings(code, float(np.abs(moved_to).max())):
        parts = tuple(replace(part, exponent=part.exponent + shift) for part in parts)
        grids = [Grid(code.word_bits, part.exponent) for part in parts]
        x, moved_to = x / 2.0**shift, moved_to / 2.0**shift
    try:
        rounded = round_into(code, moved_to)
    except WordError as error:
        raise WordError(f"{parts[0].name}: {error}") from None
    moved = float(np.linalg.norm(rounded.word - x) / max(float(np.linalg.norm(x)), 1e-300))
    ends = np.cumsum([part.count for part in parts])[:-1]
    new = [
        grid.write(integers, old.dtype).view(np.uint8).reshape(old.size, -1)
        for integers, grid, old in zip(np.split(rounded.word, ends), grids, values, strict=True)
    ]
    digest = hashlib.sha256(b"".join(data.tobytes() for data in new)).digest()
    return Sealed(SealedWord(code, parts, rounded.target, digest), new, moved)


def find(word: SealedWord, tensors: Tensors) -> Finding:
    """Decode one word; see `parimend.carriers.base.diagnose`."""
    assert isinstance(word.code, Sparse)
    return decode(word, tensors, [Grid(word.code.word_bits, part.exponent) for part in word.parts])
