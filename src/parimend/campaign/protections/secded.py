"""Single error correction, double error detection, as memory does it: 8 check bits for 64 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors
from parimend.experiment import Answer
from parimend.words.bits import byte_view


@dataclass(frozen=True)
class Secded(Protection):
    """The (72,64) code of Hsiao: all columns of its check matrix have an odd weight.

    The syndrome of one wrong bit is its column; of two it is even, which is no column. Three wrong
    bits look like one, somewhere else, or like none that there is. The check bits take 12.5 %; a
    wrong one is seen to be one.
    """

    kind: ClassVar[str] = "secded"
    source: ClassVar[str] = (
        "Hsiao, A class of optimal minimum odd-weight-column SEC-DED codes, IBM Journal of "
        "Research and Development 14, 1970"
    )

    def protect_(self, network: Network) -> dict[str, Bytes]:
        return {name: checks(rows) for name, rows in byte_rows(network.tensors).items()}

    def repair_(self, tensors: Tensors, kept: dict[str, Bytes]) -> Answer:
        rows, corrected, detected = byte_rows(tensors), 0, 0
        which = _position()
        for name, words in rows.items():
            syndrome = checks(words) ^ kept[name]
            wrong = np.flatnonzero(syndrome)
            bit = which[syndrome[wrong]]
            flipped = wrong[bit >= 0], bit[bit >= 0]
            words[flipped[0], flipped[1] // 8] ^= (1 << flipped[1] % 8).astype(np.uint8)
            corrected += len(flipped[0])
            detected += int((bit == _UNKNOWN).sum())
        if corrected:
            put_back(tensors, rows)
        return Answer.of(corrected, detected)

    def exposed(self, kept: dict[str, Bytes]) -> Mapping[str, Bytes]:
        return kept


_UNKNOWN, _CHECK = -2, -1


def byte_rows(tensors: Tensors) -> dict[str, Bytes]:
    """Copies of the bytes of tensors in rows of 8, the last one filled up with zeros."""
    rows = {}
    for name, tensor in tensors.items():
        data = byte_view(tensor, name)
        rows[name] = np.concatenate([data, np.zeros(-data.size % 8, np.uint8)]).reshape(-1, 8)
    return rows


def put_back(tensors: Tensors, rows: Mapping[str, Bytes]) -> None:
    """Write rows of `byte_rows` into the tensors they are from."""
    for name, tensor in tensors.items():
        data = byte_view(tensor, name)
        data[:] = rows[name].reshape(-1)[: data.size]


def checks(rows: Bytes) -> Bytes:
    """The check bytes of rows of 8 bytes: (rows,) uint8."""
    found = np.zeros(len(rows), np.uint8)
    for place, table in enumerate(_tables()):
        found ^= table[rows[:, place]]
    return found


@cache
def columns() -> tuple[int, ...]:
    """The columns of the 64 data bits: all 56 of weight 3, and 8 of weight 5.

    >>> len(set(columns())), sorted({column.bit_count() for column in columns()})
    (64, [3, 5])
    """
    threes = [sum(1 << bit for bit in bits) for bits in combinations(range(8), 3)]
    fives = [255 ^ sum(1 << bit for bit in bits) for bits in combinations(range(8), 3)]
    return tuple(threes + fives[::7])


@cache
def _tables() -> NDArray[np.uint8]:
    """What each value of each byte adds to the check byte: (8, 256)."""
    tables = np.zeros((8, 256), np.uint8)
    for place in range(8):
        for bit in range(8):
            with_bit = np.arange(256) >> bit & 1 == 1
            tables[place, with_bit] ^= np.uint8(columns()[8 * place + bit])
    return tables


@cache
def _position() -> NDArray[np.int64]:
    """From a syndrome to the data bit that is wrong, `_CHECK` for check bits, or `_UNKNOWN`."""
    found = np.full(256, _UNKNOWN, np.int64)
    found[list(columns())] = np.arange(64)
    found[[1 << bit for bit in range(8)]] = _CHECK
    return found
