"""Protections that keep whole copies: much space, simple rules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors
from parimend.experiment import Answer
from parimend.words.bits import byte_view

Copy = dict[str, Bytes]


@dataclass(frozen=True)
class Copies(Protection):
    """Three copies, bit by bit the majority counts, and is what the first one becomes."""

    kind: ClassVar[str] = "copies"
    source: ClassVar[str] = (
        "Lyons and Vanderkulk, The use of triple-modular redundancy to improve computer "
        "reliability, IBM Journal of Research and Development 6, 1962"
    )

    def protect_(self, network: Network) -> tuple[Copy, Copy]:
        return _copy(network.tensors), _copy(network.tensors)

    def repair_(self, tensors: Tensors, kept: tuple[Copy, Copy]) -> Answer:
        found = 0
        for name, tensor in tensors.items():
            a, b, c = byte_view(tensor, name), kept[0][name], kept[1][name]
            vote = (a & b) | (a & c) | (b & c)
            wrong = np.flatnonzero(a != vote)
            a[wrong] = vote[wrong]
            found += wrong.size
        return Answer.of(found)

    def exposed(self, kept: tuple[Copy, Copy]) -> Mapping[str, Bytes]:
        both = enumerate(kept, 2)
        return {f"{name}, copy {i}": data for i, copy in both for name, data in copy.items()}


class Backup(NamedTuple):
    """A copy elsewhere, and what tells whether it is needed."""

    digests: Copy
    copy: Copy


@dataclass(frozen=True)
class Reload(Protection):
    """A checksum of every tensor; one that does not fit is loaded again from a copy elsewhere.

    The copy is taken for undamaged, and for free: only the checksums count as kept. Where the copy
    does not fit either, the checksum is wrong, and nobody knows what else.
    """

    kind: ClassVar[str] = "reload"
    source: ClassVar[str] = "common practice: SHA-256 beside the file, download it again"

    def protect_(self, network: Network) -> Backup:
        copy = _copy(network.tensors)
        return Backup({name: _digest(data) for name, data in copy.items()}, copy)

    def repair_(self, tensors: Tensors, kept: Backup) -> Answer:
        right = unsure = 0
        for name, tensor in tensors.items():
            data, digest = byte_view(tensor, name), kept.digests[name]
            if not np.array_equal(_digest(data), digest):
                data[:] = kept.copy[name]
                fits = np.array_equal(_digest(data), digest)
                right, unsure = right + fits, unsure + (not fits)
        return Answer.of(right, unsure)

    def exposed(self, kept: Backup) -> Mapping[str, Bytes]:
        return kept.digests


def _copy(tensors: Tensors) -> Copy:
    return {name: byte_view(tensor, name).copy() for name, tensor in tensors.items()}


def _digest(data: Bytes) -> Bytes:
    return np.frombuffer(hashlib.sha256(data.data).digest(), np.uint8).copy()
