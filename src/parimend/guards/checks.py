"""The checks of one layer with certain weights: what P y must be, and how far it may be off."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parimend import kernels
from parimend.codes.output import Output
from parimend.guards.arithmetic import Arithmetic, arithmetic, unit_roundoff
from parimend.guards.threshold import Noise, Threshold
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

    With several blocks, P stands below for the checks of all blocks together, (blocks * k, C): that
    of the code in every block, and zero elsewhere.

    Args:
        product: how the layer multiplies.
        code: the checks of one block of outputs; they are the same for all.
        weight: of the layer; finite.
        bias: of the layer; finite.

    Attributes:
        imposed: P W and P b are zero.
        blocks: of outputs.
        noise: what rounding errors make of the checks.
        weight_dtype: of the weights.
        shape: of the weights.
    """

    def __init__(self, product: Product, code: Output, weight: Tensor, bias: Tensor | None) -> None:
        self.product = product
        self.code = code
        W, PW, Pb = self._projected(weight, bias)
        blocks = len(Pb) // code.m
        self.blocks = blocks
        P = torch.from_numpy(code.matrix.copy()).to(W.device)
        square = W.square().sum(-1).flatten()
        b2 = float(bias.detach().to(torch.float64).square().sum()) if bias is not None else 0.0
        left, size2 = PW.square().sum((0, 2)), float(square.sum())
        most = (_EXACT * unit_roundoff(weight.dtype)) ** 2
        self.imposed = bool(
            (left <= most * size2 / blocks).all() and (Pb.square() <= most * (size2 + b2)).all()
        )
        self._size = math.sqrt(size2 + b2)
        self.weight_dtype, self.shape = weight.dtype, weight.shape
        self._fan_in = W.shape[-1]
        self._has_bias = bias is not None
        square = square.reshape(blocks, 1, code.n)
        total = square.sum(-1, keepdim=True)
        square = torch.where(total > 0.0, square, 1.0)  # of zeros any scale will do
        total = square.sum(-1, keepdim=True)
        of_inputs = (
            PW.reshape(len(W), blocks, code.m, -1).transpose(0, 1).transpose(1, 2).flatten(2)
        )
        of_inputs = of_inputs @ of_inputs.mT
        self.noise = Noise(
            (P * square @ P.T / total).cpu(),
            (0.0 * of_inputs if self.imposed else of_inputs / total).cpu(),
            (left.reshape(blocks, -1) / total[..., 0] * self.imposed).cpu(),
            float(torch.linalg.eigvalsh((P @ P.T).cpu())[-1]),
            self._fan_in,
            # What is kept beside the layer is one sum over the inputs of all groups.
            self._fan_in * len(W),
            code.n,
        )
        self._limits: dict[Arithmetic, Threshold] = {}
        self._tensors: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self._at_hand: dict[tuple[torch.device, torch.dtype], _Prepared] = {}
        of_blocks = torch.eye(blocks, dtype=W.dtype, device=W.device)
        of_blocks = of_blocks.repeat_interleave(code.n, 1)
        w2 = by_group(of_blocks, W) @ W.square()
        arranged = product.arranged(PW)
        self._source = {"P": P, "PW": PW, "arranged": arranged, "Pb": Pb, "w2": w2}

    def _projected(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """W, P W and P b."""
        W = self.product.matrix(weight.detach()).to(torch.float64)
        P = checks_of(self.code, W.shape[0] * W.shape[1]).to(W.device)
        PW = by_group(P, W) @ W
        Pb = P @ bias.detach().to(torch.float64) if bias is not None else P.new_zeros(len(P))
        return W, PW, Pb

    def hold_for(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether weights have these P W and P b: then they are as good as the ones from before."""
        if weight.shape != self.shape:
            return False
        _, PW, Pb = self._projected(weight, bias)
        limit = _INTACT * self._size * math.sqrt(self.code.n * self.blocks)
        pairs = ((PW, self._source["PW"]), (Pb, self._source["Pb"]))
        return all(
            now.shape == then.shape and float((now - then.to(now.device)).norm()) <= limit
            for now, then in pairs
        )

    def tensor(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """``P`` of one block (k, C / blocks), ``PW`` (groups, blocks * k, fan-in), the same as
        ``arranged`` by the `Product`, ``Pb`` (blocks * k,), or ``w2`` (groups, blocks, fan-in), the
        sums of the squares of the weights over the outputs of a block.
        """
        key = name, like.device, dtype
        if key not in self._tensors:
            self._tensors[key] = self._source[name].to(like.device, dtype)
        return self._tensors[key]

    def threshold(self, y: Any, x: Tensor | None = None) -> Threshold:
        """The threshold for outputs like ``y``, as PyTorch is set now; of ``y`` only the dtype and
        the device count, of the inputs the layout.
        """
        product = self.product
        apart = self._has_bias and x is not None and product.adds_apart(x)
        now = arithmetic(y, product.dims > 0, product.overlaps, product.reaches, apart)
        if now not in self._limits:
            self._limits[now] = Threshold.of(self.noise, now)
        return self._limits[now]

    def floor(self, like: Tensor) -> float:
        """Size of the smallest single error that is sure to be seen in outputs like these, in units
        of the rms output.
        """
        return self.threshold(like).floor(self.code.m, self.code.n)

    def target(self, x: Tensor, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """What P y must be, (samples * blocks, k, positions); None for zero."""
        if self.imposed:
            return None
        with torch.no_grad():
            rows = self.tensor("arranged", x, dtype)
            bias = self.tensor("Pb", x, dtype) if self._has_bias else None
            samples = self.product.samples(x.to(dtype))
            with screen_torch.exactly(x):
                found = self.product.multiply_arranged(samples, rows, bias, size)
            return found.reshape(-1, self.code.m, size.numel())

    def by_block(self, y: Tensor) -> Tensor:
        """Outputs (samples, C, positions) as (samples * blocks, C / blocks, positions)."""
        return y.reshape(-1, self.code.n, y.shape[2])

    def syndrome(self, y: Tensor, target: Tensor | None) -> Tensor:
        """P y - target, (rows, k, positions), for ``y`` as `by_block` gives it."""
        return screen_torch.syndrome(y, self.tensor("P", y, y.dtype), _zero(y, target))

    def screen(self, y: Tensor, target: Tensor | None, limit: Threshold) -> Tensor:
        """Which (row, position) is to be looked at, bool, of ``y`` as `by_block` gives it."""
        P = self.tensor("P", y, y.dtype)
        return screen_torch.suspicious(y, P, _zero(y, target), limit.tau**2, limit.least**2)

    def suspicious(self, y: Tensor, x: Tensor, into: Tensor | None = None) -> bool | Tensor:
        """Whether any output is to be looked at.

        Args:
            y: outputs.
            x: inputs.
            into: () int32 on the same device, not the CPU: where to note it. It becomes 1, or stays
                as it is.

        Returns:
            On the CPU a truth value; elsewhere a tensor of shape () there, which nobody has read.
        """
        product, dims, n = self.product, self.product.dims, self.code.n
        limit = self.threshold(y, x)
        square = limit.tau**2, limit.least**2
        on, dtype, P, PW, Pb, none = self._prepared(y)
        rest = square if into is None else (*square, into)
        y = _plain(y)
        if not (dims or self.imposed):
            outputs = on.view(_rows(y, n * self.blocks), dtype)
            inputs = on.view(_rows(_plain(x), self._fan_in), dtype)
            return on.any_suspicious_product(outputs, P, inputs, PW, Pb, *rest)
        target = self.target(x, product.size(y), dtype)
        last = y.movedim(product.axis, -1) if dims else y
        if dims and (y.is_contiguous() or not last.is_contiguous()):
            planes = on.view(self.by_block(product.split(y)).contiguous(), dtype)
            goal = none if target is None else on.view(target.contiguous(), dtype)
            return on.any_suspicious_plane(planes, P, goal, *rest)
        goal = none[..., 0]
        if target is not None:
            goal = target.reshape(-1, self.blocks, *target.shape[1:]).permute(0, 3, 1, 2)
            goal = on.view(_rows(goal, len(P)), dtype)
        return on.any_suspicious_row(on.view(_rows(last, n), dtype), P, goal, *rest)

    def _prepared(self, y: Tensor) -> _Prepared:
        key = y.device, y.dtype
        if key not in self._at_hand:
            on = kernels.on("screen", y.device.type)
            dtype = torch.promote_types(y.dtype, torch.float32)
            P, PW, Pb = (on.view(self.tensor(name, y, dtype), dtype) for name in ("P", "PW", "Pb"))
            none = on.view(torch.empty((0, len(P), 1), dtype=dtype, device=y.device), dtype)
            self._at_hand[key] = _Prepared(on, dtype, P, PW[0], Pb, none)
        return self._at_hand[key]


def _plain(t: Tensor) -> Tensor:
    """A tensor without its history; quickly, since small layers take no longer."""
    return t.detach() if t.requires_grad else t


def _rows(t: Tensor, width: int) -> Tensor:
    """A contiguous matrix."""
    return (t if t.ndim == 2 else t.reshape(-1, width)).contiguous()


def _zero(y: Tensor, target: Tensor | None) -> Tensor:
    """A target, also for zero, as kernels take it."""
    return y.new_empty(0, 1, 1) if target is None else target


def stops_in(
    product: Product,
    y: Tensor,
    x: Tensor,
    imposed: bool,
    P: Tensor,
    PW: Tensor,
    Pb: Tensor,
    limits: Tensor,
) -> Tensor:
    """`Checks.screen` of constant tensors, for graphs: which (row, position) is to be looked at.

    Args:
        product: how the layer multiplies.
        y: outputs.
        x: inputs.
        imposed: P W is zero.
        P, PW, Pb: see `Checks.tensor`; their dtype is that of the sums.
        limits: (2,), squares of the threshold, in units of |y| and absolute.
    """
    wide, k, n = P.dtype, P.size(0), P.size(1)
    outputs = product.split(y).to(wide)
    target = y.new_empty(0, 1, 1, dtype=wide)
    if not imposed:
        size = product.size(y)
        with screen_torch.exactly(x):
            target = product.multiply_fused(product.samples(x.to(wide)), PW, Pb, size)
        target = target.reshape(-1, k, size.numel())
    outputs = outputs.reshape(-1, n, outputs.shape[2])
    # With an axis: without, the compiler takes what has 64 bits for a number of Python, and fails.
    tau2, least2 = limits[:1], limits[1:]
    return screen_torch.suspicious(outputs, P, target, tau2, least2)


def by_group(rows: Tensor, W: Tensor) -> Tensor:
    """Rows over all outputs, (r, C), as they meet W of every group: (groups, r, C / groups)."""
    return rows.reshape(len(rows), len(W), -1).transpose(0, 1)


def checks_of(code: Output, outputs: int) -> Tensor:
    """The checks of a code for every block of so many outputs, (blocks * k, outputs) float64."""
    P = torch.from_numpy(code.matrix.copy())
    return torch.kron(torch.eye(outputs // code.n, dtype=P.dtype, device=P.device), P)
