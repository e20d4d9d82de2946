"""The check itself, by plain operations of torch on any device; see `screen_numba`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parimend.kernels.screen_numba import LARGE


def view(t: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor without history as these kernels take it: of the dtype of the checks."""
    return t.to(dtype)


def any_suspicious_row(
    y: Tensor,
    P: Tensor,
    target: Tensor,
    tau2: float,
    least2: float,
    into: Tensor | None = None,
) -> Tensor:
    """Whether |P y - target|^2 <= tau2 |y|^2 + least2 fails for a row of y, or cannot be told.

    Args:
        y: (rows, C).
        P: (k, C), dtype of y.
        target: (rows, k), dtype of y, or (0, k) for zero.
        tau2, least2: squares of the threshold, in units of |y| and absolute.
        into: () int32, which becomes 1 if it fails and stays as it is otherwise.

    Returns:
        ``into``, or () bool: on the device, and nobody has read it.
    """
    return any_suspicious_plane(y[..., None], P, target[..., None], tau2, least2, into)


def any_suspicious_product(
    y: Tensor,
    P: Tensor,
    x: Tensor,
    PW: Tensor,
    Pb: Tensor,
    tau2: float,
    least2: float,
    into: Tensor | None = None,
) -> Tensor:
    """The same with the target PW x + Pb computed on the way, for y = W x + b in blocks.

    Args:
        y: (rows, blocks * C).
        P: (k, C), dtype of y.
        x: (rows, fan-in), dtype of y.
        PW: (blocks * k, fan-in), dtype of y.
        Pb: (blocks * k,), dtype of y.
        tau2, least2: squares of the threshold, in units of |y| and absolute.
        into: see `any_suspicious_row`.
    """
    with exactly(y):
        target = F.linear(x, PW, Pb)
    rows, goal = y.reshape(-1, P.shape[1]), target.reshape(-1, len(P))
    return any_suspicious_row(rows, P, goal, tau2, least2, into)


def any_suspicious_plane(
    y: Tensor,
    P: Tensor,
    target: Tensor,
    tau2: float,
    least2: float,
    into: Tensor | None = None,
) -> Tensor:
    """The same along the middle axis.

    Args:
        y: (outer, C, inner).
        P: (k, C), dtype of y.
        target: (outer, k, inner), dtype of y, or (0, k, inner) for zero.
        tau2, least2: squares of the threshold, in units of |y| and absolute.
        into: see `any_suspicious_row`.
    """
    alarm = suspicious(y, P, target, tau2, least2).any()
    return alarm if into is None else into.logical_or_(alarm)


def suspicious(y: Tensor, P: Tensor, target: Tensor, tau2: Any, least2: Any) -> Tensor:
    """Which of them it is, (outer, inner) bool; the thresholds may be tensors, too."""
    energy = syndrome(y, P, target).square().sum(1)
    square = y.square().sum(1)
    # Negated, so that NaN is suspicious.
    return ~((energy <= tau2 * square + least2) & (square < LARGE))


def syndrome(y: Tensor, P: Tensor, target: Tensor) -> Tensor:
    """P y - target, (outer, k, inner)."""
    # Not a matrix product: that may be one of 11 or 8 bits.
    s = torch.stack([(y * row[:, None]).sum(1) for row in P], 1)
    return s - target if len(target) else s


def exactly(like: Tensor) -> AbstractContextManager[object]:
    """Switches off autocasting, which would round what checks the rounding."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
