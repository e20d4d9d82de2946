"""What a layer computes, y = W x + b along one axis: one rule for each layer type.

A rule tells guards the only things that they need to know of a layer, whatever its type: its weight
as a matrix, how to run it again, and how to multiply other rows with the same inputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parimend.removable import foreign_forward


class Product(ABC):
    """How one layer multiplies. Holds settings only, never tensors.

    Attributes:
        groups: blocks of W, each with inputs of its own.
        dims: spatial dimensions of the outputs, behind the guarded axis.
    """

    groups: int
    dims: int

    def samples(self, x: Tensor) -> Tensor:
        """Inputs with all leading axes in one."""
        return x.reshape(-1, *x.shape[x.ndim - self.dims - 1 :])

    def split(self, y: Tensor) -> Tensor:
        """Outputs as (samples, C, positions)."""
        tail = y.shape[y.ndim - self.dims - 1 :]
        return y.reshape(-1, tail[0], math.prod(tail[1:]))

    @abstractmethod
    def matrix(self, weight: Tensor) -> Tensor:
        """W of every group, (groups, outputs / groups, fan-in)."""

    @abstractmethod
    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of `matrix`, in the shape of ``like``."""

    @abstractmethod
    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        """The layer itself.

        Args:
            x: as `samples` gives them.
            weight: of the layer.
            bias: of the layer.
            size: spatial shape of the outputs.
        """

    @abstractmethod
    def multiply(self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        """Other rows times the same inputs, summed over the groups.

        Args:
            x: as `samples` gives them.
            rows: (groups, r, fan-in).
            bias: (r,).
            size: spatial shape of the outputs.

        Returns:
            (samples, r, *size).
        """


@dataclass(frozen=True)
class LinearProduct(Product):
    """``nn.Linear``, and the projections of attention."""

    groups: int = 1
    dims: int = 0

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(0)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        return matrix.squeeze(0)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        return F.linear(x, weight, bias)

    def multiply(self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        return F.linear(x, rows.squeeze(0), bias)


@dataclass(frozen=True)
class ConvProduct(Product):
    """``nn.Conv1d``, ``2d``, ``3d``: a product at every position.

    Attributes:
        kernel, stride, dilation: of every spatial dimension.
        padding: as the convolution takes it.
        border: padding of the input by values other than zeros, as `F.pad` takes it.
        mode: of that padding.
    """

    groups: int
    dims: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    border: tuple[int, ...] = ()
    mode: str = "constant"

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        return matrix.reshape(like.shape)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        return self._convolve(x, weight, bias, self.groups)

    def multiply(self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        r = rows.shape[1]
        kernels = rows.reshape(self.groups, r, -1, *self.kernel).transpose(0, 1).flatten(1, 2)
        if self.dims == 2 and self.stride == (1, 1) and not isinstance(self.padding, str):
            reach = [d * (n - 1) for d, n in zip(self.dilation, self.kernel, strict=True)]
            left = tuple(far - near for far, near in zip(reach, self.padding, strict=True))
            if min(left) >= 0:
                return self._fold(x, kernels, bias, size, left)
        return self._convolve(x, kernels, bias, 1)

    def _fold(
        self,
        x: Tensor,
        kernels: Tensor,
        bias: Tensor | None,
        size: torch.Size,
        left: tuple[int, ...],
    ) -> Tensor:
        """One product for every place in the kernel, and the sum of these, shifted.

        Convolutions with a few outputs are slow: for one output this takes a seventh of the time.

        Args:
            left: rows and columns of all products that lie outside of the outputs.
        """
        if self.border:
            x = F.pad(x, self.border, self.mode)
        taps = kernels.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)
        y = F.fold(taps @ x.flatten(2), size, self.kernel, self.dilation, left)
        return y if bias is None else y + bias[:, None, None]

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        if self.border:
            x = F.pad(x, self.border, self.mode)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, groups)


@dataclass(frozen=True)
class TransposedProduct(ConvProduct):
    """``nn.ConvTranspose1d``, ``2d``, ``3d``. Its weight has the inputs first."""

    def matrix(self, weight: Tensor) -> Tensor:
        blocks = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)
        return blocks.reshape(self.groups, weight.shape[1], -1)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        blocks = matrix.reshape(self.groups, like.shape[1], -1, *self.kernel)
        return blocks.transpose(1, 2).reshape(like.shape)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        return self._transposed(x, weight, bias, size, self.groups)

    def multiply(self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        r = rows.shape[1]
        kernels = rows.reshape(self.groups, r, -1, *self.kernel).transpose(1, 2)
        return self._transposed(x, kernels.flatten(0, 1), bias, size, 1)

    def _transposed(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size, groups: int
    ) -> Tensor:
        # The caller may have asked for another output size than the smallest.
        smallest = (
            (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for length, stride, padding, dilation, kernel in zip(
                x.shape[2:], self.stride, self.padding, self.dilation, self.kernel, strict=True
            )
        )
        extra = [wanted - least for wanted, least in zip(size, smallest, strict=True)]
        convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dims - 1]
        return convolve(x, weight, bias, self.stride, self.padding, extra, groups, self.dilation)


def _linear(module: nn.Module) -> Product:
    return LinearProduct()


def _convolution(module: Any) -> Product:
    dims = len(module.kernel_size)
    settings = (module.groups, dims, module.kernel_size, module.stride)
    if module.transposed:
        return TransposedProduct(*settings, module.padding, module.dilation)
    if module.padding_mode == "zeros":
        return ConvProduct(*settings, module.padding, module.dilation)
    border = tuple(module._reversed_padding_repeated_twice)
    return ConvProduct(*settings, (0,) * dims, module.dilation, border, module.padding_mode)


PRODUCTS: dict[type[nn.Module], Callable[[Any], Product]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.ConvTranspose3d: _convolution,
}
"""The rule for each layer type, made from a layer: to guard a new type, add a line."""


def product_of(module: nn.Module) -> Product | None:
    """The rule for a layer; None if there is none.

    A subclass has its parent's rule as long as it has its forward: one that quantizes its weight,
    or adds something to the product, computes something else.
    """
    if foreign_forward(module) is not None:
        return None
    for kind, rule in PRODUCTS.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return rule(module)
    return None
