"""Sums of a modular code where the weights are: on a GPU, by plain integer operations of torch.

The residues are exactly those of `Modular.accumulate`, and do not depend on the order in which a
device adds, as they are sums of integers. Only the sums leave the device.

Torch has no unsigned arithmetic for 64 bits, but int64 wraps around in the same way; what would
differ, the shift to the right, is masked.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.errors import SpecError
from parimend.hashing import GOLDEN, MIX64_A, MIX64_B
from parimend.kernels.modular import GROUP, MIX_A, MIX_B, most_groups
from parimend.kernels.pieces_torch import Piece, in_pieces

_PIECE = 1 << 24
"""Words that are looked at together, for which ten times as much memory is needed; of 2^25 groups
terms below 2^37 are positive in an int64."""

_LOW = 0xFFFFFFFF


class Hashed(Protocol):
    """What is needed of a `parimend.codes.Modular`: words, bands, buckets in a band, key, p."""

    @property
    def n(self) -> int: ...

    @property
    def bands(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def key(self) -> np.uint64: ...

    @property
    def prime(self) -> int: ...


def sums_of(code: Hashed, bands: int, pieces: Iterable[Piece]) -> NDArray[np.uint64]:
    """The sums of some words, computed on the devices that they are on.

    Args:
        code: whose sums.
        bands: only the first bands of the code.
        pieces: of the words; they begin at multiples of 16.

    Returns:
        (2, bands, Z) uint64, to be added to those of other words with `Modular.add`.

    Raises:
        SpecError: if they are not words of the code.

    Example:
        >>> from parimend.codes import Modular
        >>> code = Modular.for_errors(n=100, errors=2)
        >>> weights = torch.arange(100, dtype=torch.float32)
        >>> found = sums_of(code, code.bands, [(weights, 0)])
        >>> bool((found == code.syndrome(weights.numpy().view("u4"))).all())
        True
    """
    total = np.zeros((2, bands, code.size), np.uint64)
    for sums in in_pieces(partial(_sums_of, code, bands), pieces, _PIECE):
        total = (total + sums) % np.uint64(code.prime)
    return total


def _sums_of(code: Hashed, bands: int, data: torch.Tensor, start: int) -> NDArray[np.uint64]:
    """The sums of one piece, (k,) uint8."""
    count = -(-data.numel() // 4)
    if start < 0 or start % GROUP or start + count > code.n:
        raise SpecError(
            f"{count} words from {start}: the start must be a multiple of {GROUP} and the end at "
            f"most n={code.n}"
        )
    words = _words(data)
    groups = words.new_ones(len(words)).cumsum(0) + (start // GROUP - 1)
    product = words * _coefficients(groups)[:, None]
    p, c = code.prime, code.prime - (1 << 32)
    # As in `modular_numba`, 2^32 = -c, and a multiple of p keeps the result positive.
    weighted = (product & _LOW) + (c * p - c * _shift(product, 32))
    if len(words) > most_groups(c) >> 1:  # the sum of so many may not fit an int64
        weighted %= p
    total = words.new_empty((2, bands, code.size))
    for band in range(bands):
        starts = _starts(code, groups, band)
        for which, values in enumerate((words, weighted)):
            by_start = values.new_zeros((code.size, GROUP)).index_add_(0, starts, values) % p
            # Lane l of the groups that start at s belongs to bucket s + l.
            lanes = [by_start[:, lane].roll(lane) for lane in range(GROUP)]
            total[which, band] = torch.stack(lanes).sum(0) % p
    return total.cpu().numpy().astype(np.uint64)


def _words(data: torch.Tensor) -> torch.Tensor:
    """(groups, 16) int64: bytes as unsigned 32-bit words, filled up with zeros."""
    data = torch.nn.functional.pad(data, (0, -data.numel() % (4 * GROUP)))
    return data.view(torch.int32).reshape(-1, GROUP).to(torch.int64) & _LOW


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, as unsigned numbers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _coefficients(groups: torch.Tensor) -> torch.Tensor:
    """See `parimend.kernels.modular_numba.coefficient`."""
    x = (groups + 1) & _LOW
    x = ((x ^ (x >> 16)) * int(MIX_A)) & _LOW
    x = ((x ^ (x >> 15)) * int(MIX_B)) & _LOW
    return x ^ (x >> 16)


def _starts(code: Hashed, groups: torch.Tensor, band: int) -> torch.Tensor:
    """The first bucket of every group in a band, see `parimend.kernels.modular_numba.bucket`."""
    counter = groups * ((code.bands + 1) // 2) + band // 2
    x = (counter + 1) * _signed(GOLDEN) + _signed(code.key)
    x = (x ^ _shift(x, 30)) * _signed(MIX64_A)
    x = (x ^ _shift(x, 27)) * _signed(MIX64_B)
    x = x ^ _shift(x, 31)
    half = x & _LOW if band % 2 else _shift(x, 32)
    return _shift(half * code.size, 32)


def _signed(x: np.uint64) -> int:
    return int(x.astype(np.int64))
