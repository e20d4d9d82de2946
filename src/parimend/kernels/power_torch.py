"""Power sums where the weights are: on a GPU, by matrix products and integer operations of torch.

Words are cut into blocks, and a block is multiplied with a table of powers of its points: words in
two halves of 16 bits, powers in 17 and 16, all as float64, so that sums over a block of 2^15 words
stay below 2^49 and are exact. Blocks are added up in integers. Only the sums leave the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.kernels.field_numba import PRIME, element
from parimend.kernels.points_numba import LANES, factors_of, points_of, powers_of, shifted

_BLOCK = 1 << 12  # words, or a whole tile
_PIECE = 1 << 21  # words that are looked at together: 80 MB of memory
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


def sums_of(
    generator: int, key: int, rows: int, count: int, elements: torch.Tensor, start: int
) -> NDArray[np.uint64]:
    """The sums of some words, computed on the device that they are on.

    Args:
        generator: g, the primitive root.
        key: of the random stream of factors.
        rows: B, rows of a tile; see `parimend.codes.power`.
        count: number of sums.
        elements: (k,), of any dtype with plain bytes; the bytes are filled up with zeros.
        start: index of the first word, a multiple of 8.

    Returns:
        (count,) uint64, residues.
    """
    tile = LANES * rows
    block = max(_BLOCK, tile)
    data = elements.detach().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    total = np.zeros(count, np.uint64)
    at = 0
    while at < data.numel():
        first, skipped = divmod(start + at // 4, tile)
        piece = data[at : at + 4 * (_PIECE - skipped)]
        at += piece.numel()
        piece = torch.nn.functional.pad(
            piece, (4 * skipped, -(piece.numel() + 4 * skipped) % (4 * block))
        )
        place = _Place(piece.device, piece.new_empty(0))
        tables = _tables(generator, key, rows, count, block, place)
        sums = _sums(piece.view(torch.int32).view(-1, block), tables)
        shift = element(pow(generator, -LANES * first, PRIME))
        total = (total + shifted(sums.cpu().numpy(), shift)) % np.uint64(PRIME)
    return total


def _sums(words: torch.Tensor, tables: _Tables) -> torch.Tensor:
    """Sums of blocks of words, (blocks, block) int32, as if they were the first: int64 residues."""
    count = tables.steps.shape[1]
    halves = torch.stack([words & 0xFFFF, (words >> _HALF) & 0xFFFF]).double()
    products = (halves @ tables.powers).long() % PRIME  # (2, blocks, 2 count)
    low, high = products[..., :count], products[..., count:]
    limbs = (low + (high << _LOW)) % PRIME
    blocks = (limbs[0] + (limbs[1] << _HALF)) % PRIME
    return _multiply(blocks, tables.steps[: len(blocks)]).sum(0) % PRIME


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b modulo p for int64 residues, b in two limbs."""
    high = (a * (b >> _LOW)) % PRIME
    return ((high << _LOW) + a * (b & ((1 << _LOW) - 1))) % PRIME


@lru_cache(maxsize=16)
def _tables(generator: int, key: int, rows: int, count: int, block: int, place: _Place) -> _Tables:
    root = element(pow(generator, (PRIME - 1) // rows, PRIME))
    words = np.arange(block)
    points = points_of(words, rows, element(pow(generator, -1, PRIME)), root)
    factors = factors_of(words, points, LANES * rows, np.uint64(key)).astype(np.int64)
    powers = _multiply(
        torch.from_numpy(powers_of(points, count)), torch.from_numpy(factors)[:, None]
    )
    limbs = torch.cat([powers & ((1 << _LOW) - 1), powers >> _LOW], dim=1).double()
    # Powers of a block's step for every sum, and powers of these for every block.
    step = element(pow(generator, -LANES * (block // (LANES * rows)), PRIME))
    of_sums = powers_of(np.array([step]), count + 1)[0, 1:].astype(np.float64)
    steps = powers_of(of_sums, _PIECE // block + 1).T
    return _Tables(place.copy(limbs), place.copy(torch.from_numpy(np.ascontiguousarray(steps))))
