"""What the carriers that impose a code on the weights share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.base import Finding, Tensors, sha256_of
from parimend.codes import Sparse
from parimend.decoders import Prepared
from parimend.decoders.peeling import Peeling
from parimend.records import Decoding, Verdict
from parimend.seal import SealedWord
from parimend.words.layout import Part

DTYPES = {"F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2"}
"""numpy's names of the dtypes that can carry a code."""


class Alphabet(Protocol):
    """The integers that the elements of a part stand for."""

    def read(self, values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The integers, and which elements cannot be undamaged (their integers are 0)."""

    def write(self, integers: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The inverse of `read`."""

    def contains(self, integers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which integers stand for an element."""


class Sealed(NamedTuple):
    """A word brought into its code, not yet written.

    Attributes:
        word: its seal.
        data: the new bytes of every part, (count, item size).
        moved: relative L2 change.
    """

    word: SealedWord
    data: list[NDArray[np.uint8]]
    moved: float


def values_of(part: Part, tensors: Tensors) -> NDArray[Any]:
    """The elements of a part as numbers."""
    return tensors.read(part).view(DTYPES[part.dtype])


@lru_cache(maxsize=32)
def _prepared(code: Sparse) -> Prepared:
    return Peeling().prepare(code)


def decode_syndrome(
    code: Sparse, syndrome: NDArray[np.int64], erasures: NDArray[np.int64]
) -> Decoding | Finding:
    """What is wrong in a word, or the finding that nothing is, or that it cannot be told."""
    if not erasures.size and not syndrome.any():
        return Finding(Verdict.CLEAN)
    decoding = _prepared(code).decode(syndrome, erasures)
    if decoding.verdict is Verdict.CORRECTED:
        return decoding
    located = f", of which {erasures.size} are located" if erasures.size else ""
    return Finding(
        Verdict.UNCORRECTABLE,
        unexplained=decoding.unexplained,
        reason=f"more wrong words than the code can repair{located}",
    )


def decode(word: SealedWord, tensors: Tensors, alphabets: Sequence[Alphabet]) -> Finding:
    """Decode one word; ``alphabets`` has one entry per part."""
    code = word.code
    values = [values_of(part, tensors) for part in word.parts]
    pairs = [alphabet.read(v) for alphabet, v in zip(alphabets, values, strict=True)]
    q = np.concatenate([integers for integers, _ in pairs])
    erasures = np.flatnonzero(np.concatenate([erased for _, erased in pairs]))
    assert isinstance(code, Sparse)
    decoding = decode_syndrome(code, code.syndrome(q) - word.target, erasures)
    if isinstance(decoding, Finding):
        if decoding.verdict is Verdict.CLEAN and sha256_of(word, tensors) != word.sha256:
            return Finding(
                Verdict.UNCORRECTABLE, reason="all checks hold, but the SHA-256 is not as sealed"
            )
        return decoding
    originals = q[decoding.positions] - decoding.values
    elements = []
    ends = np.cumsum([part.count for part in word.parts])
    for position, original in zip(decoding.positions.tolist(), originals, strict=True):
        number = int(np.searchsorted(ends, position, side="right"))
        if not alphabets[number].contains(original):
            return Finding(Verdict.UNCORRECTABLE, reason="a decoded weight is out of range")
        offset = position - int(ends[number] - word.parts[number].count)
        received = values[number][offset]
        repaired = alphabets[number].write(original, received.dtype)
        elements.append((number, offset, received.tobytes(), repaired.tobytes()))
    return Finding(Verdict.CORRECTABLE, [e for e in elements if e[2] != e[3]])
