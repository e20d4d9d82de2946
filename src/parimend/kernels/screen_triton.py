"""The check itself on a GPU that Triton compiles for: one kernel for a layer, see `screen_numba`.

Outputs and inputs are read once, as they are: narrow ones become float32 in registers. Nothing is
read back; an alarm is a number on the device. Before a device is trusted it has to know a wrong row
from right ones; if it does not, operations of torch do its work (`screen_torch`).
"""
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parimend.kernels import screen_numba, screen_torch
from parimend.kernels.pieces_torch import launching_on
from parimend.kernels.trust_triton import Trust, limited

_LARGE = tl.constexpr(screen_numba.LARGE)
WORK, WARPS = 2048, 2  # products that a program adds up at a time, and who does it
_LIMIT = limited(128)  # registers of a thread: on a large GPU `_PROGRAMS` are at work at once
_PROGRAMS = 1024
_TILE = 32  # outputs or inputs of a row that are read at a time, at least: the memory gives so many
_POSITIONS, _LEAST = 256, 64  # of one program, and where there are few of them
_TRIED = 70  # outputs of a row that a device has to judge


def view(t: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor without history as these kernels take it: of any dtype."""
    return t


def any_suspicious_row(y, P, target, tau2, least2, into=None) -> Tensor:
    """See `screen_torch.any_suspicious_row`; ``y`` may be narrower than float32."""
    return _found(_row, screen_torch.any_suspicious_row, y, P, (target,), tau2, least2, into)


def any_suspicious_product(y, P, x, PW, Pb, tau2, least2, into=None) -> Tensor:
    """See `screen_torch.any_suspicious_product`; ``y`` and ``x`` may be narrower than float32."""
    instead = screen_torch.any_suspicious_product
    return _found(_product, instead, y, P, (x, PW, Pb), tau2, least2, into)


def any_suspicious_plane(y, P, target, tau2, least2, into=None) -> Tensor:
    """See `screen_torch.any_suspicious_plane`; ``y`` may be narrower than float32."""
    return _found(_plane, screen_torch.any_suspicious_plane, y, P, (target,), tau2, least2, into)


def _found(kernel, instead, y, P, others, tau2, least2, into) -> Tensor:
    """What a kernel finds, or an operation of torch instead."""
    if y.dtype != torch.float64 and works(y.device):
        try:
            with launching_on(y.device):
                return kernel(y, P, *others, tau2, least2, into)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a program for shapes that were not tried: it was not launched
            works.end(y.device, error)
    others = (t.to(P.dtype) for t in others)
    return instead(y.to(P.dtype), P, *others, tau2, least2, into)


def _try(device) -> None:
    """Judge rows that are known to be right, and a wrong one."""
    y = torch.arange(3.0 * _TRIED, device=device).reshape(3, _TRIED) % 11.0
    P, x = torch.ones(1, _TRIED, device=device), torch.ones(3, 5, device=device)
    PW, sums = torch.ones(1, 5, device=device), y.sum(1, keepdim=True)
    y[:, 0] += 5.0 - sums[:, 0]
    bad = y.clone()
    bad[1, 7] += 1.0
    none = torch.zeros(1, device=device)
    five = x.sum(1, keepdim=True)
    for rows, right in ((y, False), (bad, True)):
        with launching_on(y.device):
            found = (
                _product(rows, P, x, PW, none, 1e-8, 0.0, None),
                _row(rows, P, five, 1e-8, 0.0, None),
                _plane(rows[..., None], P, five[..., None], 1e-8, 0.0, None),
            )
        if any(bool(each) != right for each in found):
            raise ArithmeticError("a wrong row was taken for a right one, or the reverse")


works = Trust(_try, "check outputs there, more slowly")
"""Whether a device finds what it should."""


def _row(y, P, target, tau2, least2, into) -> Tensor:
    (k, n), rows = P.shape, y.shape[0]
    out = y.new_zeros((), dtype=torch.int32) if into is None else into
    room = _power_of_2(k)
    at_once = _rows_at_once(rows, n, room)
    _check_rows[(_parts(rows, at_once),)](
        y, P, target, out, tau2, least2, rows, n,
        GIVEN=target.shape[0] > 0, CHECKS=k, ROOM=room, ROWS=at_once,
        TILE=_tile(n, at_once * room), num_warps=WARPS, **_LIMIT,
    )  # fmt: skip
    return out


def _product(y, P, x, PW, Pb, tau2, least2, into) -> Tensor:
    (k, n), rows, fan_in = P.shape, y.shape[0], x.shape[1]
    out = y.new_zeros((), dtype=torch.int32) if into is None else into
    blocks = y.shape[1] // n
    room, every = _power_of_2(k), _power_of_2(PW.shape[0])
    at_once = _rows_at_once(rows, max(n, fan_in), every)
    _check_products[(_parts(rows, at_once),)](
        y, P, x, PW, Pb, out, tau2, least2, rows, n, fan_in,
        BLOCKS=blocks, CHECKS=k, ROOM=room, EVERY=every, PARTS=_power_of_2(blocks),
        ROWS=at_once, TILE=_tile(n, at_once * room), WIDE=_tile(fan_in, at_once * every),
        num_warps=WARPS, **_LIMIT,
    )  # fmt: skip
    return out


# Those of Triton itself can be compiled as well, and take ten times as long.
def _power_of_2(number) -> int:
    """The smallest that is not below a number."""
    return 1 << (number - 1).bit_length()


def _parts(whole, size) -> int:
    """How many of a size there are in a whole, the last one included."""
    return -(-whole // size)


def _rows_at_once(rows, width, checks) -> int:
    """How many rows of a width one program takes: many, as adding up what threads have found of a
    row takes as long as reading a hundred numbers; but no program is to be the last one at work.
    """
    at_once = max(WORK // (min(_power_of_2(width), _TILE) * checks), 1)
    while at_once > 1 and _parts(rows, at_once) < _PROGRAMS:
        at_once //= 2
    return at_once


def _tile(width, checks) -> int:
    """How many numbers of a row are multiplied at a time with so many checks of all rows."""
    return min(_power_of_2(width), max(WORK // checks, 16))


def _plane(y, P, target, tau2, least2, into) -> Tensor:
    outer, n, inner = y.shape
    out = y.new_zeros((), dtype=torch.int32) if into is None else into
    room = _power_of_2(P.shape[0])
    positions = min(_power_of_2(inner), _POSITIONS)
    while positions > _LEAST and outer * _parts(inner, positions) < _PROGRAMS:
        positions //= 2
    channels = min(max(WORK // (room * positions), 2), _power_of_2(n))
    _check_planes[(outer * _parts(inner, positions),)](  # of no other axis may there be so many
        y, P, target, out, tau2, least2, n, inner,
        GIVEN=target.shape[0] > 0, CHECKS=P.shape[0], ROOM=room,
        POSITIONS=positions, CHANNELS=channels, num_warps=WARPS, **_LIMIT,
    )  # fmt: skip
    return out


@triton.jit
def _fails(energy, square, tau2, least2):
    """Negated, so that NaN fails."""
    return ((energy <= tau2 * square + least2) & (square < _LARGE)) == 0


@triton.jit
def _say(out, fails):
    """Raises the alarm if any fails."""
    bad = tl.max(fails.to(tl.int32), 0)
    tl.atomic_max(out, 1, mask=bad > 0, sem="relaxed")


@triton.jit
def _products(a, first, weights, q, there, width, SQUARE: tl.constexpr, CHECKS: tl.constexpr, ROWS: tl.constexpr, ROOM: tl.constexpr, TILE: tl.constexpr):  # fmt: skip  # noqa: E501
    """Sums of rows of ``a`` times rows of ``weights``, (ROWS, ROOM), and of their squares."""
    # Everything is read in the shape in which it is multiplied, one row of weights even anew for
    # every row: where numbers have to change hands first, all threads wait for each other.
    t = tl.arange(0, TILE)[None, None, :]
    a, weights = a + first[:, None, None], weights + q[None, :, None] * width
    there, used = there[:, None, None], (q < CHECKS)[None, :, None]
    s = tl.zeros((ROWS, ROOM, TILE), tl.float32)  # added up at the end: threads wait for none
    square = tl.zeros((ROWS, 1, TILE), tl.float32)
    ahead = tl.load(a + t, mask=there & (t < width), other=0)
    c = 0
    while c < width:
        at = c + t
        v, w = ahead.to(tl.float32), at
        ahead = tl.load(a + at + TILE, mask=there & (at + TILE < width), other=0)
        if ROOM == 1:
            w = tl.broadcast_to(at, (ROWS, ROOM, TILE))
        s += v * tl.load(weights + w, mask=used & (w < width), other=0)
        if SQUARE:
            square += v * v
        c += TILE
    return tl.sum(s, 2), tl.sum(tl.sum(square, 2), 1)


@triton.jit(do_not_specialize=["tau2", "least2", "rows"])
def _check_rows(y, P, target, out, tau2, least2, rows, n, GIVEN: tl.constexpr, CHECKS: tl.constexpr, ROOM: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip  # noqa: E501
    """Some rows; their target is given, or zero."""
    r, q = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, ROOM)
    there, row = r < rows, r.to(tl.int64)
    s, square = _products(y, row * n, P, q, there, n, True, CHECKS, ROWS, ROOM, TILE)
    if GIVEN:
        inside = there[:, None] & (q < CHECKS)
        s -= tl.load(target + row[:, None] * CHECKS + q, mask=inside, other=0)
    _say(out, there & _fails(tl.sum(s * s, 1), square, tau2, least2))


@triton.jit(do_not_specialize=["tau2", "least2", "rows"])
def _check_products(y, P, x, PW, Pb, out, tau2, least2, rows, n, fan_in, BLOCKS: tl.constexpr, CHECKS: tl.constexpr, ROOM: tl.constexpr, EVERY: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip  # noqa: E501
    """Some rows with all of their blocks, and P W x + P b from inputs that are read once."""
    r, q = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, ROOM)
    every, part = tl.arange(0, EVERY), tl.arange(0, PARTS)
    there, row, used = r < rows, r.to(tl.int64), every < BLOCKS * CHECKS
    goal, _ = _products(
        x, row * fan_in, PW, every, there, fan_in, False, BLOCKS * CHECKS, ROWS, EVERY, WIDE
    )
    off = goal + tl.load(Pb + every, mask=used, other=0)[None, :]
    squares = tl.zeros((ROWS, PARTS), tl.float32)
    block = 0
    while block < BLOCKS:
        first = (row * BLOCKS + block) * n
        s, square = _products(y, first, P, q, there, n, True, CHECKS, ROWS, ROOM, TILE)
        mine = (every[None, :] == block * CHECKS + q[:, None]) & (q < CHECKS)[:, None]
        off -= tl.sum(tl.where(mine[None, :, :], s[:, :, None], 0.0), 1)
        squares += tl.where((part == block)[None, :], square[:, None], 0.0)
        block += 1
    within = (every[None, :] // CHECKS == part[:, None]) & used[None, :]
    energy = tl.sum(tl.where(within[None, :, :], (off * off)[:, None, :], 0.0), 2)
    fails = (part < BLOCKS)[None, :] & _fails(energy, squares, tau2, least2)
    _say(out, there & (tl.max(fails.to(tl.int32), 1) > 0))


@triton.jit(do_not_specialize=["tau2", "least2"])
def _check_planes(y, P, target, out, tau2, least2, n, inner, GIVEN: tl.constexpr, CHECKS: tl.constexpr, ROOM: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip  # noqa: E501
    """Some positions of one block of one sample."""
    parts = (inner + POSITIONS - 1) // POSITIONS
    at = tl.program_id(0) % parts * POSITIONS + tl.arange(0, POSITIONS)
    q = tl.arange(0, ROOM)
    there, used = at < inner, q < CHECKS
    plane = (tl.program_id(0) // parts).to(tl.int64)
    # See `_products`; neighbours read neighbouring positions, wherever a channel begins.
    first = tl.max_contiguous(tl.arange(0, CHANNELS), 1)[None, :, None]
    begin, within = y + plane * n * inner + at[None, None, :], there[None, None, :]
    weights, known = P + q[:, None, None] * n, used[:, None, None]
    s = tl.zeros((ROOM, CHANNELS, POSITIONS), tl.float32)
    square = tl.zeros((1, CHANNELS, POSITIONS), tl.float32)
    ahead = tl.load(begin + first.to(tl.int64) * inner, mask=(first < n) & within, other=0)
    c = 0
    while c < n:
        v, channel = ahead.to(tl.float32), c + first
        after = channel + CHANNELS
        ahead = tl.load(begin + after.to(tl.int64) * inner, mask=(after < n) & within, other=0)
        s += v * tl.load(weights + channel, mask=known & (channel < n), other=0)
        square += v * v
        c += CHANNELS
    s, square = tl.sum(s, 1), tl.sum(tl.sum(square, 1), 0)
    if GIVEN:
        goal = target + (plane * CHECKS + q)[:, None] * inner + at
        s -= tl.load(goal, mask=used[:, None] & there, other=0)
    _say(out, there & _fails(tl.sum(s * s, 0), square, tau2, least2))
