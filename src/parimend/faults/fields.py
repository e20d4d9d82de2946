"""Faults as they are seen in the field, by the part of a memory that fails.

What the modes are is from studies of memory in use (Sridharan and Liberty, *A study of DRAM
failures in the field*, SC 2012; GPUHammer, USENIX Security 2025); how they fall on the bytes of a tensor is
a model, written here: a row has 8 KiB, rows that follow each other lie in 16 banks in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Field:
    """One mode.

    Attributes:
        kind: a name of `parimend.faults.KINDS`.
        placement: a name of `parimend.faults.PLACEMENTS`.
        count: words that change, where a draw names no other number.
        options: of the kind.
        what: in words, with the source.
    """

    kind: str
    placement: str
    count: int
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)


FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "single-bit": Field("bitflip", "scattered", 1, "one bit"),
        "word": Field("random", "scattered", 1, "all bits of one word"),
        "cache-line": Field("random", "lines", 16, "64 bytes in a row, aligned"),
        "page": Field("random", "page", 64, "words of one page of 4 KiB"),
    }
)
"""Modes by name."""
