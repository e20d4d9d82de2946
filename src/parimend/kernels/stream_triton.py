"""A few power sums of words on a GPU, at the speed at which its memory is read.

Words are read in rows of `WIDTH`, up to `ROWS` of which are an item, the work of one program: fewer
where there are few words, so that all of a GPU works until the end. The point of a word is the
product of one that its column has and one that its row has, and so are powers of it: a column adds
up its words times the powers of the rows, which are the same for all columns, and only at the end
of an item these sums are multiplied with the powers of the columns, and with those of the place at
which the item lies. For a word and a sum that is two products of 32 and 17 bits, which 64 bits hold
for 2^15 rows without a reduction.
"""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from parimend.kernels.field import PRIME as FIELD
from parimend.kernels.field_triton import PRIME, times
from parimend.kernels.pieces_torch import stream_on
from parimend.kernels.points import Points
from parimend.kernels.points_numba import powers_of, products
from parimend.kernels.trust_triton import limited

SUMS = 4
"""So many are computed."""
WIDTH = 512  # words in a row
ROWS = 512  # rows of the largest items: 1 MiB
_LEAST = 64  # and of the smallest: with fewer, what a program does before and after counts
_ITEMS = 2048  # which a large GPU takes in four rounds
_WARPS = 4
_LIMIT = limited(128)  # registers of a thread, so that four programs share a processor
_AT_ONCE = 1024  # pieces in a launch
_LIMB = 17


class _Tables(NamedTuple):
    """Powers for `_add_up`, on a device.

    rows: (rows of an item, SUMS, 2) int32, of rows, in limbs of 17 and 16 bits.
    columns: (SUMS, tile + WIDTH) int64, of columns times factors of words.
    items: (items of the longest piece,) int64, of the places of items in a piece.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    items: torch.Tensor


class Prepared:
    """The first `SUMS` sums of pieces on one device, to be computed again and again.

    Args:
        points: of the code.
        pieces: contiguous, at addresses that are multiples of 16, and the index of their first
            word, a multiple of 8; the last word is filled up with zeros.
    """

    def __init__(self, points: Points, pieces: Sequence[tuple[torch.Tensor, int]]) -> None:
        self._points, self._pieces = points, pieces  # whose memory is kept by that
        self._device = pieces[0][0].device
        places = [(elements.data_ptr(), elements.nbytes, at) for elements, at in pieces]
        self._rows = _rows_of(sum(size for _, size, _ in places))
        self._described = [
            _described(points, tuple(places[i : i + _AT_ONCE]), WIDTH * self._rows, self._device)
            for i in range(0, len(places), _AT_ONCE)
        ]

    def start(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Begin to compute: (SUMS,) int64 on the device, to be reduced modulo p.

        Args:
            out: sums of others, which are added to.
        """
        tables = _tables(self._points, self._rows, self._device, stream_on(self._device))
        if out is None:
            out = torch.zeros(SUMS, dtype=torch.int64, device=self._device)
        for described, items in self._described:
            if described.is_cuda:  # its memory must not serve others before this stream has read it
                described.record_stream(torch.cuda.current_stream(self._device))
            count = described.shape[1]
            _add_up[(items,)](
                described,
                count,
                *tables,
                out,
                self._rows,
                PIECES=64 if count <= 64 else _AT_ONCE,
                REACH=tables.columns.shape[1],
                ROW=WIDTH,
                num_warps=_WARPS,
                **_LIMIT,
            )
        return out


