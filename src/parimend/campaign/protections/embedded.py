"""Protections that put their redundancy into the lowest mantissa bits of float32 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from parimend.campaign.protections.base import Network, Protection, Tensors, Words, float_words
from parimend.experiment import Answer

_PARITY = np.uint32(0xFF)  # the eight parity bits


@dataclass(frozen=True)
class Cep(Protection):
    """Chunked embedded parity, D3P1: bits 8 to 31 are eight triples, whose parities are bits 0 to
    7.

    A triple whose parity is wrong is set to zero, with its parity bit: the weight becomes harmless,
    not right. (The source clears all eight parity bits as well before it computes; here they stay,
    which changes a weight by less than 2^-15 of it.)
    """

    kind: ClassVar[str] = "cep"
    source: ClassVar[str] = "FaultForge 0.2.1, crates/bindings/src/cep.rs, B32D3P1"

    def protect_(self, network: Network) -> None:
        for words in float_words(network.tensors, self.kind).values():
            words[:] = (words & ~_PARITY) | _parities(words)

    def repair_(self, tensors: Tensors, kept: None) -> Answer:
        found = 0
        for words in float_words(tensors, self.kind).values():
            wrong = (words ^ _parities(words)) & _PARITY
            struck = np.flatnonzero(wrong)
            if struck.size:
                words[struck] &= ~_with_triples(wrong[struck])
                found += struck.size
        return Answer.of(0, found)


@dataclass(frozen=True)
class Mset(Protection):
    """The highest exponent bit, 30, is copied into bits 0 and 1; the three of them vote.

    Where they differ all three are set to the vote: damage to one of them is put right. Other bits
    are not looked at.
    """

    kind: ClassVar[str] = "mset"
    source: ClassVar[str] = "FaultForge 0.2.1, crates/bindings/src/mset.rs"

    def protect_(self, network: Network) -> None:
        for words in float_words(network.tensors, self.kind).values():
            words[:] = _voted(words, words >> np.uint32(30) & np.uint32(1))

    def repair_(self, tensors: Tensors, kept: None) -> Answer:
        found = 0
        for words in float_words(tensors, self.kind).values():
            votes = (words >> 30 & 1) + (words >> 1 & 1) + (words & 1)
            split = np.flatnonzero((votes == 1) | (votes == 2))
            if split.size:
                words[split] = _voted(words[split], (votes[split] >= 2).astype(np.uint32))
                found += split.size
        return Answer.of(found)


def _parities(words: Words) -> Words:
    """The parity of triple c, bits 8 + 3c to 10 + 3c, as bit c."""
    folded = words ^ words >> np.uint32(1) ^ words >> np.uint32(2)
    found = np.zeros_like(words)
    for c in range(8):
        found |= (folded >> np.uint32(8 + 3 * c) & np.uint32(1)) << np.uint32(c)
    return found


def _with_triples(parities: Words) -> Words:
    """A mask of parity bits, and of the triples that they belong to."""
    mask = parities.copy()
    for c in range(8):
        mask |= (parities >> np.uint32(c) & np.uint32(1)) * np.uint32(0b111 << (8 + 3 * c))
    return mask


def _voted(words: Words, bit: Words) -> Words:
    cleared = words & np.uint32(0xFFFFFFFF ^ (1 << 30 | 0b11))
    return cleared | (bit << np.uint32(30)) | (bit << np.uint32(1)) | bit
