"""Faults as they are seen in the field, by the part of a memory that fails.

The modes are those of studies of memory in use: Sridharan and Liberty, *A study of DRAM failures in
the field*, SC 2012 (bits, words, columns, rows, banks); the upsets of Alsat-1 (double bytes);
GPUHammer, USENIX Security 2025 (8 flips over 4 banks). How they fall on the bytes of a tensor is a
model, see `parimend.faults.memory`: rows of 8 KiB, which lie in 16 banks in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Field:
    """One mode.

    Attributes:
        kind: a name of `parimend.faults.KINDS`.
        count: words that change, where a draw names no other number.
        what: is struck, in words.
        stays: whether it is there again after a repair.
    """

    kind: str
    count: int
    what: str
    stays: bool = False


FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "single-bit": Field("bitflip", 1, "one bit"),
        "double-byte": Field("doublebyte", 1, "two bytes of an element, side by side"),
        "word": Field("random", 1, "all bits of an element"),
        "cache-line": Field("lines", 16, "elements of one line of 64 bytes; 16 are all of float32"),
        "row": Field("row", 256, "elements of one row of 8 KiB"),
        "column": Field("column", 16, "one place in rows that follow each other"),
        "bank": Field("bank", 256, "elements of every sixteenth row"),
        "page": Field("page", 256, "elements of one page of 4 KiB"),
        "rowhammer": Field("rowhammer", 8, "one row in each of four banks, by turns"),
        "stuck-bit": Field("bitflip", 1, "a bit that holds one value", stays=True),
    }
)
"""Modes by name."""
