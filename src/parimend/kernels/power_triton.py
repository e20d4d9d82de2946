"""Power sums where the weights are: on a GPU that Triton compiles for.

A few sums are read at the speed of memory (`stream_triton`), all of them are products of matrices
(`product_triton`). Before a device is trusted it computes sums that are known; if it cannot,
operations of torch do its work (`power_torch`).
"""
# mypy: ignore-errors

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.kernels import power_torch, product_triton, stream_triton
from parimend.kernels.field import PRIME
from parimend.kernels.pieces_torch import Piece, by_device, bytes_of
from parimend.kernels.points import Points

_ALIGNED = 16  # bytes that are read together
_COPIED = 1 << 25  # bytes of a copy of what is not aligned
_TRIED = 5003  # words whose sums a device has to know: of whole rows, and of a part of one


def sums_of(points: Points, count: int, pieces: Iterable[Piece]) -> NDArray[np.uint64]:
    """The sums of some words; see `power_torch.sums_of`. Several devices work at the same time."""
    total = np.zeros(count, np.uint64)
    begun = []
    for device, mine in by_device(pieces).items():
        if works(device):
            begun += _start(points, count, mine)
        else:
            total += power_torch.sums_of(points, count, mine)
    for sums in begun:
        total += (sums.cpu().numpy()[:count] % PRIME).astype(np.uint64)
    return total % np.uint64(PRIME)


@lru_cache(maxsize=64)
def works(device: torch.device) -> bool:
    """Whether a device computes what it should; a warning says why not."""
    words = torch.arange(_TRIED, dtype=torch.int32, device=device) * 0x1E3779B1
    points = Points(3, 0, 4)
    try:
        for count in (stream_triton.SUMS, 2 * stream_triton.SUMS):
            (found,) = _start(points, count, [(words.view(torch.uint8), 16)])
            right = power_torch.sums_of(points, count, [(words, 16)])
            if not np.array_equal(found.cpu().numpy()[:count] % PRIME, right):
                raise ArithmeticError("wrong sums")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        warnings.warn(
            f"Triton does not work on {device}, operations of torch check weights there, more "
            f"slowly: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _start(points: Points, count: int, pieces: Sequence[Piece]) -> list[torch.Tensor]:
    """Begin to compute sums of bytes on one device: tensors there whose sum they are."""
    device = pieces[0][0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        if count > stream_triton.SUMS:
            return [product_triton.start(points, count, pieces)]
        return [stream_triton.start(points, some) for some in _aligned(pieces)]


def _aligned(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """The pieces that are aligned, and copies of the others, one by one."""
    is_aligned = [elements.data_ptr() % _ALIGNED == 0 for elements, _ in pieces]
    if all(is_aligned):
        yield list(pieces)
        return
    if any(is_aligned):
        yield [piece for piece, fits in zip(pieces, is_aligned, strict=True) if fits]
    for (elements, start), fits in zip(pieces, is_aligned, strict=True):
        for at in () if fits else range(0, elements.nbytes, _COPIED):
            yield [(bytes_of(elements)[at : at + _COPIED].clone(), start + at // 4)]
