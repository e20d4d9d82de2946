"""Weights whose outputs lie in a code: P W = 0, so that P (W x) = 0 for every input x."""

from __future__ import annotations

import torch
from torch import Tensor

from parimend.errors import SpecError


def project_outputs(matrix: Tensor, P: Tensor) -> Tensor:
    """The nearest matrix with P W = 0: W - P^T (P P^T)^-1 P W.

    It is also the one that changes the outputs least, on any data. The outputs of all rows of a
    layer are judged by the same second moments S of its inputs, so the best change d minimizes
    trace(d S d^T) subject to P d = -P W, and S cancels from the answer: no calibration is needed.

    Args:
        matrix: (..., n, columns), a row for every output.
        P: (..., k, n) float64, k < n, with independent rows.

    Returns:
        The shape of ``matrix``, float64; `round_evenly` brings it to the dtype of the weights.

    Raises:
        SpecError: if the shapes do not fit.

    Example:
        >>> P = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
        >>> W = project_outputs(torch.tensor([[3.0], [0.0], [0.0]]), P)
        >>> [round(w, 6) for w in W.flatten().tolist()]
        [0.5, -1.0, 0.5]
    """
    if matrix.shape[-2] != P.shape[-1] or P.shape[-2] >= P.shape[-1]:
        raise SpecError(
            f"weights of shape {tuple(matrix.shape)} cannot meet checks of shape "
            f"{tuple(P.shape)}: take as many columns as the layer has outputs, and fewer rows"
        )
    W = matrix.detach().to(torch.float64)
    # Twice, for what the first time leaves by rounding.
    for _ in range(2):
        W = W - P.mT @ torch.linalg.solve(P @ P.mT, P @ W)
    return W


_STEPS = (5**0.5 - 1) / 2, 2**0.5 - 1
"""Fractions of multiples of these are spread evenly: by a row, and by a column."""


def round_evenly(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounds up or down with a frequency that leaves the sum over many rows unbiased.

    Rounding to the nearest can leave P W 500 times as large: new layers have weights on a coarse
    grid, the projection moves a column by the same amount everywhere, and so every weight of it
    errs in the same direction.

    Args:
        matrix: (..., n, columns) float64.
        dtype: to round to.

    Returns:
        The same shape, ``dtype``; the same values at every call.

    Example:
        >>> W = torch.full((1000, 1), 1.0 + 2**-25, dtype=torch.float64)
        >>> error = round_evenly(W, torch.float32).double() - W
        >>> bool(abs(error.sum()) < 2**-22), bool(abs((W.float().double() - W).sum()) > 2**-16)
        (True, True)
    """
    n, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape[-2:])
    shift = (_STEPS[0] * n[:, None] + _STEPS[1] * columns).frac() - 0.5
    # One unit in the last place is eps / 2 times the value over its mantissa; 0 has none and stays.
    mantissa = torch.frexp(matrix).mantissa.abs().clamp_(min=0.5)
    return (matrix * (1.0 + 0.5 * torch.finfo(dtype).eps * shift / mantissa)).to(dtype)
