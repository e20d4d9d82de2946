"""Activations that are kept within the range that they had without damage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from parimend.campaign.protections.base import Network, Protection, Tensors
from parimend.errors import SpecError
from parimend.experiment import Answer
from parimend.outcomes import Verdict

ACTIVATIONS = ("ReLU", "LeakyReLU", "GELU", "SiLU", "ELU", "Tanh", "Sigmoid", "Hardswish", "ReLU6")
"""Types of modules whose outputs are watched."""


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
    source: ClassVar[str] = (
        "Chen, Li, Pattabiraman, A low-cost fault corrector for deep neural networks through range "
        "restriction, DSN 2021 (arXiv 2003.13874)"
    )

    def protect_(self, network: Network) -> None:
        if network.run is None:
            raise SpecError("ranger has to see the network run: give a metric, or leave it out")
        clamps, handles = [], []
        for module in network.model.modules():
            if type(module).__name__ in self.layers:
                clamp = Clamp()
                clamps.append((module, clamp))
                handles.append(module.register_forward_hook(clamp.watch))
        if not clamps:
            raise SpecError(f"ranger finds no activations: there are none of {self.layers}")
        network.run()
        for handle in handles:
            handle.remove()
        for module, clamp in clamps:
            module.register_forward_hook(clamp)

    def repair_(self, tensors: Tensors, kept: None) -> Answer:
        return Answer(Verdict.CLEAN, 0)


@dataclass
class Clamp:
    """A hook that keeps outputs within a range.

    Attributes:
        low, high: of all outputs that were watched.
    """

    low: float = field(default=float("inf"))
    high: float = field(default=float("-inf"))

    def watch(self, module: Any, inputs: Any, output: Any) -> None:
        """Widen the range to what comes out."""
        self.low = min(self.low, float(output.detach().min()))
        self.high = max(self.high, float(output.detach().max()))

    def __call__(self, module: Any, inputs: Any, output: Any) -> Any:
        """Bring what comes out into the range."""
        return output.nan_to_num(nan=self.low).clamp(self.low, self.high)
