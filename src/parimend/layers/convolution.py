"""Products at every position: convolutions, and transposed ones."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parimend.lasting import cached_property
from parimend.layers.product import FUSED, Product


@dataclass(frozen=True)
class _Windows(Product):
    """What both kinds share.

    Attributes:
        kernel, stride, dilation: of every spatial dimension.
        padding: as the convolution takes it.
    """

    groups: int
    dims: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]

    def _windows(self, images: Tensor, stride: Sequence[int]) -> Tensor:
        """What the kernel lies on, (samples, channels, *positions, *kernel)."""
        geometry = zip(self.kernel, stride, self.dilation, strict=True)
        for axis, (length, step, dilation) in enumerate(geometry, start=2):
            images = images.unfold(axis, dilation * (length - 1) + 1, step)[..., ::dilation]
        return images

    def _rows(self, windows: Tensor) -> Tensor:
        """Windows as `unfold` gives them."""
        width, window = windows.shape[1] // self.groups, math.prod(self.kernel)
        windows = windows.reshape(len(windows), self.groups, width, -1, window)
        return windows.permute(1, 0, 3, 2, 4).reshape(self.groups, -1, width * window)


@dataclass(frozen=True)
class ConvProduct(_Windows):
    """``nn.Conv1d``, ``2d``, ``3d``.

    Attributes:
        border: of the input, as `F.pad` takes it.
        mode: of the border; if it is not zeros, ``padding`` is none, and the border is put around
            the input beforehand.
    """

    border: tuple[int, ...]
    mode: str = "constant"

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        return matrix.reshape(like.shape)

    def unfold(self, x: Tensor, size: torch.Size) -> Tensor:
        return self._rows(self._windows(F.pad(x, self.border, self.mode), self.stride))

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        return self._convolve(x, weight, bias, self.groups)

    def _kernels(self, rows: Tensor) -> Tensor:
        """Rows as weights of a convolution without groups, (r, channels, *kernel)."""
        kernels = rows.reshape(self.groups, rows.shape[1], -1, *self.kernel)
        return kernels.transpose(0, 1).flatten(1, 2)

    def multiply_fused(
        self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size
    ) -> Tensor:
        if rows.shape[1] * math.prod(self.kernel) > FUSED:
            return self.multiply(x, rows, bias, size)
        x, zeros = self._bordered(x), self.border if self.mode == "constant" else ()
        places = list(itertools.product(*map(range, self.kernel)))
        channel = (-1,) + (1,) * self.dims
        results = []
        for kernel in self._kernels(rows):
            # One product for every place in the kernel, and the sum of these, shifted.
            sums = [(x * kernel[:, *at].reshape(channel)).sum(1) for at in places]
            shifted = [
                F.pad(each, zeros)[(slice(None), *self._seen(at, size))]
                for each, at in zip(sums, places, strict=True)
            ]
            results.append(functools.reduce(torch.add, shifted))
        y = torch.stack(results, 1)
        return y if bias is None else y + bias.reshape(channel)

    def _seen(self, at: tuple[int, ...], size: torch.Size) -> list[slice]:
        """Where a place in the kernel lies for every output, in inputs with their border."""
        geometry = zip(at, size, self.stride, self.dilation, strict=True)
        return [
            slice(i * dilation, i * dilation + (length - 1) * step + 1, step)
            for i, length, step, dilation in geometry
        ]

    @cached_property
    def _left(self) -> tuple[int, ...]:
        """Rows and columns of the products of all places in the kernel that lie outside of the
        outputs, where outputs are the sum of these, shifted; else empty.

        Convolutions with a few outputs are slow: for one output this takes a seventh of the time.
        """
        if self.dims != 2 or self.stride != (1, 1) or isinstance(self.padding, str):
            return ()
        reach = [d * (n - 1) for d, n in zip(self.dilation, self.kernel, strict=True)]
        left = tuple(far - near for far, near in zip(reach, self.padding, strict=True))
        return left if min(left) >= 0 else ()

    def arranged(self, rows: Tensor) -> Tensor:
        kernels = self._kernels(rows)
        return kernels.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2) if self._left else kernels

    def multiply_arranged(
        self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size
    ) -> Tensor:
        if not self._left:
            return self._convolve(x, rows, bias, 1)
        products = rows @ self._bordered(x).flatten(2)
        y = F.fold(products, size, self.kernel, self.dilation, self._left)
        return y if bias is None else y + bias[:, None, None]

    def _bordered(self, x: Tensor) -> Tensor:
        return x if self.mode == "constant" else F.pad(x, self.border, self.mode)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        x = self._bordered(x)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, groups)


@dataclass(frozen=True)
class TransposedProduct(_Windows):
    """``nn.ConvTranspose1d``, ``2d``, ``3d``. Its weight has the inputs first."""

    @property
    def overlaps(self) -> int:
        # The places i of the kernel that meet at an output are those with the same rest of
        # i * dilation divided by the stride: every (stride / gcd)th.
        return math.prod(
            -(-length // (step // math.gcd(step, dilation)))
            for length, step, dilation in zip(self.kernel, self.stride, self.dilation, strict=True)
        )

    @property
    def reaches(self) -> bool:
        # The border, of which the size of the outputs decides, is less than stride or dilation.
        return any(wide > step for wide, step in zip(self.dilation, self.stride, strict=True))

    def matrix(self, weight: Tensor) -> Tensor:
        blocks = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)
        return blocks.reshape(self.groups, weight.shape[1], -1)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        blocks = matrix.reshape(self.groups, like.shape[1], -1, *self.kernel)
        return blocks.transpose(1, 2).reshape(like.shape)

    def unfold(self, x: Tensor, size: torch.Size) -> Tensor:
        # Every output is the product of the turned kernel with inputs that lie a stride apart.
        lengths = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], self.stride, strict=True)]
        apart = x.new_zeros(*x.shape[:2], *lengths)
        every: Any = tuple(slice(None, None, step) for step in self.stride)
        apart[(..., *every)] = x
        border: list[int] = []
        for axis in reversed(range(self.dims)):
            reach = self.dilation[axis] * (self.kernel[axis] - 1)
            end = size[axis] + self.padding[axis] - lengths[axis]
            border += [reach - self.padding[axis], end]
        windows = self._windows(F.pad(apart, border), (1,) * self.dims)
        return self._rows(windows.flip(*range(-self.dims, 0)))

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        return self._transposed(x, weight, bias, size, self.groups)

    def arranged(self, rows: Tensor) -> Tensor:
        kernels = rows.reshape(self.groups, rows.shape[1], -1, *self.kernel)
        return kernels.transpose(1, 2).flatten(0, 1)

    def multiply_arranged(
        self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size
    ) -> Tensor:
        return self._transposed(x, rows, bias, size, 1)

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


def convolution(module: Any) -> Product:
    """The rule for ``nn.Conv1d``, ``2d``, ``3d`` and ``nn.ConvTranspose1d``, ``2d``, ``3d``."""
    dims = len(module.kernel_size)
    settings = (module.groups, dims, module.kernel_size, module.stride)
    if module.transposed:
        return TransposedProduct(*settings, module.padding, module.dilation)
    border = tuple(module._reversed_padding_repeated_twice)
    if module.padding_mode == "zeros":
        return ConvProduct(*settings, module.padding, module.dilation, border)
    return ConvProduct(*settings, (0,) * dims, module.dilation, border, module.padding_mode)
