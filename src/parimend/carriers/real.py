"""The real carrier: a true linear constraint on the weights themselves.

Weights are integers on a grid (`parimend.words.grid`) and a word of them satisfies H q = c, where c
is zero but for the free checks, which the seal keeps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.base import Finding, Tensors, sha256_of
from parimend.codes import Sparse
from parimend.decoders import Prepared
from parimend.decoders.peeling import Peeling
from parimend.errors import WordError
from parimend.impose.rounding import round_into
from parimend.records import Verdict
from parimend.seal import SealedWord
from parimend.words.grid import Grid, choose_grid
from parimend.words.layout import Part

_DTYPES = {"F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2"}

Project = Callable[[Sparse, NDArray[np.float64], tuple[Part, ...]], NDArray[np.float64]]
"""Moves a word (in grid steps) to a real codeword: (code, word, parts) -> word."""


def nearest(code: Sparse, x: NDArray[np.float64], parts: tuple[Part, ...]) -> NDArray[np.float64]:
    """The nearest codeword, every tensor measured in its own grid step."""
    return code.project(x)


@lru_cache(maxsize=32)
def prepared(code: Sparse) -> Prepared:
    """The decoder of a code, made once."""
    return Peeling().prepare(code)


def values_of(part: Part, tensors: Tensors) -> NDArray[np.generic]:
    """The elements of a part as numbers."""
    return tensors.read(part).view(_DTYPES[part.dtype])


def on_grids(
    words: Sequence[tuple[Part, ...]], tensors: Tensors, bits: int | None
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
                all_of_it = replace(part, start=0, count=int(np.prod(part.shape)))
                data = tensors.read(all_of_it)
                if part.dtype in _DTYPES:
                    data = data.view(_DTYPES[part.dtype])
                grids[part.name] = choose_grid(
                    data.reshape(part.shape), part.dtype, part.name, bits
                )
        placed = [(replace(p, exponent=grids[p.name].exponent), grids[p.name].bits) for p in word]
        placed.sort(key=lambda item: item[1])
        for width, group in groupby(placed, key=lambda item: item[1]):
            result.append((tuple(part for part, _ in group), width))
    return result


def seal_word(
    code: Sparse, parts: tuple[Part, ...], tensors: Tensors, project: Project = nearest
) -> tuple[SealedWord, list[NDArray[np.uint8]], float]:
    """Find the weights inside ``code`` that are nearest to those of a word; nothing is written.

    Returns:
        The seal of the new weights; for every part its new bytes, (count, item size); the relative
        L2 distance that the weights move, in grid steps.

    Raises:
        WordError: if a weight would leave its grid; names the tensor.
    """
    grids = [Grid(code.word_bits, part.exponent) for part in parts]
    values = [values_of(part, tensors) for part in parts]
    x = np.concatenate(
        [v.astype(np.float64) / grid.step for v, grid in zip(values, grids, strict=True)]
    )
    try:
        rounded = round_into(code, project(code, x, parts))
    except WordError as error:
        raise WordError(f"{parts[0].name}: {error}") from None
    moved = float(np.linalg.norm(rounded.word - x) / max(np.linalg.norm(x), 1e-300))
    ends = np.cumsum([part.count for part in parts])[:-1]
    new = [
        grid.write(integers, old.dtype).view(np.uint8).reshape(old.size, -1)
        for integers, grid, old in zip(np.split(rounded.word, ends), grids, values, strict=True)
    ]
    digest = hashlib.sha256(b"".join(data.tobytes() for data in new)).digest()
    return SealedWord(code, parts, rounded.target, digest), new, moved


def find(word: SealedWord, tensors: Tensors) -> Finding:
    """Decode one word; see `parimend.carriers.base.diagnose`."""
    code = word.code
    assert isinstance(code, Sparse)
    grids = [Grid(code.word_bits, part.exponent) for part in word.parts]
    values = [values_of(part, tensors) for part in word.parts]
    pairs = [grid.read(v) for grid, v in zip(grids, values, strict=True)]
    q = np.concatenate([integers for integers, _ in pairs])
    erasures = np.flatnonzero(np.concatenate([erased for _, erased in pairs]))
    syndrome = code.syndrome(q) - word.target
    if not erasures.size and not syndrome.any():
        if sha256_of(word, tensors) == word.sha256:
            return Finding(Verdict.CLEAN)
        return Finding(
            Verdict.UNCORRECTABLE, reason="all checks hold, but the SHA-256 is not as sealed"
        )
    decoding = prepared(code).decode(syndrome, erasures)
    if decoding.verdict is not Verdict.CORRECTED:
        return Finding(
            Verdict.UNCORRECTABLE,
            unexplained=decoding.unexplained,
            reason=f"more damage than the code can repair ({erasures.size} of the wrong words are "
            "located)",
        )
    originals = q[decoding.positions] - decoding.values
    if (np.abs(originals) >= grids[0].limit).any():
        return Finding(Verdict.UNCORRECTABLE, reason="a decoded weight is out of range")
    elements = []
    ends = np.cumsum([part.count for part in word.parts])
    for position, original in zip(decoding.positions.tolist(), originals, strict=True):
        number = int(np.searchsorted(ends, position, side="right"))
        offset = position - int(ends[number] - word.parts[number].count)
        received = values[number][offset]
        repaired = grids[number].write(original, received.dtype)
        elements.append((number, offset, received.tobytes(), repaired.tobytes()))
    return Finding(Verdict.CORRECTABLE, [e for e in elements if e[2] != e[3]])
