"""Activations that are kept within the range that they had without damage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors
from parimend.campaign.protections.watching import Hooked, seen_without_damage
from parimend.errors import SpecError
from parimend.experiment import Answer

ACTIVATIONS = ("ReLU", "LeakyReLU", "GELU", "SiLU", "ELU", "Tanh", "Sigmoid", "Hardswish", "ReLU6")
"""Types of modules whose outputs are watched; also those whose names begin with these."""

Range = NDArray[np.float32]
"""The lowest and the highest output."""


@dataclass(frozen=True)
class Ranger(Protection):
    """Like Ranger: the outputs of activations are clamped to the range seen without damage.

    The range is that of the data of the metric, which is run once. Weights are not looked at; what
    is wrong with them stays, and does less. NaN become the lower end.

    Attributes:
        layers: types of modules that are clamped.
    """

    layers: tuple[str, ...] = ACTIVATIONS
    kind: ClassVar[str] = "ranger"
    runs: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Chen, Li, Pattabiraman, A low-cost fault corrector for deep neural networks through range "
        "restriction, DSN 2021 (arXiv 2003.13874)"
    )

    def protect_(self, network: Network) -> dict[str, Range]:
        layers = {
            name: module
            for name, module in network.model.named_modules()
            if type(module).__name__.startswith(self.layers)
        }
        if not layers:
            raise SpecError(f"ranger finds no activations: there are none of {self.layers}")
        ranges = {name: np.array([np.inf, -np.inf], np.float32) for name in layers}

        def widen(name: str, module: Any, x: Any, y: Any) -> None:
            low, high = ranges[name]
            ranges[name][:] = min(low, float(y.min())), max(high, float(y.max()))

        seen_without_damage(network, layers, widen, self.kind)
        return ranges

    def repair_(self, tensors: Tensors, kept: dict[str, Range]) -> Answer:
        return Answer.of(0)

    def watch_(self, model: Any, kept: dict[str, Range]) -> Hooked:
        modules = dict(model.named_modules())

        def clamp(name: str, module: Any, x: Any, y: Any) -> Any:
            low, high = kept[name].tolist()
            return y.nan_to_num(nan=low).clamp(low, high)

        return Hooked({name: modules[name] for name in kept}, clamp)

    def exposed(self, kept: dict[str, Range]) -> Mapping[str, Bytes]:
        return {name: each.view(np.uint8) for name, each in kept.items()}
