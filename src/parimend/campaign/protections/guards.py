"""Parimend's guards, as a protection among others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors, Watch
from parimend.campaign.protections.carried import Sidecar, repaired
from parimend.errors import SpecError
from parimend.experiment import Answer

if TYPE_CHECKING:
    from parimend.guards import Coverage, GuardEvent, Guards


class Kept(NamedTuple):
    """What guards keep beside the weights.

    Attributes:
        seal: of the sidecar; None without one.
        products: bytes of P W and P b, which damage does not reach here.
    """

    seal: Bytes | None
    products: int


@dataclass(frozen=True)
class Guarded(Protection):
    """Guards on the outputs of layers; with ``errors`` also a sidecar on the weights.

    Attributes:
        k: checks of every output.
        impose: whether weights are moved to check themselves, so that nothing is kept.
        activations: whether what has no checks is done twice.
        errors: wrong words of 32 bits that the sidecar repairs, before the network runs; without
            it the weights are not looked at.
    """

    k: int = 8
    impose: bool = False
    activations: bool = False
    errors: int | None = None
    kind: ClassVar[str] = "guards"
    source: ClassVar[str] = "docs/guards.md"
    runs: ClassVar[bool] = True
    tells: ClassVar[bool] = True

    def protect_(self, network: Network) -> Kept:
        from parimend.guards import guard_

        if network.run is None:
            raise SpecError("guards look at a network that runs: give a metric, or leave them out")
        with guard_(network.model, self.k, impose=self.impose) as guards:
            floats = sum(self._floats(network.model, each) for each in guards.coverage())
        seal = Sidecar(self.errors).protect_(network) if self.errors else None
        return Kept(seal, 4 * floats)

    def repair_(self, tensors: Tensors, kept: Kept) -> Answer:
        if kept.seal is None:
            return Answer.of(0)
        return repaired(tensors, kept.seal)

    def watch_(self, model: Any, kept: Kept) -> GuardWatch:
        from parimend.guards import guard_

        return GuardWatch(guard_(model, self.k, activations=self.activations))

    def exposed(self, kept: Kept) -> Mapping[str, Bytes]:
        return {} if kept.seal is None else {"seal": kept.seal}

    def nbytes(self, kept: Kept) -> int:
        return super().nbytes(kept) + kept.products

    def _floats(self, model: Any, covered: Coverage) -> int:
        """Numbers that are kept beside a layer: P W and P b."""
        from parimend.layers.registry import product_of

        module: Any = dict(model.named_modules()).get(covered.layer)
        product = module and product_of(module)
        if covered.cover != "kept" or product is None:
            return 0
        groups, _, fan_in = product.matrix(module.weight).shape
        return self.k * (groups * fan_in + 1)


_MADE_RIGHT = ("corrected", "recomputed", "repaired")
"""Events of guards after which nothing is wrong."""


class GuardWatch(Watch):
    """Guards at work."""

    def __init__(self, guards: Guards) -> None:
        self.guards = guards
        self.last: GuardEvent | None = None

    def seen(self) -> Answer:
        events = self.guards.events
        fresh = list(takewhile(lambda event: event is not self.last, reversed(events)))
        self.last = events[-1] if events else None
        wrong = sum(event.kind not in _MADE_RIGHT for event in fresh)
        return Answer.of(len(fresh) - wrong, wrong)

    def remove(self) -> None:
        self.guards.remove()
