"""Power sums where the weights are: on a GPU that Triton compiles for.

A few sums are read at the speed of memory (`stream_triton`), all of them are products of matrices
(`product_triton`). Before a device is trusted it computes sums that are known; if it cannot,
operations of torch do its work (`power_torch`).
"""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.kernels import power_torch, product_triton, stream_triton
from parimend.kernels.field import PRIME
from parimend.kernels.pieces_torch import Piece, by_device, bytes_of, is_plain, launching_on
from parimend.kernels.points import Points
from parimend.kernels.trust_triton import Trust

_ALIGNED = 16  # bytes that are read together
_COPIED = 1 << 25  # bytes of a copy of what is not aligned
_FIRST = 32  # pieces that a device begins with
_TRIED = 5003  # words whose sums a device has to know: of whole rows, and of a part of one


def sums_of(points: Points, count: int, pieces: Iterable[Piece]) -> NDArray[np.uint64]:
    """The sums of some words; see `power_torch.sums_of`. Several devices work at the same time."""
    total, begun = np.zeros(count, np.uint64), dict[torch.device, torch.Tensor]()
    for some in _growing(pieces) if count <= stream_triton.SUMS else [pieces]:
        for device, mine in by_device(some).items():
            if works(device):
                begun[device] = _start(points, count, mine, begun.get(device))
            else:
                total += power_torch.sums_of(points, count, mine)
    for sums in begun.values():
        total += (sums.cpu().numpy()[:count] % PRIME).astype(np.uint64)
    return total % np.uint64(PRIME)


def _growing(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces in groups, each twice as large as the one before: a device begins with the first
    ones while the others are still looked for, which takes less time than reading them.
    """
    pieces, size = iter(pieces), _FIRST
    while some := list(islice(pieces, size)):
        yield some
        size *= 2


def prepare(
    points: Points, count: int, pieces: Sequence[Piece]
) -> Callable[[], torch.Tensor] | None:
    """What begins to compute the sums of pieces that stay where they are, as often as it is called.

    Returns:
        A function that waits for nothing and gives (count,) int64 on the device, to be reduced
        modulo p. None where the pieces are on several devices or on one that Triton does not work
        for, or would have to be copied.
    """
    if not all(is_plain(elements) for elements, _ in pieces):
        return None
    groups = by_device(pieces)
    if len(groups) != 1 or not works(device := next(iter(groups))):
        return None
    mine = groups[device]
    if count > stream_triton.SUMS:
        begin = product_triton.Prepared(points, count, mine).start
    elif all(map(_is_aligned, mine)):
        begin = stream_triton.Prepared(points, mine).start
    else:
        return None

    def start() -> torch.Tensor:
        with launching_on(device):
            return begin()[:count]

    return start


def _try(device: torch.device) -> None:
    """Compute sums that are known."""
    words = torch.arange(_TRIED, dtype=torch.int32, device=device) * 0x1E3779B1
    points = Points(3, 0, 4)
    for count in (stream_triton.SUMS, 2 * stream_triton.SUMS):
        found = _start(points, count, [(words.view(torch.uint8), 16)])
        right = power_torch.sums_of(points, count, [(words, 16)])
        if not np.array_equal(found.cpu().numpy()[:count] % PRIME, right):
            raise ArithmeticError("wrong sums")


works = Trust(_try, "check weights there, more slowly")
"""Whether a device computes what it should."""


def _start(
    points: Points, count: int, pieces: Sequence[Piece], few: torch.Tensor | None = None
) -> torch.Tensor:
    """Begin to compute sums of pieces on one device: a tensor there; a few may be added to one."""
    with launching_on(pieces[0][0].device):
        if count > stream_triton.SUMS:
            return product_triton.Prepared(points, count, pieces).start()
        for some in _aligned(pieces):
            few = stream_triton.Prepared(points, some).start(few)
        return few


def _is_aligned(piece: Piece) -> bool:
    return piece[0].data_ptr() % _ALIGNED == 0


def _aligned(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """The pieces that are aligned, and copies of the others, one by one."""
    if aligned := [piece for piece in pieces if _is_aligned(piece)]:
        yield aligned
    for elements, start in (piece for piece in pieces if not _is_aligned(piece)):
        for at in range(0, elements.nbytes, _COPIED):
            yield [(bytes_of(elements)[at : at + _COPIED].clone(), start + at // 4)]
