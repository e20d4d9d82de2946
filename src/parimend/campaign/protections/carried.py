"""Parimend's own carriers, as protections among others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors
from parimend.errors import SealError
from parimend.experiment import Answer
from parimend.outcomes import Verdict
from parimend.seal import Seal


@dataclass(frozen=True)
class Nothing(Protection):
    """No protection at all: what damage does by itself."""

    kind: ClassVar[str] = "none"
    source: ClassVar[str] = "-"

    def protect_(self, network: Network) -> None:
        return None

    def repair_(self, tensors: Tensors, kept: None) -> Answer:
        return Answer.of(0)


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

    def protect_(self, network: Network) -> Bytes:
        from parimend.model import protect_

        options: Any = {"only": self.only, "per": self.per, "seed": self.seed}
        seal = protect_(network.tensors, self.errors, self.kind, **options)  # type: ignore[arg-type]
        return np.frombuffer(seal.to_bytes(), np.uint8).copy()

    def repair_(self, tensors: Tensors, kept: Bytes) -> Answer:
        return repaired(tensors, kept)

    def exposed(self, kept: Bytes) -> Mapping[str, Bytes]:
        return {"seal": kept}

    def guaranteed(self, tensors: Tensors, kept: Bytes) -> int:
        seal = _read(kept.tobytes())
        whole = seal.covered == sum(each.numel() for each in tensors.values())
        return seal.promise.guaranteed if whole else 0


def repaired(tensors: Tensors, seal: Bytes) -> Answer:
    """Repair tensors by the bytes of a seal, which may be damaged themselves."""
    from parimend.model import repair_

    try:
        report = repair_(tensors, _read(seal.tobytes()))
    except SealError:  # beyond what a seal can repair of itself
        return Answer(Verdict.UNCORRECTABLE, 0)
    return Answer(report.verdict, len(report.changes))


@lru_cache(maxsize=8)
def _read(seal: bytes) -> Seal:
    """A seal; the same bytes give the same one, whose decoders are made once."""
    return Seal.from_bytes(seal)


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
