"""Products with a sparse H on any device, by plain operations of torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class Products:
    """Products of some columns of H with values on any device; see `sparse_numba.Products`.

    The columns are kept as rectangles of indices and coefficients. Gathering and summing along
    rectangles is deterministic everywhere; scattering is not, and processes that project the same
    weights must get the same.

    Args:
        start, row, coefficient: the columns, as `parimend.codes.structure.Columns` keeps them.
        m: number of rows of H.
        device: where they are to be multiplied.
    """

    def __init__(
        self,
        start: NDArray[np.int64],
        row: NDArray[np.int32],
        coefficient: NDArray[np.int64],
        m: int,
        device: torch.device,
    ) -> None:
        row, coefficient = row[start[0] : start[-1]], coefficient[start[0] : start[-1]]
        start = start - start[0]
        column = np.repeat(np.arange(len(start) - 1), np.diff(start))
        by_row = np.argsort(row, kind="stable")
        self._rows = _rectangle(row[by_row], column[by_row], coefficient[by_row], m, device)
        # Columns of equal weight together: there are two or three weights in a code.
        weight = np.diff(start)
        self._columns = []
        for w in np.unique(weight):
            chosen = np.flatnonzero(weight == w)
            entries = start[chosen][:, None] + np.arange(w)
            self._columns.append(
                (
                    torch.from_numpy(chosen).to(device),
                    torch.from_numpy(row[entries].astype(np.int64)).to(device),
                    torch.from_numpy(coefficient[entries].astype(np.float64)).to(device),
                )
            )

    def multiply(self, values: torch.Tensor) -> NDArray[np.float64]:
        """H values, (m,)."""
        index, coefficient = self._rows
        return (coefficient * values.double()[index]).sum(1).cpu().numpy()

    def subtract_transposed(self, y: NDArray[np.float64], values: torch.Tensor) -> None:
        """Subtract H^T y from ``values``, in place."""
        there = torch.from_numpy(y).to(values.device)
        for chosen, rows, coefficient in self._columns:
            moved = values[chosen].double() - (coefficient * there[rows]).sum(1)
            values[chosen] = moved.to(values.dtype)


def _rectangle(
    row: NDArray[np.int32],
    column: NDArray[np.int64],
    coefficient: NDArray[np.int64],
    m: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries sorted by row as (m, longest row) columns and coefficients."""
    lengths = np.bincount(row, minlength=m)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    index = np.zeros((m, lengths.max(initial=0)), np.int64)
    values = np.zeros(index.shape)
    index[row, place], values[row, place] = column, coefficient
    return torch.from_numpy(index).to(device), torch.from_numpy(values).to(device)
