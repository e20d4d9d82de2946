"""All power sums of words on a GPU: products of matrices of bytes, which tensor cores are made for.

Words are taken in blocks of whole tiles, one a row of a matrix of bytes, and multiplied with the
powers of the points of a block, times the power of 256 that a byte of a word stands for: residues,
written in four digits of 8 bits with signs. A matrix of 32-bit integers holds the products of
`CHUNK` bytes without an overflow, as these are below 2^14 2^14. A program adds up the four digits,
multiplies with what its rows and its place in the code are for, and reduces modulo p.

p is larger than 2^32, so 24,577 residues have no four digits. These are 5.7e-6 of all: the powers
for a sum are multiplied by 3 until none of them is there; the result is divided by that again.

Bytes are signed in such products, so 128 is taken away from each; by what sums are wrong then is
known.
"""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from parimend.kernels.field import PRIME as FIELD
from parimend.kernels.field_triton import PRIME, power, times
from parimend.kernels.pieces_torch import Piece, bytes_of, shrinking, stream_on
from parimend.kernels.points import Points
from parimend.kernels.points_numba import powers_of
from parimend.kernels.power_torch import multiply

CHUNK = 1 << 14
"""Bytes of a row that one program multiplies."""
SUMS = 64  # of one program
ROWS = 128  # of one program
ROOM = 1 << 26
"""Bytes of the two matrices."""
_LEAST = 1 << 22  # bytes of these where there is too little memory
_TOGETHER = 4  # units that are made at a time
_LAUNCH = 1 << 22  # bytes of a matrix that could be written while one operation is launched
_DEPTH = 128  # bytes of a row that are multiplied at a time
_BITS = 13  # of the number of a sum
_WARPS, _STAGES = 8, 3
_MIDDLE = 0x80808080  # what stands for zero in four digits
_FLIP = _MIDDLE - (1 << 32)  # the same as an int32


class _Unit(NamedTuple):
    """The powers for `SUMS` sums and `CHUNK` bytes of a block.

    digits: (4, SUMS, CHUNK) int8. offsets: (SUMS,) int64, what the sums of bytes that lack 128 are
    wrong by. steps: (ROWS, SUMS) int64, what the sums of rows are multiplied with.
    """

    digits: torch.Tensor
    offsets: torch.Tensor
    steps: torch.Tensor


