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
        The shape of ``matrix``, float64; rounding to the dtype of the weights is the caller's.

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
