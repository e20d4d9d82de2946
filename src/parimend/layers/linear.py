"""Products without positions: ``nn.Linear``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parimend.layers.product import FUSED, Product


@dataclass(frozen=True)
class LinearProduct(Product):
    """``nn.Linear``, and the projections of attention."""

    groups: int = 1
    dims: int = 0

    def adds_apart(self, x: Tensor) -> bool:
        # PyTorch makes a matrix of inputs with more axes only if that needs no copy.
        return x.ndim > 2 and not x.is_contiguous()

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(0)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        return matrix.squeeze(0)

    def unfold(self, x: Tensor, size: torch.Size) -> Tensor:
        return x.unsqueeze(0)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, size: torch.Size) -> Tensor:
        return F.linear(x, weight, bias)

    def arranged(self, rows: Tensor) -> Tensor:
        return rows.squeeze(0)

    def multiply_arranged(
        self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size
    ) -> Tensor:
        return F.linear(x, rows, bias)

    def multiply_fused(
        self, x: Tensor, rows: Tensor, bias: Tensor | None, size: torch.Size
    ) -> Tensor:
        if rows.shape[1] > FUSED:
            return self.multiply(x, rows, bias, size)
        y = torch.stack([(x * row).sum(-1) for row in rows[0]], -1)
        return y if bias is None else y + bias


def linear(module: nn.Module) -> Product:
    """The rule for ``nn.Linear``."""
    return LinearProduct()
