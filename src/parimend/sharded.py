"""Words whose weights are spread over processes: checked, repaired and sealed where they are.

Syndromes are linear: every process multiplies H with the weights that it holds, and one all-reduce
of m numbers gives the syndrome of the whole word, exactly, because it is made of integers. All
processes decode it, to the same result, and each one writes what it holds. Weights travel only
where SHA-256 has to see all bytes in order: when a seal is made and when damage was found, 4 MB at
a time.

Every function here is collective: all processes of the mesh call it, and all get the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.carriers import Request, Tensors, base, choose_codes, real
from parimend.carriers import protect_ as protect_read_
from parimend.carriers import seal_ as seal_read_
from parimend.carriers.base import Finding, proven, sha256_of
from parimend.carriers.imposed import DTYPES, decode_syndrome
from parimend.carriers.protect import notes_of, warn_if_far
from parimend.codes import Modular, Sparse
from parimend.codes.sparse import Columns
from parimend.errors import WordError
from parimend.impose.rounding import Clearing, edges, out_of_range
from parimend.model import ModelTensors
from parimend.records import Verdict
from parimend.seal import Seal, SealedWord
from parimend.words.bits import byte_view, dtype_name, item_size
from parimend.words.grid import Grid, choose_grid, not_finite
from parimend.words.layout import Part, whole
from parimend.words.shards import Held, Shards, common


class ShardedTensors:
    """Sharded tensors, for `parimend.carriers`: reads are sums over the processes."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.shards = Shards(tensors)
        self._whole = [
            whole(name, dtype_name(tensor.dtype, name), tuple(tensor.shape))
            for name, tensor in tensors.items()
        ]

    def whole(self) -> Sequence[Part]:
        return self._whole

    def read(self, part: Part) -> NDArray[np.uint8]:
        size = item_size(part.dtype)
        held = self.shards.held(part)
        data = np.zeros((part.count, size), np.uint8)
        mine = self.shards.local(part.name).view(-1)[held.start : held.stop]
        data[held.elements] = byte_view(mine, part.name).reshape(-1, size)
        return self.shards.sum(data.reshape(-1))

    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        held = self.shards.held(part)
        wanted = np.arange(part.count) if elements is None else elements
        at, which = common(held.offsets, wanted)
        self.write_held(part, held.start + at, values[which])

    def write_held(
        self, part: Part, elements: NDArray[np.int64], values: NDArray[np.uint8]
    ) -> None:
        """Set elements of the flattened local tensor."""
        local = self.shards.local(part.name)
        if len(elements):
            there = whole(part.name, part.dtype, tuple(local.shape))
            ModelTensors({part.name: local}).write(there, elements, values)


