"""Hooks of protections that look at what layers compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from parimend.campaign.protections.base import Network, Watch
from parimend.errors import SpecError
from parimend.experiment import Answer
from parimend.removable import Hook

Look = Callable[[str, Any, Any, Any], Any]
"""Called with the name of a layer, the layer, its input and its output; what it gives, if not None,
takes the place of the output."""


class Hooked(Watch):
    """Looks at every output of some layers.

    Args:
        layers: modules by name.
        look: at one output.

    Attributes:
        corrected: outputs that were wrong and are right now.
        suspect: outputs that stayed wrong.
    """

    def __init__(self, layers: Mapping[str, Any], look: Look) -> None:
        self.corrected = self.suspect = 0
        self._handles = [
            module.register_forward_hook(Hook(partial(_looked, look, name)))
            for name, module in layers.items()
        ]

    def seen(self) -> Answer:
        corrected, suspect = self.corrected, self.suspect
        self.corrected = self.suspect = 0
        return Answer.of(corrected, suspect)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _looked(look: Look, name: str, module: Any, inputs: Any, output: Any) -> Any:
    import torch

    with torch.no_grad():
        return look(name, module, inputs[0].detach(), output.detach())


def seen_without_damage(network: Network, layers: Mapping[str, Any], look: Look, kind: str) -> None:
    """Run a network once on the data of its metric, and look at the outputs of some layers.

    Raises:
        SpecError: if it cannot be run.
    """
    if network.run is None:
        raise SpecError(f"{kind} has to see the network run: give a metric, or leave it out")
    watch = Hooked(layers, look)
    try:
        network.run()
    finally:
        watch.remove()
