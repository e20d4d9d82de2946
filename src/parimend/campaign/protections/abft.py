"""Algorithm-based fault tolerance: matrix products that carry a checksum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors
from parimend.campaign.protections.watching import Hooked, seen_without_damage
from parimend.errors import SpecError
from parimend.experiment import Answer

if TYPE_CHECKING:
    import torch

    from parimend.layers.product import Product

_MARGIN = 2.0
"""How much more than without damage a sum may be off."""


class Checksum(NamedTuple):
    """What is kept of a layer.

    Attributes:
        rows: sums of the weights over the outputs, (groups, 1, fan-in) float32.
        bias: sum of the biases, (1,) float32.
        limit: largest difference that is let pass, (1,) float32.
    """

    rows: NDArray[np.float32]
    bias: NDArray[np.float32]
    limit: NDArray[np.float32]


@dataclass(frozen=True)
class Abft(Protection):
    """The sum of a layer's outputs is computed a second way, from the sums of its weights.

    Where the two differ by more than twice what they did without damage, on the data of the
    metric, the layer is computed once more. If they differ again the weights are wrong, and it is
    left at that. Linear layers and convolutions are watched.
    """

    kind: ClassVar[str] = "abft"
    source: ClassVar[str] = (
        "Huang, Abraham, Algorithm-based fault tolerance for matrix operations, IEEE Transactions "
        "on Computers C-33, 1984; for convolutions: Hari, Sullivan, Tsai, Keckler, Making "
        "convolutions resilient via algorithm-based error detection techniques (arXiv 2006.04984)"
    )
    runs: ClassVar[bool] = True
    tells: ClassVar[bool] = True

    def protect_(self, network: Network) -> dict[str, Checksum]:
        layers = dict(_products(network.model))
        if not layers:
            raise SpecError("abft finds no linear layers or convolutions")
        kept = {name: _checksum(*each) for name, each in layers.items()}

        def widen(name: str, module: Any, x: Any, y: Any) -> None:
            off = float(_off(kept[name], layers[name][1], x, y))
            kept[name].limit[:] = max(kept[name].limit[0], np.float32(_MARGIN * off))

        modules = {name: module for name, (module, _) in layers.items()}
        seen_without_damage(network, modules, widen, self.kind)
        return kept

    def repair_(self, tensors: Tensors, kept: dict[str, Checksum]) -> Answer:
        return Answer.of(0)

    def watch_(self, model: Any, kept: dict[str, Checksum]) -> Hooked:
        layers = dict(_products(model))

        def look(name: str, module: Any, x: Any, y: Any) -> Any:
            if _fits(kept[name], layers[name][1], x, y):
                return None
            y = type(module).forward(module, x)
            if _fits(kept[name], layers[name][1], x, y):
                watch.corrected += 1
            else:
                watch.suspect += 1
            return y

        watch = Hooked({name: module for name, (module, _) in layers.items()}, look)
        return watch

    def exposed(self, kept: dict[str, Checksum]) -> Mapping[str, Bytes]:
        return {
            f"{name}.{field}": data.reshape(-1).view(np.uint8)
            for name, each in kept.items()
            for field, data in each._asdict().items()
        }


def _products(model: Any) -> Iterator[tuple[str, tuple[Any, Product]]]:
    from parimend.layers.registry import product_of

    for name, module in model.named_modules():
        product = product_of(module)
        if product is not None:
            yield name, (module, product)


def _checksum(module: Any, product: Product) -> Checksum:
    import torch

    rows = product.matrix(module.weight.detach()).double().sum(1, keepdim=True)
    nothing = torch.zeros(1, device=rows.device)
    bias = nothing if module.bias is None else module.bias.detach().double().sum(0, True)
    return Checksum(rows.float().numpy(), bias.float().numpy(), np.zeros(1, np.float32))


def _off(kept: Checksum, product: Product, x: Any, y: Any) -> torch.Tensor:
    """The largest difference between sums of outputs and what they must be, in float32."""
    import torch

    x, y = x.float(), y.float()
    rows, bias = (torch.from_numpy(each) for each in (kept.rows, kept.bias))
    size = product.size(y)
    wanted = product.multiply(product.samples(x), rows, bias, size).flatten(1)
    return (product.split(y).sum(1) - wanted).abs().max()


def _fits(kept: Checksum, product: Product, x: Any, y: Any) -> bool:
    return bool(_off(kept, product, x, y) <= float(kept.limit[0]))  # not so if it is NaN
