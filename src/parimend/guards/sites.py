"""Where guards can sit in a model, and why not elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from parimend.errors import WordError
from parimend.guards import attention, repeat
from parimend.guards.journal import Parameters
from parimend.guards.known import Stored, unusable
from parimend.layers.attention import PROJECTION, PROJECTIONS, parameters_of, stored
from parimend.layers.product import Product
from parimend.layers.registry import product_of
from parimend.stores.aliasing import require_own_cells
from parimend.stores.model import require_writable

NARROWEST = 8
"""Outputs of a block, at least, where there are several: if all of a block are small at once, in
comparison with what rounding does, the screen stops them, and has to. That happens to one healthy
block in 400 with two outputs, in 20,000 with four, and in 24 million with eight."""


@dataclass(frozen=True)
class ProductSite:
    """A product that can be guarded.

    Attributes:
        name: of the module; of a projection of an attention, behind the attention's name.
        module: that computes it.
        product: how it multiplies.
        parameters: gives its weight and bias.
        stored: gives the tensors that hold them.
    """

    name: str
    module: nn.Module
    product: Product
    parameters: Parameters
    stored: Stored

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        groups, rows, _ = self.product.matrix(self.parameters()[0]).shape
        return groups * rows

    def obstacle(self, k: int, blocks: int) -> str:
        """Why the weights cannot be made to meet k checks of every block; empty if they can."""
        if is_parametrized(self.module):
            return "its weight is computed from other parameters"
        if k >= (share := self.outputs // self.product.groups):
            return f"a group has only {share} outputs for {k} checks"
        if self.product.groups > 1 and self.blocks(k, blocks) > 1:
            return "its groups would have to be blocks: take blocks=1"
        return self.immovable()

    def immovable(self) -> str:
        """Why the memory of its weights cannot be written to; empty if it can."""
        of = ("its weight", "its bias")
        tensors = {name: t for name, t in zip(of, self.stored(), strict=True) if t is not None}
        try:
            for name, tensor in tensors.items():
                require_own_cells(name, tensor)
            require_writable(tensors)
        except WordError as error:
            return str(error)
        return ""

    def blocks(self, k: int, wanted: int) -> int:
        """The number of blocks of equal size into which the outputs are split: as many as are
        wanted, or as leave more than k outputs in each, and not too few.
        """
        most = max(1, self.outputs // max(k + 1, NARROWEST))
        every = range(min(wanted, most), 0, -1)
        return next(n for n in every if self.outputs % n == 0)


@dataclass(frozen=True)
class OtherSite:
    """Something else.

    Attributes:
        name: of the module.
        module: that computes it.
        repeatable: it can be done twice.
        reason: why it is not a product that can be guarded.
    """

    name: str
    module: nn.Module
    repeatable: bool
    reason: str


Site = ProductSite | OtherSite


def sites(model: nn.Module) -> Iterator[Site]:
    """Everything that the modules of a model compute, in order."""
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if isinstance(module, nn.MultiheadAttention):
            inside |= set(module.modules())
            yield from _attention(name, module)
        elif (product := product_of(module)) is not None or _is_leaf(module):
            if product is not None:
                inside |= set(module.modules())  # what computes a weight is no layer
            yield _site(name, module, product)


def _is_leaf(module: nn.Module) -> bool:
    own = next(module.parameters(recurse=False), None)
    return own is not None or next(module.children(), None) is None


def _site(name: str, module: nn.Module, product: Product | None) -> Site:
    if isinstance(module, repeat.REPEATED):
        why_not = repeat.why_not(module)
        reason = why_not or "not a product: guard_(..., activations=True) does it twice"
        return OtherSite(name, module, not why_not, reason)
    if product is None:
        return OtherSite(name, module, False, "no rule for this type, or a forward of its own")
    if reason := unusable(*_weight_and_bias(module)):
        return OtherSite(name, module, False, reason)
    # Read at every call: the weight may be replaced, or be computed.
    parameters = partial(_weight_and_bias, module)
    return ProductSite(name, module, product, parameters, partial(_registered, module))


def _weight_and_bias(module: Any) -> tuple[Any, Any]:
    return module.weight, module.bias


def _registered(module: Any) -> tuple[Tensor | None, Tensor | None]:
    return module._parameters.get("weight"), module._parameters.get("bias")


def _attention(name: str, module: nn.MultiheadAttention) -> Iterator[Site]:
    reason = attention.why_not(module)
    for projection in PROJECTIONS:
        parameters = partial(parameters_of, module, projection)
        full = f"{name}.{projection}" if name else projection
        if why := reason or unusable(*parameters()):
            yield OtherSite(full, module, False, why)
        else:
            there = partial(stored, module, projection)
            yield ProductSite(full, module, PROJECTION, parameters, there)
