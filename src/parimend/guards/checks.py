"""The checks of one layer with certain weights: what P y must be, and how far it may be off."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parimend import kernels
from parimend.codes.output import Output
from parimend.guards.arithmetic import Arithmetic, arithmetic, unit_roundoff
from parimend.guards.threshold import Threshold
from parimend.kernels import screen_torch
from parimend.layers.product import Product

_EXACT = 4.0
"""P W counts as zero if it is no more than this many roundings of the weights."""
_INTACT = 2.0**-40
"""Weights are the same if P W has changed by no more than this part of their size."""


class _Prepared(NamedTuple):
    """The kernels for a device and a dtype, and the arguments that are always the same.

    Attributes:
        on: the kernels, see `parimend.kernels.screen_numba`.
        dtype: that outputs are brought to.
        P, PW, Pb: see `Checks.tensor`; PW of the first group.
        none: target (0, k, 1) for zero.
    """

    on: Any
    dtype: torch.dtype
    P: Any
    PW: Any
    Pb: Any
    none: Any


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
        self._at_hand: dict[tuple[torch.device, torch.dtype], _Prepared] = {}
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
        with torch.no_grad(), screen_torch.exactly(x):
            rows, bias = self.tensor("PW", x, dtype), self.tensor("Pb", x, dtype)
            product = self.product.multiply(self.product.samples(x).to(dtype), rows, bias, size)
        return product.reshape(*product.shape[:2], size.numel())

    def syndrome(self, y: Tensor, target: Tensor | None) -> Tensor:
        """P y - target, (samples, k, positions), for ``y`` of (samples, C, positions)."""
        return screen_torch.syndrome(y, self.tensor("P", y, y.dtype), _zero(y, target))

    def screen(self, y: Tensor, target: Tensor | None, limit: Threshold) -> Tensor:
        """Which (sample, position) is to be looked at, bool; ``y`` of (samples, C, positions)."""
        P = self.tensor("P", y, y.dtype)
        return screen_torch.suspicious(y, P, _zero(y, target), limit.tau**2, limit.least**2)

    def suspicious(self, y: Tensor, x: Tensor) -> bool:
        """Whether any output is to be looked at."""
        product, dims = self.product, self.product.dims
        limit = self.threshold(y, x.dtype.itemsize > y.dtype.itemsize)
        square = limit.tau**2, limit.least**2
        on, dtype, P, PW, Pb, none = self._prepared(y)
        y = _plain(y, dtype)
        if not (dims or self.imposed):
            outputs = on.view(_rows(y, self.code.n))
            inputs = on.view(_rows(_plain(x, dtype), self._fan_in))
            return on.any_suspicious_product(outputs, P, inputs, PW, Pb, *square)
        target = self.target(x, product.size(y), dtype)
        last = y.movedim(product.axis, -1) if dims else y
        if dims and (y.is_contiguous() or not last.is_contiguous()):
            planes = on.view(product.split(y).contiguous())
            goal = none if target is None else on.view(target.contiguous())
            return on.any_suspicious_plane(planes, P, goal, *square)
        goal = none[..., 0]
        if target is not None:
            goal = on.view(_rows(target.movedim(1, -1), len(P)))
        return on.any_suspicious_row(on.view(_rows(last, self.code.n)), P, goal, *square)

    def _prepared(self, y: Tensor) -> _Prepared:
        key = y.device, y.dtype
        if key not in self._at_hand:
            on = kernels.on("screen", y.device.type)
            dtype = torch.promote_types(y.dtype, torch.float32)
            P, PW, Pb = (on.view(self.tensor(name, y, dtype)) for name in ("P", "PW", "Pb"))
            none = on.view(torch.empty((0, len(P), 1), dtype=dtype, device=y.device))
            self._at_hand[key] = _Prepared(on, dtype, P, PW[0], Pb, none)
        return self._at_hand[key]


def _plain(t: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor without its history, of a dtype; quickly, since small layers take no longer."""
    if t.requires_grad:
        t = t.detach()
    return t if t.dtype is dtype else t.to(dtype)


def _rows(t: Tensor, width: int) -> Tensor:
    """A contiguous matrix."""
    return (t if t.ndim == 2 else t.reshape(-1, width)).contiguous()


def _zero(y: Tensor, target: Tensor | None) -> Tensor:
    """A target, also for zero, as kernels take it."""
    return y.new_empty(0, 1, 1) if target is None else target


def _largest(matrix: Tensor) -> float:
    """Largest eigenvalue of a symmetric matrix."""
    return float(torch.linalg.eigvalsh(matrix.cpu())[-1])
