"""The pass of `parimend.codes.power`: discrete Fourier transforms of blocks of words.

A tile of B rows of 8 words, each times its factor, is transformed along the rows, all eight columns
side by side; tiles are added up by Horner's rule, in float64 (see
`parimend.kernels.field_numba`). A radix of 16 leaves sums of at most 16 terms unreduced in each of
at most 3 passes, so nothing exceeds 2^32 16^3 2 = 2^45.
"""
# mypy: ignore-errors

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from parimend.kernels.field import PRIME
from parimend.kernels.field_numba import (
    INTEGER_PRIME,
    centered,
    multiply,
    multiply_integers,
    power,
    reduced,
    residue,
)
from parimend.kernels.keeping_numba import kept
from parimend.kernels.points import LANES, LINE
from parimend.kernels.prefetch_numba import ask

_AHEAD = 3072  # words that are asked of memory before their turn


def _butterfly(radix, first, last):
    """A step of the transform on ``radix`` rows: of the first, of a middle or of the last pass.

    It is written in vectors of 8 numbers, which LLVM cuts to what the processor has; as loops over
    arrays it would store and load every intermediate row.
    """

    @intrinsic
    def step(typing, arrays, base, at, stride, k):
        def generate(context, builder, signature, args):
            kinds, given = signature.args[0].types, cgutils.unpack_tuple(builder, args[0])
            words, factor, quotient, rows, root, ratio, total, turn, turn_ratio = (
                context.make_array(kind)(context, builder, array).data
                for kind, array in zip(kinds, given, strict=True)
            )
            base, at, stride, k = args[1:]
            i32, i64 = ir.IntType(32), ir.IntType(64)
            wide = ir.VectorType(ir.DoubleType(), LANES)
            narrow = ir.VectorType(i32, LANES)
            if last:
                stride, k = i64(1), i64(0)

            def place(data, row, kind):
                offset = builder.mul(row, i64(LANES))
                return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())

            def spread(data, index):
                value = builder.load(builder.gep(data, [index]))
                lane = builder.insert_element(ir.Constant(wide, ir.Undefined), value, i32(0))
                return builder.shuffle_vector(lane, lane, ir.Constant(narrow, [0] * LANES))

            def times(x, y, over):
                return reduced(builder, x, y, lambda _: (x, over))

            line = [builder.mul(stride, i64(m)) for m in range(radix)]
            v = []
            for m in range(radix):
                if first:
                    offset = builder.add(base, builder.mul(line[m], i64(LANES)))
                    source = builder.bitcast(builder.gep(words, [offset]), narrow.as_pointer())
                    if not last or m % 2 == 0:  # rows that follow each other share a line
                        ahead = builder.gep(words, [builder.add(offset, i64(_AHEAD))])
                        ask(builder, ahead)
                    word = builder.uitofp(builder.load(source, align=4), wide)
                    row = builder.add(at, line[m])
                    y, over = (place(data, row, wide) for data in (factor, quotient))
                    v.append(times(word, builder.load(y, align=8), builder.load(over, align=8)))
                else:
                    v.append(builder.load(place(rows, builder.add(at, line[m]), wide), align=8))
            half = radix // 2
            while half:
                for s in range(0, radix, 2 * half):
                    for m in range(half):
                        x, y = v[s + m], v[s + m + half]
                        v[s + m], difference = builder.fadd(x, y), builder.fsub(x, y)
                        if not (last and m == 0):
                            # Roots of order 2 h are in the table from h on.
                            index = builder.add(builder.mul(stride, i64(half)), k)
                            index = builder.add(index, line[m])
                            difference = times(
                                difference, spread(root, index), spread(ratio, index)
                            )
                        v[s + m + half] = difference
                half //= 2
            for m in range(radix):
                row = builder.add(at, line[m])
                if last:
                    old = builder.load(place(total, row, wide), align=8)
                    old = times(old, spread(turn, row), spread(turn_ratio, row))
                    new, target = builder.fadd(old, v[m]), total
                else:
                    new, target = v[m], rows
                builder.store(new, place(target, row, wide), align=8)
            return context.get_dummy_value()

        return types.void(arrays, base, at, stride, k), generate

    return step