class _Staging(NamedTuple):
    """Bytes that are multiplied together, from the beginning of a block on.

    begin: the index of the first word. sizes: in turns of what is left out and of each of ``data``,
    (k,) uint8; or (k,) int32, of which a thread moves four at a time, if all are whole words at
    addresses of words.
    """

    begin: int
    sizes: list[int]
    data: list[torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(self.sizes) * self.data[0].itemsize

    def in_words(self) -> _Staging:
        """The same in words, if there are such."""
        if any((each.numel() | each.data_ptr() | each.storage_offset()) % 4 for each in self.data):
            return self
        words = [each.view(torch.int32) for each in self.data]
        return _Staging(self.begin, [size // 4 for size in self.sizes], words)


class Prepared:
    """All sums of pieces on one device, to be computed again and again.

    Args:
        points: of the code.
        count: number of sums.
        pieces: contiguous, and the index of their first word.
    """

    def __init__(self, points: Points, count: int, pieces: Sequence[Piece]) -> None:
        self._points, self._count = points, count
        self._device = pieces[0][0].device
        self._bytes = [(bytes_of(elements), at) for elements, at in pieces]
        self._block = max(points.tile, CHUNK // 4)  # words
        self._stagings: dict[int, list[_Staging]] = {}  # by the bytes of the longest

    def start(self) -> torch.Tensor:
        """Begin to compute.

        Returns:
            (count,) int64 on the device, to be reduced modulo p.

        Raises:
            torch.OutOfMemoryError: if there is no room for two matrices of 4 MiB.
        """
        return shrinking(self._start, ROOM, min(ROOM, _LEAST))[0]

    def _start(self, room: int) -> torch.Tensor:
        points, block, device = self._points, self._block, self._device
        chunks, tile = 4 * block // CHUNK, 4 * block * ROWS
        total = torch.zeros(self._count, dtype=torch.int64, device=device)
        at_once = SUMS * max(room // (4 * SUMS * CHUNK) // chunks, 1)
        tiles = -(-max(room // (4 * block), 1) // ROWS)
        stagings, stream = self._staged(tiles * tile), stream_on(device)
        places = _places(points, block, tiles, device, stream)
        longest = max(each.nbytes for each in stagings)
        staged = torch.empty(-(-longest // tile) * tile, dtype=torch.uint8, device=device)
        for first in range(0, self._count, at_once):
            sums = range(first, min(first + at_once, self._count), SUMS)
            units = _units(points, block, sums, device, stream)
            for each in stagings:
                filled = -(-each.nbytes // tile)
                _fill(staged[: filled * tile], each)
                _multiply[(filled, len(sums) * chunks)](
                    staged.view(torch.int8),
                    *units,
                    places,
                    points.shift(each.begin) + 2 * FIELD,  # never of 32 bits: there is no kernel
                    total,
                    self._count,
                    first,
                    4 * block,
                    chunks,
                    HEIGHT=ROWS,
                    WIDTH=SUMS,
                    LENGTH=CHUNK,
                    DEPTH=_DEPTH,
                    BITS=_BITS,
                    num_warps=_WARPS,
                    num_stages=_STAGES,
                )
        return total

    def _staged(self, most: int) -> list[_Staging]:
        """What is multiplied together, in at most so many bytes; found once."""
        if most not in self._stagings:
            found = _stagings(self._bytes, most, 4 * self._block)
            self._stagings[most] = [each.in_words() for each in found]
        return self._stagings[most]


def _stagings(
    pieces: Sequence[tuple[torch.Tensor, int]], most: int, block: int
) -> Iterator[_Staging]:
    """Bytes of pieces at their places in the code, at most so many together; ``block`` in bytes."""
    begin = end = 0  # of the last one
    last = None
    for data, start in pieces:
        at = 0
        while at < data.numel():
            place = 4 * start + at
            if last is None or not end <= place < begin + most:
                if last is not None:
                    yield last
                begin = end = place // block * block
                last = _Staging(begin // 4, [], [])
            some = data[at : at + begin + most - place]
            last.sizes.extend((place - end, some.numel()))
            last.data.append(some)
            at += some.numel()
            end = place + some.numel()
    if last is not None:
        yield last


def _fill(staged: torch.Tensor, staging: _Staging) -> None:
    """Write bytes without 128 to their places: one by one, or all of them, which are read and
    written once more for it, in few operations.
    """
    data = staging.data
    staged = staged.view(data[0].dtype)
    middle = 128 if staged.dtype is torch.uint8 else _FLIP
    rooms = staged.split([*staging.sizes, staged.numel() - sum(staging.sizes)])[1::2]
    if len(rooms) <= max(staged.nbytes // _LAUNCH, 1):
        staged.fill_(middle)
        for room, each in zip(rooms, data, strict=True):
            torch.bitwise_xor(each, middle, out=room)
    else:
        staged.zero_()
        torch._foreach_copy_(rooms, data)
        staged.bitwise_xor_(middle)


@lru_cache(maxsize=16)
def _places(
    points: Points, block: int, tiles: int, device: torch.device, stream: int
) -> torch.Tensor:
    """(tiles,) int64: by what the points of `ROWS` blocks differ from those of the first ones."""
    step = np.array([points.shift(ROWS * block)], np.float64)
    return torch.from_numpy(powers_of(step, tiles)[0]).to(device)


@lru_cache(maxsize=2)
def _units(points: Points, block: int, sums: range, device: torch.device, stream: int) -> _Unit:
    """The units of all chunks of a block for some sums, `SUMS` from each number on: a few together,
    as that takes memory, and few operations take little time.

    The last ones are kept, 16 MiB for 100 errors: of small words they take longer than everything
    else, and training that heals asks for the same ones after every step.
    """
    chunks = range(4 * block // CHUNK)
    some = [sums[i : i + _TOGETHER] for i in range(0, len(sums), _TOGETHER)]
    made = [
        [torch.stack(parts, 1) for parts in zip(*each, strict=True)]
        for each in ([_unit(points, block, few, k, device) for k in chunks] for few in some)
    ]
    return _Unit(*(torch.cat(parts).flatten(0, 1) for parts in zip(*made, strict=True)))


def _unit(points: Points, block: int, sums: range, chunk: int, device: torch.device) -> _Unit:
    """The powers for some sums and one chunk of a block; of every unit, one after the other."""
    positions = np.arange(CHUNK // 4) + CHUNK // 4 * chunk
    x = torch.from_numpy(points.of(positions).astype(np.int64) % FIELD).to(device)
    u = torch.from_numpy(points.factors(positions).astype(np.int64)).to(device)
    count = SUMS * len(sums)
    powers = _powers(x, multiply(u, _power(x, sums[0])), count)
    scale = torch.ones((count, 1), dtype=torch.int64, device=device)
    bits = 8 * torch.arange(4, device=device)
    while True:
        values = ((multiply(powers, scale)[..., None] << bits) + _MIDDLE) % FIELD
        if not (lacking := (values >> 32).flatten(1).any(1, keepdim=True)).any():
            break
        scale = torch.where(lacking, 3 * scale % FIELD, scale)
    patterns = (values - (values >> 31 << 32)).to(torch.int32) ^ _FLIP  # as signed numbers
    digits = patterns.view(torch.int8).view(len(sums), SUMS, CHUNK, 4).permute(0, 3, 1, 2)
    offsets = ((values - _MIDDLE).flatten(1).sum(1) % FIELD << 7) % FIELD
    steps = _steps(points, block, sums[0], scale).view(ROWS, len(sums), SUMS).transpose(0, 1)
    return _Unit(digits.contiguous(), offsets.view(len(sums), SUMS), steps.contiguous())


def _steps(points: Points, block: int, first: int, scale: torch.Tensor) -> torch.Tensor:
    """(ROWS, k) int64: what k sums of rows of a tile are multiplied with."""
    shift = points.shift(block)
    sums = [pow(shift, j + 1, FIELD) for j in range(first, first + len(scale))]
    back = [pow(s, -1, FIELD) for s in scale[:, 0].tolist()]
    return _powers(*torch.tensor([sums, back], device=scale.device), ROWS)


def _powers(x: torch.Tensor, times: torch.Tensor, count: int) -> torch.Tensor:
    """(count, k): x^0 .. x^(count - 1) times a number, of k numbers, modulo p."""
    powers = times[None]
    while len(powers) < count:  # those of the second half are those of the first times x^half
        powers = torch.cat([powers, multiply(powers, _power(x, len(powers)))])
    return powers[:count]


def _power(x: torch.Tensor, exponent: int) -> torch.Tensor:
    """x^exponent modulo p, for int64 residues."""
    result = torch.ones_like(x)
    while exponent:
        if exponent & 1:
            result = multiply(result, x)
        x, exponent = multiply(x, x), exponent >> 1
    return result


@triton.jit(do_not_specialize=["begin", "count", "first", "chunks"])
def _multiply(
    staged,
    digits,
    offsets,
    steps,
    places,
    begin,
    out,
    count,
    first,
    length,
    chunks,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    LENGTH: tl.constexpr,
    DEPTH: tl.constexpr,
    BITS: tl.constexpr,
):
    """Add to ``out`` what `HEIGHT` rows and one unit contribute to `WIDTH` sums."""
    tile, unit = tl.program_id(0), tl.program_id(1)
    r, c, k = tl.arange(0, HEIGHT), tl.arange(0, 4 * WIDTH), tl.arange(0, DEPTH)
    row = (tile * HEIGHT + r).to(tl.int64)
    a = staged + row[:, None] * length + (unit % chunks) * LENGTH + k[None, :]
    b = digits + unit.to(tl.int64) * (4 * WIDTH * LENGTH) + c[:, None] * LENGTH + k[None, :]
    products = tl.zeros((HEIGHT, 4 * WIDTH), tl.int32)
    for _ in range(0, LENGTH, DEPTH):
        products = tl.dot(tl.load(a), tl.trans(tl.load(b)), products, out_dtype=tl.int32)
        a += DEPTH
        b += DEPTH
    weights = (8 * tl.arange(0, 4)).to(tl.int64)
    value = tl.reshape(products, (HEIGHT, 4, WIDTH)).to(tl.int64) << weights[None, :, None]
    j = tl.arange(0, WIDTH)
    positive = tl.load(offsets + unit * WIDTH + j) + (PRIME << 21)  # for sums above -2^53
    value = (tl.sum(value, 1) + positive[None, :]).to(tl.uint64) % PRIME
    step = tl.load(steps + unit * (HEIGHT * WIDTH) + r[:, None] * WIDTH + j[None, :])
    sums = tl.sum(times(value, step.to(tl.uint64)), 0) % PRIME
    j += first + unit // chunks * WIDTH
    place = times(tl.load(places + tile).to(tl.uint64), begin.to(tl.uint64) % PRIME)
    found = times(sums, power(place, j + 1, BITS))
    tl.atomic_add(out + j, found.to(tl.int64), mask=j < count, sem="relaxed")