@lru_cache(maxsize=64)
def _described(
    points: Points, pieces: tuple[tuple[int, int, int], ...], item: int, device: torch.device
) -> tuple[torch.Tensor, int]:
    """(5, pieces) int64 on a device: address, bytes, place in a tile, power of the tile, end of the
    items, of so many words, of each piece; and the number of items. Kept, as weights stay where
    they are: 40 KB.
    """
    step, tile = points.shift(points.tile), points.tile
    rows = [
        (address, size, at % tile, pow(step, at // tile, FIELD)) for address, size, at in pieces
    ]
    described = np.array(rows, np.int64)
    ends = np.cumsum(-(-described[:, 1] // (4 * item)))
    table = np.ascontiguousarray(np.column_stack([described, ends]).T)
    return torch.from_numpy(table).to(device), int(ends[-1])


def _rows_of(size: int) -> int:
    """How many rows make an item where there are so many bytes."""
    rows = min(_LEAST, ROWS)
    while 2 * rows <= ROWS and _ITEMS * 8 * WIDTH * rows <= size:
        rows *= 2
    return rows


@lru_cache(maxsize=16)
def _tables(points: Points, rows: int, device: torch.device, stream: int) -> _Tables:
    """Computed once for a code, items of so many rows, and a device: about 200 KB."""
    exponents = np.arange(1, SUMS + 1)
    places = np.arange(points.tile + WIDTH)
    columns = powers_of(points.of(places), SUMS).astype(np.uint64)
    columns = products(columns.ravel(), np.repeat(points.factors(places), SUMS))
    step = points.shift(WIDTH)
    steps = np.array([pow(step, int(e), FIELD) for e in exponents], np.float64)
    powers = powers_of(steps, rows).T
    limbs = np.stack([powers & ((1 << _LIMB) - 1), powers >> _LIMB], -1).astype(np.int32)
    most = (1 << 32) // (WIDTH * rows) if rows == ROWS else 2 * _ITEMS
    items = powers_of(np.array([points.shift(WIDTH * rows)], np.float64), most)[0]
    arrays = limbs, columns.astype(np.int64).reshape(-1, SUMS).T, items
    return _Tables(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))


@triton.jit
def _limb(pointer):
    """A limb as an unsigned number; from 32 bits, so that products are of 32 bits by 32."""
    return tl.load(pointer).to(tl.uint32, bitcast=True).to(tl.uint64)


@triton.jit
def _added(w, row, a, b, c, d, e, f, g, h):
    """Sums of words times both limbs of the powers of a row, for every sum, and those of ``w``."""
    w = w.to(tl.uint64)
    return (
        a + w * _limb(row),
        b + w * _limb(row + 1),
        c + w * _limb(row + 2),
        d + w * _limb(row + 3),
        e + w * _limb(row + 4),
        f + w * _limb(row + 5),
        g + w * _limb(row + 6),
        h + w * _limb(row + 7),
    )


@triton.jit
def _four_rows(begin, ROW: tl.constexpr, mask):
    return (
        tl.load(begin, mask=mask, other=0),
        tl.load(begin + ROW, mask=mask, other=0),
        tl.load(begin + 2 * ROW, mask=mask, other=0),
        tl.load(begin + 3 * ROW, mask=mask, other=0),
    )


@triton.jit
def _sum(low, high, columns):
    """The sum over columns, from sums of products with both limbs, times their powers."""
    value = (low + ((high % PRIME) << 17)) % PRIME
    return tl.sum(times(value, columns.to(tl.uint64)), 0) % PRIME


@triton.jit(do_not_specialize=["count", "length"])
def _add_up(
    pieces,
    count,
    rows,
    columns,
    items,
    out,
    length,
    PIECES: tl.constexpr,
    REACH: tl.constexpr,
    ROW: tl.constexpr,
):
    """Add the sums of one item, of ``length`` rows, to ``out``; ``pieces`` is what `_described`
    gives.
    """
    item = tl.program_id(0)
    i = tl.arange(0, PIECES)
    ends = tl.load(pieces + 4 * count + i, mask=i < count, other=1 << 40)
    piece = tl.sum((ends <= item).to(tl.int32), 0)
    number = item - tl.max(tl.where(ends <= item, ends, 0), 0).to(tl.int32)
    begin = tl.load(pieces + piece) + number.to(tl.int64) * (4 * ROW * length)
    begin = tl.multiple_of(begin.to(tl.pointer_type(tl.uint32)), 16)
    sizes = tl.load(pieces + count + i, mask=i < count, other=0)
    size = tl.sum(tl.where(i == piece, sizes, 0), 0) - number.to(tl.int64) * (4 * ROW * length)
    size = tl.minimum(size, 4 * ROW * length).to(tl.int32)
    q = tl.arange(0, ROW)
    a = tl.zeros((ROW,), tl.uint64)
    b, c, d, e, f, g, h = a, a, a, a, a, a, a
    whole = size // (16 * ROW) * 4  # rows, in fours: each are read while the last are multiplied
    w0, w1, w2, w3 = _four_rows(begin + q, ROW, q < whole * ROW)  # all, or none
    k = 0
    while k < whole:  # `range` of what is no constant is not for all versions of the interpreter
        ahead = begin + tl.minimum(k + 4, whole - 4) * ROW + q
        n0, n1, n2, n3 = _four_rows(ahead, ROW, q >= 0)
        a, b, c, d, e, f, g, h = _added(w0, rows + 8 * k, a, b, c, d, e, f, g, h)
        a, b, c, d, e, f, g, h = _added(w1, rows + 8 * k + 8, a, b, c, d, e, f, g, h)
        a, b, c, d, e, f, g, h = _added(w2, rows + 8 * k + 16, a, b, c, d, e, f, g, h)
        a, b, c, d, e, f, g, h = _added(w3, rows + 8 * k + 24, a, b, c, d, e, f, g, h)
        w0, w1, w2, w3 = n0, n1, n2, n3
        k += 4
    while 4 * ROW * k < size:
        # A word at the end is read as a whole: no memory ends within one.
        left = size - 4 * (k * ROW + q)
        word = tl.load(begin + k * ROW + q, mask=left > 0, other=0)
        there = 8 * tl.minimum(tl.maximum(left, 0), 4).to(tl.uint64)
        w = (word.to(tl.uint64) & ((tl.full((ROW,), 1, tl.uint64) << there) - 1)).to(tl.uint32)
        a, b, c, d, e, f, g, h = _added(w, rows + 8 * k, a, b, c, d, e, f, g, h)
        k += 1
    at = columns + tl.load(pieces + 2 * count + piece) + q
    x = times(
        tl.load(pieces + 3 * count + piece).to(tl.uint64), tl.load(items + number).to(tl.uint64)
    )
    y = times(x, x)
    s0 = times(_sum(a, b, tl.load(at)), x)
    s1 = times(_sum(c, d, tl.load(at + REACH)), y)
    s2 = times(_sum(e, f, tl.load(at + 2 * REACH)), times(x, y))
    s3 = times(_sum(g, h, tl.load(at + 3 * REACH)), times(y, y))
    tl.atomic_add(out, s0.to(tl.int64), sem="relaxed")
    tl.atomic_add(out + 1, s1.to(tl.int64), sem="relaxed")
    tl.atomic_add(out + 2, s2.to(tl.int64), sem="relaxed")
    tl.atomic_add(out + 3, s3.to(tl.int64), sem="relaxed")
