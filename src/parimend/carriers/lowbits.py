"""The lowbits carrier: a finished float32 network carries its checks in its lowest mantissa bits.

Bit patterns q of the weights satisfy H q = c modulo 2^64, where c is zero but for the free checks,
which the seal keeps. It takes no training and no data, and moves weights by about 1e-6 relative.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.base import Finding, Tensors
from parimend.carriers.imposed import Sealed, decode, values_of
from parimend.codes import LowBits
from parimend.errors import WordError
from parimend.impose.lowering import lower_into
from parimend.seal import SealedWord
from parimend.words.grid import require_finite
from parimend.words.layout import Part


class Patterns:
    """Elements of 32 bits as unsigned integers: none is impossible."""

    def read(self, values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return values.view("<u4").astype(np.int64), np.zeros(values.shape, bool)

    def write(self, integers: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.asarray(integers).astype("<u4").view(dtype)

    def contains(self, integers: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray((integers >= 0) & (integers < 1 << 32))


def require_float32(parts: tuple[Part, ...]) -> None:
    """Refuse words that this carrier cannot hold.

    Raises:
        WordError: names the tensor and its dtype.
    """
    for part in parts:
        if part.dtype != "F32":
            raise WordError(
                f"{part.name} is {part.dtype}, but the lowbits carrier holds F32: leave it out "
                "with only=..., or use carrier='sidecar', which holds any dtype"
            )


def seal_word(code: LowBits, parts: tuple[Part, ...], tensors: Tensors) -> Sealed:
    """Find the bit patterns inside ``code`` that are near those of a word; nothing is written.

    Raises:
        WordError: if a weight is not finite, or cannot be moved; names the tensor.
    """
    values = [values_of(part, tensors) for part in parts]
    for part, v in zip(parts, values, strict=True):
        all_of_it = part.count == math.prod(part.shape)
        require_finite(v.reshape(part.shape) if all_of_it else v, part.name, part.start)
    before = np.concatenate(values)
    try:
        lowered = lower_into(code, before.view("<u4"))
    except WordError as error:
        raise WordError(f"{parts[0].name}: {error}") from None
    after = lowered.word.view("<f4")
    size = float(np.linalg.norm(before.astype(np.float64)))
    moved = float(np.linalg.norm(after.astype(np.float64) - before) / max(size, 1e-300))
    ends = np.cumsum([part.count for part in parts])[:-1]
    data = [piece.view(np.uint8).reshape(-1, 4) for piece in np.split(lowered.word, ends)]
    digest = hashlib.sha256(lowered.word.tobytes()).digest()
    return Sealed(SealedWord(code, parts, lowered.target, digest), data, moved)


def find(word: SealedWord, tensors: Tensors) -> Finding:
    """Decode one word; see `parimend.carriers.base.diagnose`."""
    return decode(word, tensors, [Patterns()] * len(word.parts))
