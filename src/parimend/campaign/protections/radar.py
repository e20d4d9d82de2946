"""Checksums of groups, whose weights are cleared if they do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.campaign.protections.base import Network, Protection, Tensors, float_words
from parimend.errors import SpecError
from parimend.experiment import Answer
from parimend.hashing import stream_key, words
from parimend.outcomes import Verdict

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Radar(Protection):
    """Like RADAR: two bits of a keyed sum over each group; a group that does not fit is zeroed.

    RADAR is made for weights of 8 bits and looks for flips of their highest bit. Here the exponent
    of a float32 is taken for the 8 bits, whose highest one does the harm. Groups are interleaved,
    and every weight is added or subtracted as a secret key says. The two bits are those of weight
    128 and 256 in the sum.

    Attributes:
        group: weights in a group.
        seed: of the key.
    """

    group: int = 32
    seed: int = 0
    kind: ClassVar[str] = "radar"
    source: ClassVar[str] = (
        "Li, Rakin, He, Fan, Chakrabarti, RADAR: run-time adversarial weight attack detection and "
        "accuracy recovery, DATE 2021 (arXiv 2101.08254); adapted to float32"
    )

    def __post_init__(self) -> None:
        if self.group < 1:
            raise SpecError(f"a group has one weight or more, not {self.group}")

    def protect_(self, network: Network) -> dict[str, Bytes]:
        return self._signatures(network.tensors)

    def repair_(self, tensors: Tensors, kept: dict[str, Bytes]) -> Answer:
        found, now = 0, self._signatures(tensors)
        for name, bits in float_words(tensors, self.kind).items():
            wrong = np.flatnonzero(now[name] != kept[name])
            groups = len(now[name])
            for group in wrong.tolist():
                bits[group::groups] = 0
            found += wrong.size
        return Answer(Verdict.UNCORRECTABLE if found else Verdict.CLEAN, found)

    def nbytes(self, kept: dict[str, Bytes]) -> int:
        return -(-2 * sum(len(each) for each in kept.values()) // 8)

    def _signatures(self, tensors: Tensors) -> dict[str, Bytes]:
        """Two bits for each group: group i of g has the weights i, i + g, i + 2 g, ..."""
        found = {}
        for number, (name, bits) in enumerate(float_words(tensors, self.kind).items()):
            exponent = (bits >> np.uint32(23)).astype(np.uint8).view(np.int8).astype(np.int64)
            signs = 1 - 2 * (words(stream_key(self.seed, number), 0, len(bits)) >> 63).astype(int)
            groups = max(1, -(-len(bits) // self.group))
            padded = np.zeros(-(-len(bits) // groups) * groups, np.int64)
            padded[: len(bits)] = signs * exponent
            sums = padded.reshape(-1, groups).sum(axis=0)
            found[name] = (sums >> 7 & 3).astype(np.uint8)
        return found
