"""What is known of a campaign's networks before anything strikes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parimend.campaign.task import Stratum
from parimend.record import Record
from parimend.showing import per_cent


@dataclass(frozen=True, repr=False)
class Fact(Record):
    """A network under a protection, not damaged.

    Attributes:
        network: its name.
        protection: its name.
        weights: content hash of the network as it was given.
        given: score of the network as it was given; None without a metric.
        score: when it is protected.
        nbytes: that the protection keeps beside the weights.
        seconds: that protecting took.
        guaranteed: any that many wrong words are repaired, always; 0 where nothing is proven.
    """

    network: str
    protection: str
    weights: str
    given: float | None
    score: float | None
    nbytes: int
    seconds: float
    guaranteed: int = 0


@dataclass(frozen=True, repr=False)
class Reach(Record):
    """How much of a network is struck and protected: what `parimend.protect_` takes in.

    Attributes:
        network: its name.
        struck: bytes that faults can reach.
        buffers: bytes that are left out as buffers.
        packed: bytes that are left out as they are neither parameters nor buffers.
    """

    network: str
    struck: int
    buffers: int
    packed: int

    @property
    def said(self) -> str:
        """What is left out, in a sentence; empty if nothing is."""
        left, where = self.buffers + self.packed, "buffers"
        if not left:
            return ""
        if self.packed:
            where = "buffers or other attributes" if self.buffers else "other attributes"
        share = 100.0 * left / (left + self.struck)
        return (
            f"{self.network}: {left:,} of {left + self.struck:,} bytes ({per_cent(share)} %) are "
            f"neither struck nor protected, being in {where}."
        )


@dataclass(frozen=True)
class Prepared(Record):
    """What tasks are made of.

    Attributes:
        facts: of every network under every protection.
        strata: of every network.
        reach: of every network.
    """

    facts: tuple[Fact, ...]
    strata: Mapping[str, tuple[Stratum, ...]]
    reach: tuple[Reach, ...] = ()

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Prepared:
        """From `as_dict`."""
        strata = {
            name: tuple(Stratum.of(each) for each in found)
            for name, found in given["strata"].items()
        }
        facts = tuple(Fact(**each) for each in given["facts"])
        return cls(facts, strata, tuple(Reach(**each) for each in given["reach"]))

    def of(self, network: str) -> dict[str, Fact]:
        """The facts of a network, by protection."""
        return {each.protection: each for each in self.facts if each.network == network}
