"""The checks of one layer with certain weights: what P y must be, and how far it may be off."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parimend.codes.output import Output
from parimend.guards.arithmetic import Arithmetic, arithmetic, unit_roundoff
from parimend.guards.threshold import Threshold
from parimend.kernels.screen_numba import (
    LARGE,
    any_suspicious_plane,
    any_suspicious_product,
    any_suspicious_row,
)
from parimend.layers.product import Product

_KERNEL_DTYPES = (torch.float32, torch.float64)
_EXACT = 4.0
"""P W counts as zero if it is no more than this many roundings of the weights."""
_INTACT = 2.0**-40
"""Weights are the same if P W has changed by no more than this part of their size."""


class _Arguments(NamedTuple):
    """Of the kernels: P, P W of the first group, P b, a target (0, k, 1) for zero."""

    P: NDArray[Any]
    PW: NDArray[Any]
    Pb: NDArray[Any]
    none: NDArray[Any]


def _exact_arithmetic(like: Tensor) -> AbstractContextManager[object]:
    """Switches off autocasting, which would round what checks the rounding."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class Checks:
    """P W and P b of a layer, and the scale of its rounding errors. Unchanged once it is made.

    Args:
        product: how the layer multiplies.
        code: P.
        weight: of the layer; finite.
        bias: of the layer; finite.

    Attributes:
        imposed: P W and P b are zero.
    """

    def __init__(self, product: Product, code: Output, weight: Tensor, bias: Tensor | None) -> None:
        self.product = product
        self.code = code
        W, PW, Pb = self._projected(weight, bias)
        P = torch.from_numpy(code.matrix.copy()).to(W.device)
        left, u = PW.square().sum((0, 2)), unit_roundoff(weight.dtype)
        b2 = float(bias.detach().to(torch.float64).square().sum()) if bias is not None else 0.0
        square = W.square().sum(-1).flatten()
        total = float(square.sum())
        self.imposed = bool(
            (left <= (_EXACT * u) ** 2 * total).all()
            and (Pb.square() <= (_EXACT * u) ** 2 * (total + b2)).all()
        )
        self._size = math.sqrt(total + b2)
        if total == 0.0:  # any scale will do
            square, total = torch.ones_like(square), float(len(square))
        noise, of_inputs = P * square @ P.T, torch.einsum("gki,gli->kl", PW, PW)
        if not self.imposed:
            noise = noise + of_inputs
        own = left / total if self.imposed else torch.zeros_like(left)
        self._weight_dtype = weight.dtype
        self._fan_in = W.shape[-1]
        # What is kept beside the layer is one sum over the inputs of all groups.
        self._terms = self._fan_in * (1 if self.imposed else len(W))
        self._noise, self._own = noise.cpu() / total, own.cpu()
        self._gains = (_largest(P @ P.T), _largest(of_inputs))
        self._last: tuple[Arithmetic, bool, Threshold] | None = None
        self._thresholds: dict[tuple[Arithmetic, bool], Threshold] = {}
        self._tensors: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self._arguments: dict[torch.dtype, _Arguments] = {}
        self._source = {"P": P, "PW": PW, "Pb": Pb, "w2": W.square().sum(1, keepdim=True)}

    def _projected(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """W, P W and P b."""
        W = self.product.matrix(weight.detach()).to(torch.float64)
        P = torch.from_numpy(self.code.matrix.copy()).to(W.device)
        PW = P.reshape(len(P), W.shape[0], -1).transpose(0, 1) @ W
        Pb = P @ bias.detach().to(torch.float64) if bias is not None else P.new_zeros(len(P))
        return W, PW, Pb

    def hold_for(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether weights have these P W and P b: then they are as good as the ones from before."""
        _, PW, Pb = self._projected(weight, bias)
        limit = _INTACT * self._size * math.sqrt(self.code.n)
        pairs = ((PW, self._source["PW"]), (Pb, self._source["Pb"]))
        return all(
            now.shape == then.shape and float((now - then.to(now.device)).norm()) <= limit
            for now, then in pairs
        )

    def tensor(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """``P`` (k, C), ``PW`` (groups, k, fan-in), ``Pb`` (k,), or ``w2`` (groups, 1, fan-in), the
        sums of the squares of the weights over the outputs.
        """
        key = name, like.device, dtype
        if key not in self._tensors:
            self._tensors[key] = self._source[name].to(like.device, dtype)
        return self._tensors[key]

    def threshold(self, y: Any, casts: bool | None = None) -> Threshold:
        """The threshold for outputs like ``y``, as PyTorch is set now.

        Args:
            y: outputs; only their dtype and device count.
            casts: the layer casts its inputs; by default if it casts its weights.
        """
        if casts is None:
            casts = y.dtype.itemsize < self._weight_dtype.itemsize
        now, last = arithmetic(y, self.product.dims > 0), self._last
        if last is None or now is not last[0] or casts is not last[1]:
            key = now, casts
            if key not in self._thresholds:
                self._thresholds[key] = Threshold.of(
                    self._noise, self._own, self._gains, self._terms, self._weight_dtype, *key
                )
            self._last = last = now, casts, self._thresholds[key]
        return last[2]

    def floor(self, weight: Tensor) -> float:
        """Size of the smallest single error that is sure to be seen with such a weight now, in
        units of the rms output.
        """
        kind, dtype = weight.device.type, weight.dtype
        if dtype != torch.float64 and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        like = torch.empty(0, dtype=dtype, device=weight.device)
        return self.threshold(like).floor(self.code.m, self.code.n)

    def target(self, x: Tensor, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """What P y must be, (samples, k, positions); None for zero."""
        if self.imposed:
            return None
        with torch.no_grad(), _exact_arithmetic(x):
            rows, bias = self.tensor("PW", x, dtype), self.tensor("Pb", x, dtype)
            product = self.product.multiply(self.product.samples(x).to(dtype), rows, bias, size)
        return product.reshape(*product.shape[:2], size.numel())

    def syndrome(self, y: Tensor, target: Tensor | None) -> Tensor:
        """P y - target, (samples, k, positions), for ``y`` of (samples, C, positions)."""
        # Not a matrix product: that may be one of 11 or 8 bits.
        s = torch.stack([(y * row[:, None]).sum(1) for row in self.tensor("P", y, y.dtype)], 1)
        return s if target is None else s - target

    def screen(self, y: Tensor, target: Tensor | None, limit: Threshold) -> Tensor:
        """Which (sample, position) is to be looked at, bool; ``y`` of (samples, C, positions)."""
        energy = self.syndrome(y, target).square().sum(1)
        square = y.square().sum(1)
        # Negated, so that NaN is suspicious.
        return ~((energy <= limit.tau**2 * square + limit.least**2) & (square < LARGE))

    def suspicious(self, y: Tensor, x: Tensor) -> bool:
        """Whether any output is to be looked at."""
        dims, dtype = self.product.dims, y.dtype
        alike = x.dtype is dtype
        limit = self.threshold(y, not alike and x.dtype.itemsize > dtype.itemsize)
        in_kernel = y.is_cpu and dtype in _KERNEL_DTYPES
        square = limit.tau**2, limit.least**2
        on_the_way = in_kernel and alike and not (dims or self.imposed)
        if on_the_way and y.is_contiguous() and x.is_contiguous():
            P, PW, Pb, _ = self._kernel_arguments(dtype)
            outputs, inputs = _rows(y, self.code.n), _rows(x, self._fan_in)
            return any_suspicious_product(outputs, P, inputs, PW, Pb, *square)
        size = y.shape[y.ndim - dims :]
        if not in_kernel:
            wide = torch.promote_types(dtype, torch.float32)
            return self._any(y, self.target(x, size, wide), wide, limit)
        P, _, _, none = self._kernel_arguments(dtype)
        y = y.detach()
        target = self.target(x, size, dtype)
        if dims and y.is_contiguous():
            goal = none if target is None else target.contiguous().numpy()
            planes = y.view(-1, self.code.n, size.numel()).numpy()
            return any_suspicious_plane(planes, P, goal, *square)
        last = y.movedim(-dims - 1, -1) if dims else y
        if last.is_contiguous():
            goal = none[..., 0]
            if target is not None:
                goal = target.movedim(1, -1).reshape(-1, len(P)).numpy()
            return any_suspicious_row(_rows(last, self.code.n), P, goal, *square)
        return self._any(y, target, y.dtype, limit)

    def _any(self, y: Tensor, target: Tensor | None, dtype: torch.dtype, limit: Threshold) -> bool:
        with torch.no_grad():
            return bool(self.screen(self.product.split(y).to(dtype), target, limit).any())

    def _kernel_arguments(self, dtype: torch.dtype) -> _Arguments:
        if dtype not in self._arguments:
            like = torch.empty(0)
            P, PW, Pb = (self.tensor(name, like, dtype).numpy() for name in ("P", "PW", "Pb"))
            self._arguments[dtype] = _Arguments(P, PW[0], Pb, np.empty((0, len(P), 1), P.dtype))
        return self._arguments[dtype]


def _rows(t: Tensor, width: int) -> NDArray[Any]:
    """A contiguous tensor as a matrix; quickly, since small layers take no longer than that."""
    if t.requires_grad:
        t = t.detach()
    return (t if t.ndim == 2 else t.view(-1, width)).numpy()


def _largest(matrix: Tensor) -> float:
    """Largest eigenvalue of a symmetric matrix."""
    return float(torch.linalg.eigvalsh(matrix.cpu())[-1])