_whole_2 = _butterfly(2, True, True)
_whole_4 = _butterfly(4, True, True)
_whole_8 = _butterfly(8, True, True)
_whole_16 = _butterfly(16, True, True)
_first_4 = _butterfly(4, True, False)
_first_8 = _butterfly(8, True, False)
_first_16 = _butterfly(16, True, False)
_middle_8 = _butterfly(8, False, False)
_middle_16 = _butterfly(16, False, False)
_last_8 = _butterfly(8, False, True)
_last_16 = _butterfly(16, False, True)


@nb.njit
def _collect(total, place, step, last, sums):
    """Sums of tiles from what was added up: add them to ``sums``, modulo p.

    Args:
        total: (B * 8,) float64 or uint64.
        place: (2 t,) int64: the row of ``total`` for frequency j.
        step: the factor by which the points of two neighbouring lanes differ.
        last: number of the last tile.
        sums: (2 t,) uint64.
    """
    lanes = np.ones(LANES)  # step^(j l)
    factors = np.ones(LANES)
    for lane in range(1, LANES):
        factors[lane] = multiply(factors[lane - 1], step)
    shift = power(step, LANES * last)
    moved = shift  # shift^(j + 1)
    for j in range(sums.size):
        value = 0.0
        for lane in range(LANES):
            part = centered(np.float64(total[place[j] * LANES + lane]))
            value += multiply(part, lanes[lane])
            lanes[lane] = multiply(lanes[lane], factors[lane])
        value = multiply(centered(value), moved)
        moved = multiply(moved, shift)
        sums[j] = (sums[j] + residue(value)) % INTEGER_PRIME


