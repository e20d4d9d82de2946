"""Products with a sparse H on any device, by plain operations of torch: a few for a whole word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Piece = tuple[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]], float]
"""Columns (start, row, coefficient), and the step of their values."""


class Products:
    """Products of some columns of H with values on any device; see `sparse_numba.Products`.

    The columns are kept as rectangles of indices and coefficients, made on the device. Gathering
    and summing along rectangles is deterministic everywhere; scattering is not, and processes that
    project the same weights must get the same. Values are put one after the other for it, which
    takes memory of their size while it lasts.
    """

    def __init__(self, pieces: Iterable[Piece], m: int, unit: float, device: torch.device) -> None:
        parts = [_entries(piece, unit, device) for piece in pieces]
        lengths, row, scaled, moves = map(torch.cat, zip(*parts, strict=True))
        column = torch.arange(len(lengths), dtype=torch.int32, device=device)
        self._rows = _by_row(row, column.repeat_interleave(lengths), scaled, m)
        # Columns of equal weight together: there are two or three weights in a code.
        start = lengths.cumsum(0) - lengths
        self._columns = []
        for weight in torch.unique(lengths).tolist():
            chosen = (lengths == weight).nonzero()[:, 0]
            entries = start[chosen][:, None] + torch.arange(weight, device=device)
            self._columns.append((chosen, row[entries], moves[entries]))

    def multiply(self, values: Sequence[torch.Tensor]) -> NDArray[np.float64]:
        """H values, (m,)."""
        index, coefficient = self._rows
        found = _joined(values).index_select(0, index.view(-1)).view(index.shape)
        return found.mul_(coefficient).sum(1).cpu().numpy()

    def subtract_transposed(self, y: NDArray[np.float64], values: Sequence[torch.Tensor]) -> None:
        """Subtract H^T y from ``values``, in place."""
        moved = _joined(values)
        there = torch.from_numpy(y).to(moved.device)
        for chosen, rows, coefficient in self._columns:
            found = there.index_select(0, rows.view(-1)).view(rows.shape)
            moved[chosen] -= found.mul_(coefficient).sum(1)
        if len({each.dtype for each in values}) == 1:
            moved = moved.to(values[0].dtype)
        torch._foreach_copy_(list(values), list(torch.split(moved, [len(v) for v in values])))


def _joined(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Values one after the other, float64."""
    return torch.cat(list(values)).double()


def _entries(piece: Piece, unit: float, device: torch.device) -> tuple[torch.Tensor, ...]:
    """The number of entries of every column; their rows, and their coefficients as values are
    multiplied with them, and as values are moved by them. Steps and units are powers of two.
    """
    (start, row, coefficient), step = piece
    here = slice(start[0], start[-1])
    # Copies: H is read only, and torch has no such tensors.
    arrays = np.diff(start), row[here].copy(), coefficient[here].astype(np.float64)
    lengths, rows, values = (torch.from_numpy(each).to(device) for each in arrays)
    return lengths, rows, values / (unit * step), values * (step / unit)


def _by_row(
    row: torch.Tensor, column: torch.Tensor, coefficient: torch.Tensor, m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries as (m, longest row) columns and coefficients."""
    order = row.argsort(stable=True)
    row = row[order]
    first = torch.searchsorted(row, torch.arange(m + 1, dtype=row.dtype, device=row.device))
    lengths = first.diff()
    place = torch.arange(len(row), device=row.device) - first[:-1].repeat_interleave(lengths)
    shape = m, int(lengths.max())
    index, values = column.new_zeros(shape), coefficient.new_zeros(shape)
    index[row, place], values[row, place] = column[order], coefficient[order]
    return index, values
