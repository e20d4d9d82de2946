"""Which rule a layer follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from parimend.layers.convolution import convolution
from parimend.layers.linear import linear
from parimend.layers.product import Product
from parimend.removable import foreign_forward

PRODUCTS: dict[type[nn.Module], Callable[[Any], Product]] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.ConvTranspose1d: convolution,
    nn.ConvTranspose2d: convolution,
    nn.ConvTranspose3d: convolution,
}
"""The rule for each layer type, made from a layer: for a new type, add a line."""


def declared_product(module: nn.Module) -> Product | None:
    """The rule for a layer by its type, whatever its forward adds to it; None if there is none."""
    for kind, rule in PRODUCTS.items():
        if isinstance(module, kind):
            return rule(module)
    return None


def product_of(module: nn.Module) -> Product | None:
    """The rule for a layer that computes this and nothing else; None if there is none.

    A subclass has its parent's rule as long as it has its forward: one that quantizes its weight,
    or adds something to the product, computes something else.
    """
    if foreign_forward(module) is not None:
        return None
    for kind in PRODUCTS:
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return declared_product(module)
    return None
