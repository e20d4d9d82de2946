"""Checksums of groups, whose weights are cleared if they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors, float_words
from parimend.errors import SpecError
from parimend.experiment import Answer
from parimend.hashing import stream_key, words


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
        return {name: _packed(each) for name, each in self._signatures(network.tensors).items()}

    def repair_(self, tensors: Tensors, kept: dict[str, Bytes]) -> Answer:
        found, now = 0, self._signatures(tensors)
        for name, bits in float_words(tensors, self.kind).items():
            groups = len(now[name])
            wrong = np.flatnonzero(now[name] != _unpacked(kept[name], groups))
            for group in wrong.tolist():
                bits[group::groups] = 0
            found += wrong.size
        return Answer.of(0, found)

    def exposed(self, kept: dict[str, Bytes]) -> Mapping[str, Bytes]:
        return kept

    def _signatures(self, tensors: Tensors) -> dict[str, Bytes]:
        """Two bits for each group: group i of g has the weights i, i + g, i + 2 g, ..."""
        found = {}
        for number, (name, bits) in enumerate(float_words(tensors, self.kind).items()):
            exponent = (bits >> np.uint32(23)).astype(np.uint8).view(np.int8).astype(np.int64)
            groups = max(1, -(-len(bits) // self.group))
            padded = np.zeros(-(-len(bits) // groups) * groups, np.int64)
            padded[: len(bits)] = _key(self.seed, number, len(bits)) * exponent
            sums = padded.reshape(-1, groups).sum(axis=0)
            found[name] = (sums >> 7 & 3).astype(np.uint8)
        return found


@lru_cache(maxsize=512)
def _key(seed: int, number: int, n: int) -> NDArray[np.int8]:
    """A sign for every weight of a tensor."""
    return 1 - 2 * (words(stream_key(seed, number), 0, n) >> 63).astype(np.int8)


def _packed(signatures: Bytes) -> Bytes:
    """Four signatures in a byte."""
    return np.packbits(np.stack([signatures >> 1, signatures & 1], axis=1))


def _unpacked(kept: Bytes, groups: int) -> Bytes:
    high, low = np.unpackbits(kept)[: 2 * groups].reshape(-1, 2).T
    return 2 * high + low
