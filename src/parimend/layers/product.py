"""What a layer computes, y = W x + b along one axis: one rule for each layer type.

A rule says the only things that have to be known of a layer, whatever its type: its weight as a
matrix, what that is multiplied with, how to run it again, and how to multiply other rows with the
same inputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

FUSED = 16
"""Sums over the inputs that `Product.multiply_fused` makes at most, instead of a product."""


class Product(ABC):
    """How one layer multiplies. Holds settings only, never tensors.

    Attributes:
        groups: blocks of W, each with inputs of its own.
        dims: spatial dimensions of the outputs, behind the axis of one product.
    """

    groups: int
    dims: int

    @property
    def overlaps(self) -> int:
        """Places of the kernel whose products may be rounded, and added up, one by one in the dtype
        of the outputs: at most so many for an output. 0 if an output is a single sum.
        """
        return 0

    def adds_apart(self, x: Tensor) -> bool:
        """Whether a bias is added to outputs for these inputs that are finished, and rounded."""
        return False

    @property
    def reaches(self) -> bool:
        """Whether outputs may have a border of zeros as wide as the stride."""
        return False

    @property
    def axis(self) -> int:
        """Along which the outputs of one product lie, counted from the last one."""
        return -self.dims - 1

    def size(self, y: Tensor) -> torch.Size:
        """Spatial shape of outputs."""
        return y.shape[y.ndim - self.dims :]

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
    def unfold(self, x: Tensor, size: torch.Size) -> Tensor:
        """What the rows of W are multiplied with at every position of every sample.

        Args:
            x: as `samples` gives them.
            size: spatial shape of the outputs.

        Returns:
            (groups, samples * positions, fan-in).
        """

    @abstractmethod
    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        """The layer itself.

        Args:
            x: as `samples` gives them.
            weight: of the layer.
            bias: of the layer.
            size: spatial shape of the outputs.
        """

    def multiply(self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        """Other rows times the same inputs, summed over the groups.

        Args:
            x: as `samples` gives them.
            rows: (groups, r, fan-in).
            bias: (r,).
            size: spatial shape of the outputs.

        Returns:
            ``(samples, r, *size)``.
        """
        return self.multiply_arranged(x, self.arranged(rows), bias, size)

    @abstractmethod
    def arranged(self, rows: Tensor) -> Tensor:
        """Rows (groups, r, fan-in) as `multiply_arranged` takes them, to be made once."""

    @abstractmethod
    def multiply_arranged(
        self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size
    ) -> Tensor:
        """`multiply` of rows that are `arranged`."""

    def multiply_fused(
        self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size
    ) -> Tensor:
        """`multiply` for a graph: of a few rows by sums over the inputs, which a compiler makes in
        one pass together with what is around them; a product of matrices would stand alone.
        """
        return self.multiply(x, rows, bias, size)
