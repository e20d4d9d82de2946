"""Power sums where the weights are: by matrix products and integer operations of torch.

Words are cut into blocks, and a block is multiplied with a table of powers of its points: words in
two halves of 16 bits, powers in 17 and 16, all as float64, so that sums over a block of 2^15 words
stay below 2^49 and are exact. Blocks are added up in integers. Only the sums leave the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.kernels.field import PRIME, element
from parimend.kernels.pieces_torch import Piece, in_pieces
from parimend.kernels.points import Points
from parimend.kernels.points_numba import powers_of, shifted

_BLOCK = 1 << 12  # words, or a whole tile
_PIECE = 1 << 24  # words that are looked at together: 64 MB, which takes 7 times as much
_LOW, _HALF = 17, 16  # bits of the lower limb of a residue, and of half a word


@dataclass(frozen=True)
class _Place:
    """A device, and an empty tensor there."""

    device: torch.device
    like: torch.Tensor = field(compare=False)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, on the device."""
        return self.like.new_empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


class _Tables(NamedTuple):
    """For blocks of words: limbs of the powers of their points, and of a block's step.

    powers: (block, 2 sums) float64. steps: (blocks, sums) int64.
    """

    powers: torch.Tensor
    steps: torch.Tensor


def sums_of(points: Points, count: int, pieces: Iterable[Piece]) -> NDArray[np.uint64]:
    """The sums of some words, computed on the devices that they are on.

    Args:
        points: of the code.
        count: number of sums.
        pieces: of the words; they begin at multiples of 8.

    Returns:
        (count,) uint64, residues.
    """
    total = np.zeros(count, np.uint64)
    for sums in in_pieces(partial(_sums_of, points, count), pieces, _PIECE):
        total = (total + sums) % np.uint64(PRIME)
    return total


def prepare(points: Points, count: int, pieces: Iterable[Piece]) -> None:
    """None: every piece is waited for here; see `power_triton.prepare`."""
    return


def _sums_of(points: Points, count: int, data: torch.Tensor, start: int) -> NDArray[np.uint64]:
    """The sums of one piece, (k,) uint8."""
    block = max(_BLOCK, points.tile)
    skipped = start % points.tile
    missing = -(data.numel() + 4 * skipped) % (4 * block)
    if skipped or missing or data.data_ptr() % 4:
        data = torch.nn.functional.pad(data, (4 * skipped, missing))
    words = data.view(torch.int32).view(-1, block)
    tables = _tables(points, count, block, _Place(data.device, data.new_empty(0)))
    sums = _sums(words, tables).cpu().numpy()
    return shifted(sums, element(points.shift(start - skipped)))


def _sums(words: torch.Tensor, tables: _Tables) -> torch.Tensor:
    """Sums of blocks of words, (blocks, block) int32, as if they were the first: int64 residues."""
    count = tables.steps.shape[1]
    halves = torch.stack([words & 0xFFFF, (words >> _HALF) & 0xFFFF]).double()
    products = (halves @ tables.powers).long() % PRIME  # (2, blocks, 2 count)
    low, high = products[..., :count], products[..., count:]
    limbs = (low + (high << _LOW)) % PRIME
    blocks = (limbs[0] + (limbs[1] << _HALF)) % PRIME
    return multiply(blocks, tables.steps[: len(blocks)]).sum(0) % PRIME


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b modulo p for int64 residues, b in two limbs."""
    high = (a * (b >> _LOW)) % PRIME
    return ((high << _LOW) + a * (b & ((1 << _LOW) - 1))) % PRIME


@lru_cache(maxsize=16)
def _tables(points: Points, count: int, block: int, place: _Place) -> _Tables:
    words = np.arange(block)
    factors = torch.from_numpy(points.factors(words).astype(np.int64))
    powers = multiply(torch.from_numpy(powers_of(points.of(words), count)), factors[:, None])
    limbs = torch.cat([powers & ((1 << _LOW) - 1), powers >> _LOW], dim=1).double()
    # Powers of a block's step for every sum, and powers of these for every block.
    step = element(points.shift(block))
    of_sums = powers_of(np.array([step]), count + 1)[0, 1:].astype(np.float64)
    steps = powers_of(of_sums, _PIECE // block + 2).T
    return _Tables(place.copy(limbs), place.copy(torch.from_numpy(np.ascontiguousarray(steps))))