class _Piece(NamedTuple):
    """What this process holds of one part of a word."""

    number: int
    first: int  # of the part, in the word
    held: Held
    values: NDArray[Any]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Of the values, in the word."""
        return self.first + self.held.offsets


def _pieces(parts: Sequence[Part], shards: Shards) -> list[_Piece]:
    pieces, first = [], 0
    for number, part in enumerate(parts):
        held = shards.held(part)
        local = shards.local(part.name).view(-1)[held.start : held.stop]
        values = byte_view(local, part.name).view(DTYPES[part.dtype])
        pieces.append(_Piece(number, first, held, values))
        first += part.count
    return pieces


def find(word: SealedWord, tensors: Tensors) -> Finding:
    """Decode one word: `parimend.carriers.base.find` for `ShardedTensors`.

    Words of other carriers than ``real`` are read from end to end, in every process.
    """
    if word.code.family != "sparse":
        return base.find(word, tensors)
    assert isinstance(tensors, ShardedTensors)
    assert isinstance(word.code, Sparse)
    code, shards = word.code, tensors.shards
    pieces = _pieces(word.parts, shards)
    grids = [Grid(code.word_bits, part.exponent) for part in word.parts]
    read = [grids[piece.number].read(piece.values) for piece in pieces]
    syndrome = np.zeros(code.m, np.int64)
    erased: list[int] = []
    for piece, (q, wrong) in zip(pieces, read, strict=True):
        code.columns.take(piece.held.shifted(piece.first)).multiply(q, syndrome)
        erased += piece.positions[wrong].tolist()
    syndrome = shards.sum(syndrome) - word.target
    # More erasures than checks cannot be decoded: it does not matter which they are.
    erasures = np.array(sorted(shards.gather(erased[: code.m + 1])), np.int64)
    decoding = decode_syndrome(code, syndrome, erasures)
    if isinstance(decoding, Finding):
        return decoding
    elements = []
    for piece, (q, _) in zip(pieces, read, strict=True):
        at, which = common(piece.positions, decoding.positions)
        originals = q[at] - decoding.values[which]
        right = grids[piece.number].contains(originals)
        repaired = grids[piece.number].write(originals, piece.values.dtype)
        for i, fits, new in zip(at.tolist(), right, repaired, strict=True):
            offset, received = int(piece.held.offsets[i]), piece.values[i].tobytes()
            elements.append((piece.number, offset, received, new.tobytes() if fits else b""))
    elements = sorted(shards.gather([e for e in elements if e[2] != e[3]]))
    if not all(original for *_, original in elements):
        return Finding(Verdict.UNCORRECTABLE, reason="a decoded weight is out of range")
    return proven(Finding(Verdict.CORRECTABLE, elements), word, tensors)


def tensors_of(tensors: Mapping[str, torch.Tensor]) -> ModelTensors | ShardedTensors:
    """Tensors for `parimend.carriers`, whether they are sharded or not."""
    there = ModelTensors(tensors)
    return ShardedTensors(tensors) if there.sharded else there


def grid_for(tensors: ModelTensors | ShardedTensors) -> real.GridOf:
    """How to find the grid of such tensors."""
    return grid_of if isinstance(tensors, ShardedTensors) else real.grid_of


def grid_of(part: Part, tensors: Tensors, bits: int | None) -> Grid:
    """The grid of a sharded tensor: `parimend.carriers.real.grid_of`, from its largest weight."""
    assert isinstance(tensors, ShardedTensors)
    local = tensors.shards.local(part.name)
    size = local.abs().max().item() if local.numel() else 0.0
    wrong = 0 if math.isfinite(size) else int((~local.isfinite()).sum().item())
    wrong = int(tensors.shards.sum(np.array([wrong]))[0])
    if wrong:
        raise not_finite(part.name, wrong, part.count)
    largest = tensors.shards.largest(np.array([size]))
    return choose_grid(largest, part.dtype, part.name, bits)


def protect_(tensors: ShardedTensors, request: Request) -> Seal:
    """Protect sharded tensors; see `parimend.protect_`."""
    if request.carrier == "real":
        return seal_(tensors, choose_codes(tensors, request, grid_of), request)
    return protect_read_(tensors, request)


def seal_(
    tensors: ModelTensors | ShardedTensors,
    chosen: Sequence[tuple[Modular | Sparse, tuple[Part, ...]]],
    request: Request,
) -> Seal:
    """Project, round exactly and seal words of tensors; sharded ones without gathering them.

    The checks are cleared by moving the few columns that they own; only those are brought together.

    Raises:
        WordError: if a weight would leave its grid; names the tensor. Nothing was changed then.
    """
    if isinstance(tensors, ModelTensors):
        return seal_read_(tensors, chosen, request)
    codes = [code for code, _ in chosen if isinstance(code, Sparse)]
    rounded = [
        _round(code, parts, tensors.shards) for code, (_, parts) in zip(codes, chosen, strict=True)
    ]
    words = []
    for code, (parts, target, new, _) in zip(codes, rounded, strict=True):
        for piece, data in new:
            elements = piece.held.start + np.arange(len(data))
            tensors.write_held(parts[piece.number], elements, data)
        word = SealedWord(code, parts, target, b"")
        words.append(replace(word, sha256=sha256_of(word, tensors)))
    moves = [moved for *_, moved in rounded]
    for word, moved in zip(words, moves, strict=True):
        warn_if_far(word.name, moved)
    return Seal(request.carrier, request.errors, tuple(words), notes_of(moves))


class _Rounded(NamedTuple):
    parts: tuple[Part, ...]
    target: NDArray[np.int64]
    data: list[tuple[_Piece, NDArray[np.uint8]]]
    moved: float


def _round(code: Sparse, parts: tuple[Part, ...], shards: Shards) -> _Rounded:
    """One word inside its code: `parimend.carriers.real.seal_word`, from what is held here."""
    pieces = _pieces(parts, shards)
    mine = np.concatenate([piece.positions for piece in pieces])
    steps = np.concatenate(
        [np.full(len(p.values), math.ldexp(1.0, parts[p.number].exponent)) for p in pieces]
    )
    before = np.concatenate([piece.values for piece in pieces]) / steps
    columns = code.columns.take(mine)
    x = before.copy()
    for _ in range(2):  # the second time clears the rounding errors of the first
        checks = shards.sum(columns.multiply(x, np.zeros(code.m))) / code.unit
        columns.subtract_transposed(code.solve_gram(checks) / code.unit, x)
    largest = float(shards.largest(np.array([np.abs(x).max(initial=0.0)]))[0])
    if shift := real.doublings(code, largest):
        parts = tuple(replace(part, exponent=part.exponent + shift) for part in parts)
        steps, before, x = steps * 2.0**shift, before / 2.0**shift, x / 2.0**shift
    q, target = _clear(code, columns, mine, x, shards, parts[0].name)
    squares = shards.sum(np.array([np.sum((q - before) ** 2), np.sum(before**2)]))
    moved = math.sqrt(squares[0] / max(squares[1], 1e-300))
    ends = np.cumsum([len(piece.values) for piece in pieces])[:-1]
    data = []
    for piece, integers in zip(pieces, np.split(q, ends), strict=True):
        grid = Grid(code.word_bits, parts[piece.number].exponent)
        new = grid.write(integers, piece.values.dtype)
        data.append((piece, new.view(np.uint8).reshape(len(new), new.itemsize)))
    return _Rounded(parts, target, data, moved)


def _clear(
    code: Sparse,
    columns: Columns,
    mine: NDArray[np.int64],
    x: NDArray[np.float64],
    shards: Shards,
    name: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The held integers of the word near ``x``, and its syndrome: `round_into` for shards."""
    clear = Clearing(code)
    owned_here, where = common(mine, code.owned.ravel())
    for edge in edges(code):
        q = np.rint(np.clip(x, -edge, edge)).astype(np.int64)
        syndrome = shards.sum(columns.multiply(q, np.zeros(code.m, np.int64)))
        owned = np.zeros(code.owned.shape, np.int64)
        owned.reshape(-1)[where] = q[owned_here]
        owned = shards.sum(owned)
        clear(owned, syndrome)
        q[owned_here] = owned.reshape(-1)[where]
        worst = int(shards.largest(np.array([np.abs(q).max(initial=0)]))[0])
        if worst < 1 << (code.word_bits - 1):
            return q, syndrome
    raise WordError(f"{name}: {out_of_range(code, worst)}")
