"""What the layers of a network see: second moments of their inputs, from calibration data.

Moving a row of a layer's weights by d changes its output by d^T x wherever the layer sees x. The
square of that, summed over the positions of an input and averaged over inputs, is d^T S d, with S
the like average of x x^T. All rows of a layer share S, so the Hessian of "every layer puts out what
it did" is block diagonal with few different blocks. It takes no label, no gradient and no loss.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor, nn
from torch.nn import functional as F

from parimend.errors import CalibrationError
from parimend.impose.batches import batch_of, iterable, run
from parimend.lasting import cached_property
from parimend.layers.product import Product
from parimend.layers.registry import declared_product
from parimend.removable import Hook
from parimend.warning import warn

ENOUGH = 500
"""Fewer inputs warn: measured on MNIST, 500 do nearly what 2,000 do, 20 can be worse than none."""

LARGEST = 1 << 30
"""Bytes that the moments of one layer may take; of larger ones only the diagonal is kept."""

_UNFOLDED = 1 << 24  # elements of unfolded images held at a time


class CalibrationWarning(UserWarning):
    """The moments are usable, but poorer than they could be."""


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Second moments of what one layer sees: summed over positions, averaged over inputs.

    Attributes:
        weight: name of the layer's weight.
        bias: name of its bias, if it has one.
        shape: of the weight.
        moment: (groups, k, k) float64, or (groups, k) where only the diagonal is kept. k is the
            length of a row of the weight's matrix, plus one for the bias (whose input is 1), last.
        product: what the layer computes, and so which element is in which row.
    """

    weight: str
    bias: str | None
    shape: tuple[int, ...]
    moment: NDArray[np.float64]
    product: Product
    _inverses: dict[tuple[int, int, float], NDArray[np.float64]] = field(
        init=False, repr=False, default_factory=dict
    )

    @cached_property
    def _matrix(self) -> torch.Size:
        return self.product.matrix(torch.empty(self.shape, device="meta")).shape

    @property
    def rows(self) -> int:
        """Number of outputs."""
        return self._matrix[0] * self._matrix[1]

    @property
    def width(self) -> int:
        """Length of a row of the weight's matrix."""
        return self._matrix[2]

    def places(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column in the weight's matrix of some elements of the weight, (count,) each."""
        places = torch.arange(math.prod(self.shape), device="cpu").reshape(self._matrix)
        weight = self.product.weight(places, torch.empty(self.shape, device="meta"))
        return np.divmod(weight.flatten()[start : start + count].numpy(), self.width)

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """(groups, k) float64."""
        return self.moment if self.moment.ndim == 2 else self.moment.diagonal(axis1=1, axis2=2)

    def group(self, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of inputs that output rows see."""
        return row // (self.rows // len(self.moment))

    def inverse(
        self, group: int, columns: NDArray[np.int64], damping: float
    ) -> NDArray[np.float64]:
        """Inverse of the damped block of the ``columns`` that may move; shared, not to be changed.

        Args:
            columns: (c,) int64, increasing.
            damping: added to the diagonal, as a fraction of its mean over the layer.
        """
        count = len(columns)
        # Many words share the block of a whole row; how a row is cut is special to one word.
        whole = count >= self.width and columns[-1] == count - 1
        key = (group, count, damping)
        if whole and key in self._inverses:
            return self._inverses[key]
        block = self.moment[group][np.ix_(columns, columns)]
        block[np.diag_indices(count)] += damping * self.diagonal.mean()
        inverse = cho_solve(cho_factor(block, lower=True), np.eye(count))
        if whole:
            self._inverses[key] = inverse
        return inverse


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of the layers of a model.

    Attributes:
        inputs: number of inputs that were averaged over.
        layers: by name of a parameter, weight or bias, the moments of the layer it belongs to.
    """

    inputs: int
    layers: Mapping[str, LayerMoments]

    @cached_property
    def scale(self) -> float:
        """Mean of the diagonals of all layers; 1 if there are none."""
        diagonals = [layer.diagonal.ravel() for layer in dict.fromkeys(self.layers.values())]
        return float(np.concatenate(diagonals).mean()) if diagonals else 1.0


def second_moments(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    names: Collection[str] | None = None,
    samples: int = 2000,
) -> Moments:
    """Run a model over calibration data and average what its layers see.

    Layers are those that `parimend.layers` knows: linear ones and convolutions, also transposed
    ones. Modules that share a weight, and modules called several times, add up. A weight that is
    also used elsewhere (an embedding tied to the output layer) is judged by its use in layers
    alone. The model runs in evaluation mode without gradients; afterwards, and after an error too,
    every module is back in its mode and carries no hook. No activation is kept.

    Args:
        model: to run. Batches are moved to the device of its first parameter.
        batches: each one a tensor, a tuple or list whose first item is the input (what else is in
            it is ignored), or a mapping of keyword arguments; inputs are counted along the first
            axis of the first tensor.
        names: of parameters; only the layers these belong to are measured. All by default.
        samples: no further batch is taken once this many inputs were seen.

    Raises:
        CalibrationError: without a single batch, for names that the model does not have, for
            batches of another kind, or for activations that are not finite; names the layer.

    Warns:
        CalibrationWarning: for fewer than 500 inputs, layers that were never called or saw nothing
            but zeros (they have no moments then), and layers too large for more than the diagonal.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> moments = second_moments(model, [torch.randn(500, 3)])
        >>> moments.inputs, moments.layers["2.bias"].moment.shape
        (500, (1, 5, 5))
    """
    batches = iterable(batches)
    sums = _find_layers(model, names)
    inputs = 0
    with _watched(model, sums.values()), torch.no_grad():
        for each in batches:
            batch = batch_of(each)
            run(model, batch)
            inputs += batch.inputs
            if inputs >= samples:
                break
    if not inputs:
        raise CalibrationError("no calibration inputs: give at least one batch, better 500 inputs")
    if inputs < ENOUGH:
        _warn(f"{inputs} calibration inputs are few: give {ENOUGH} or more")
    layers: dict[str, LayerMoments] = {}
    silent = []
    for name, total in sums.items():
        layer = total.mean(name, inputs)
        if not np.isfinite(layer.diagonal).all():
            raise CalibrationError(
                f"the layer of {name} {layer.shape} sees infinities or NaN: repair the weights or "
                "the calibration data first"
            )
        if not layer.diagonal[:, : layer.width].any():
            silent.append(name)
            continue
        if layer.moment.ndim == 2:
            _warn(f"{name} {layer.shape}: too large for more than the diagonal of its moments")
        layers |= dict.fromkeys(filter(None, (name, layer.bias)), layer)
    if silent:
        _warn(
            f"never called, or with zeros only: the layers of {', '.join(silent)}; what they need "
            "is unknown: give data that uses them, or leave them out"
        )
    return Moments(inputs, layers)


class _Sum:
    """Running sum over all modules that share one weight."""

    def __init__(self, module: Any, product: Product, bias_name: str | None) -> None:
        self.modules: list[Any] = [module]
        self._shape = tuple(module.weight.shape)
        self._product = product
        self._bias, self._bias_name = module.bias, bias_name
        groups, _, width = product.matrix(module.weight).shape
        k = width + (self._bias is not None)
        self._full = groups * k * k * 8 <= LARGEST
        shape = (groups, k, k) if self._full else (groups, k)
        self._total = torch.zeros(shape, dtype=torch.float64, device="cpu")

    def see(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> None:
        """Forward hook."""
        product: Any = declared_product(module)
        x = product.samples((args[0] if args else kwargs["input"]).detach())
        size = product.size(y) if isinstance(y, Tensor) else torch.Size()
        unfolded = size.numel() * self._total[..., 0].numel()
        for samples in torch.split(x, max(1, _UNFOLDED // max(1, unfolded))):
            self._add(product.unfold(samples, size), module.bias is self._bias)

    def _add(self, rows: Tensor, biased: bool) -> None:
        device = "cpu" if rows.device.type == "mps" else rows.device  # MPS has no float64
        rows = rows.to(device).double()
        if self._bias is not None:  # of which modules that share only the weight tell nothing
            rows = F.pad(rows, (0, 1), value=float(biased))
        square = rows.mT @ rows if self._full else rows.square().sum(1)
        self._total += square.cpu()

    def mean(self, name: str, inputs: int) -> LayerMoments:
        """The moments, of the weight of this name."""
        moment = (self._total / inputs).numpy()
        return LayerMoments(name, self._bias_name, self._shape, moment, self._product)


def _find_layers(model: nn.Module, names: Collection[str] | None) -> dict[str, _Sum]:
    """By name of the weight; a tied weight has the first of its names, as in layouts."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    if names is not None:
        tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
        if unknown := sorted(set(names) - tensors.keys()):
            raise CalibrationError(f"the model has no parameter {', '.join(unknown)}")
    sums: dict[str, _Sum] = {}
    for module in model.modules():
        # By its type: what else a forward does, its weight is multiplied with what comes in.
        product = declared_product(module)
        if product is None:
            continue
        weight, bias = known.get(id(module.weight)), known.get(id(module.bias))
        if weight is None:  # computed from other parameters at every call
            continue
        if weight in sums:
            sums[weight].modules.append(module)
        elif names is None or weight in names or bias in names:
            sums[weight] = _Sum(module, product, bias)
    return sums


@contextmanager
def _watched(model: nn.Module, sums: Iterable[_Sum]) -> Iterator[None]:
    """The model in evaluation mode, with hooks that feed ``sums``; then as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    hooks = [(module, Hook(total.see)) for total in sums for module in total.modules]
    try:
        for module, hook in hooks:
            module.register_forward_hook(hook, with_kwargs=True)
        model.eval()
        yield
    finally:
        for module, hook in hooks:
            hook.remove_from(module)
        for module, training in modes:
            module.training = training


def _warn(message: str) -> None:
    warn(message, CalibrationWarning)
