"""Parimend's own carriers, as protections among others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from parimend.campaign.protections.base import Network, Protection, Tensors
from parimend.experiment import Answer
from parimend.seal import Seal


@dataclass(frozen=True)
class Nothing(Protection):
    """No protection at all: what damage does by itself."""

    kind: ClassVar[str] = "none"
    source: ClassVar[str] = "-"

    def protect_(self, network: Network) -> None:
        return None

    def repair_(self, tensors: Tensors, kept: None) -> Answer:
        from parimend.outcomes import Verdict

        return Answer(Verdict.CLEAN, 0)


@dataclass(frozen=True)
class _Carried(Protection):
    """A carrier; see `parimend.protect_`.

    Attributes:
        errors: wrong words of 32 bits that can be repaired in each protected word.
        only: shell patterns of tensors; all by default.
        per: a protected word for the whole ``model``, each ``tensor`` or each ``row``.
        seed: selects the code.
    """

    errors: int
    only: tuple[str, ...] | None = None
    per: str = "model"
    seed: int = 0

    def protect_(self, network: Network) -> Seal:
        from parimend.model import protect_

        options: Any = {"only": self.only, "per": self.per, "seed": self.seed}
        return protect_(network.tensors, self.errors, self.kind, **options)  # type: ignore[arg-type]

    def repair_(self, tensors: Tensors, kept: Seal) -> Answer:
        from parimend.model import repair_

        report = repair_(tensors, kept)
        return Answer(report.verdict, len(report.changes))

    def nbytes(self, kept: Seal) -> int:
        return len(kept.to_bytes())

    def guaranteed(self, kept: Seal) -> int:
        return kept.promise.guaranteed


@dataclass(frozen=True)
class Sidecar(_Carried):
    """Sums of the bit patterns, beside the weights."""

    kind: ClassVar[str] = "sidecar"
    source: ClassVar[str] = "docs/guarantees.md"


@dataclass(frozen=True)
class Real(_Carried):
    """Linear constraints on the weights."""

    kind: ClassVar[str] = "real"
    source: ClassVar[str] = "docs/concepts.md"


@dataclass(frozen=True)
class LowBits(_Carried):
    """Constraints on the bit patterns, met by the lowest mantissa bits."""

    kind: ClassVar[str] = "lowbits"
    source: ClassVar[str] = "docs/concepts.md"