@nb.njit
def _room(size):
    """Room for numbers that begins with a line of the processor's caches, so that no vector is in
    two.
    """
    room = np.empty(size + LINE // 8)
    first = -room.ctypes.data % LINE // 8
    return room[first : first + size]


@kept()
def _add_whole(arrays, radix):
    """Tiles of up to 16 rows, in one pass; ``arrays`` are those of `_add_each`, all flat."""
    size = radix * LANES
    for base in range(0, arrays[0].size - size + 1, size):
        if radix == 2:
            _whole_2(arrays, base, 0, 1, 0)
        elif radix == 4:
            _whole_4(arrays, base, 0, 1, 0)
        elif radix == 8:
            _whole_8(arrays, base, 0, 1, 0)
        else:
            _whole_16(arrays, base, 0, 1, 0)


@kept()
def _add_passes(arrays, radices):
    """Tiles of more rows: ``radices`` of the first, of a middle (1: none) and of the last pass."""
    a, b, c = radices
    count = a * b * c
    size = count * LANES
    stride = count // a
    inner = stride // b
    for base in range(0, arrays[0].size - size + 1, size):
        for k in range(stride):
            at = base + k * LANES
            if a == 4:
                _first_4(arrays, at, k, stride, k)
            elif a == 8:
                _first_8(arrays, at, k, stride, k)
            else:
                _first_16(arrays, at, k, stride, k)
        if b > 1:
            for start in range(0, count, stride):
                for k in range(inner):
                    if b == 8:
                        _middle_8(arrays, 0, start + k, inner, k)
                    else:
                        _middle_16(arrays, 0, start + k, inner, k)
        for start in range(0, count, c):
            if c == 8:
                _last_8(arrays, 0, start, 1, 0)
            else:
                _last_16(arrays, 0, start, 1, 0)


@nb.njit(inline="always")
def _add_tiles(arrays, radices):
    if radices[1]:
        _add_passes(arrays, radices)
    else:
        _add_whole(arrays, radices[0])


@kept()
def _add_each(words, ends, first, tile, filled, radices, tables, place, step, sums):
    """`add_each`, with room for the words of a tile that is not filled, twice: ``filled`` is
    ``tile``, read-only as ``words`` are, so that one compiled variant serves both.
    """
    factor, quotient, root, ratio, turn, turn_ratio = tables
    size = factor.size
    rows, total = _room(size), _room(size)
    others = factor, quotient, rows, root, ratio, total, turn, turn_ratio
    begin = 0
    for k in range(ends.size):
        total[:] = 0.0
        end = ends[k]
        tail = end - (end - begin) % size
        _add_tiles((words[begin:tail], *others), radices)
        if tail < end:
            # Slices that are assigned take seconds to compile: numba words an error for them.
            for i in range(size):
                tile[i] = words[tail + i] if tail + i < end else 0
            _add_tiles((filled, *others), radices)
        _collect(total, place, step, first + (end - begin - 1) // size, sums[k])
        begin = end


@cache
def fuses() -> bool:
    """Whether this processor fuses a product and a sum, which makes float64 as exact as integers
    and several times as fast.
    """
    features = llvm.get_host_cpu_features()
    return bool(features.get("fma", features.get("neon", features.get("fp-armv8", False))))


@kept()
def _add_in_integers(words, first, factor, root, turn, place, step, sums):
    """`add_each` of one word of whole tiles, for processors that cannot fuse a product and a sum.

    Tables are uint64 residues.
    """
    B = root.size
    size = B * LANES
    rows, total = np.empty((B, LANES), np.uint64), np.zeros((B, LANES), np.uint64)
    for base in range(0, words.size, size):
        for i in range(B):
            for lane in range(LANES):
                at = i * LANES + lane
                rows[i, lane] = multiply_integers(np.uint64(words[base + at]), factor[at])
        half = B >> 1
        while half:
            for s in range(0, B, 2 * half):
                for m in range(half):
                    twiddle = root[half + m]
                    for lane in range(LANES):
                        x, y = rows[s + m, lane], rows[s + m + half, lane]
                        rows[s + m, lane] = (x + y) % INTEGER_PRIME
                        difference = (x + INTEGER_PRIME - y) % INTEGER_PRIME
                        rows[s + m + half, lane] = multiply_integers(difference, twiddle)
            half >>= 1
        for i in range(B):
            for lane in range(LANES):
                total[i, lane] = (
                    multiply_integers(total[i, lane], turn[i]) + rows[i, lane]
                ) % INTEGER_PRIME
    _collect(total.reshape(-1), place, step, first + words.size // size - 1, sums)


_RADICES = {
    32: (4, 1, 8),
    64: (8, 1, 8),
    128: (8, 1, 16),
    256: (16, 1, 16),
    512: (8, 8, 8),
    1024: (8, 8, 16),
    2048: (8, 16, 16),
    4096: (16, 16, 16),
}


def add_each(
    words: Any,
    ends: Any,
    first: int,
    factor: Any,
    quotient: Any,
    root: Any,
    ratio: Any,
    turn: Any,
    turn_ratio: Any,
    place: Any,
    step: float,
    sums: Any,
) -> None:
    """Add the sums of some words, then of some others, and so on: each as if they were alone.

    Tiles times factors are transformed and added up: total = total turn + transform, each. What
    that gives is collected at the end.

    Args:
        words: (ends[-1],) uint32.
        ends: (k,) int64: where those of each end; the last of their tiles need not be whole.
        first: the number of the tile that each begins with.
        factor, quotient: (B, 8) float64: those of the words of a tile, and the same over p.
        root: (B,) float64: w_(2h)^i at h + i for i < h, w_(2h) a root of unity of order 2 h.
        ratio: the same, divided by p.
        turn, turn_ratio: (B,) float64: factors of the rows of a total, and the same over p.
        place, step: see `_collect`.
        sums: (k, 2 t) uint64, to which those of each are added.
    """
    factor, quotient = factor.reshape(-1), quotient.reshape(-1)
    if not fuses():
        factor, root, turn = ((t % PRIME).astype(np.uint64) for t in (factor, root, turn))
        for some, total in zip(np.split(words, ends[:-1]), sums, strict=True):
            tiles = np.zeros(-(-some.size // factor.size) * factor.size, np.uint32)
            tiles[: some.size] = some
            _add_in_integers(tiles, first, factor, root, turn, place, step, total)
        return
    tile = np.zeros(factor.size, np.uint32)
    filled = tile.view()
    filled.flags.writeable = False
    radices = _RADICES.get(root.size, (root.size, 0, 0))
    tables = factor, quotient, root, ratio, turn, turn_ratio
    _add_each(words, ends, first, tile, filled, radices, tables, place, step, sums)
