"""Bringing bit patterns into a code through their lowest bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.lowbits import LowBits
from parimend.errors import SpecError, WordError
from parimend.impose.lattice import kernel_modulo

_SIGN = np.uint32(1 << 31)
_ROOM = 1 << 14  # patterns may move so far: hundreds of times the usual
_SMALLEST = (1 << 23) + _ROOM  # a normal number: subnormal weights would slow the network down
_LARGEST = (255 << 23) - _ROOM


class Lowered(NamedTuple):
    """Bit patterns inside a code.

    Attributes:
        word: (n,) uint32.
        target: (m,) int64, its syndrome: zero but for the last ``free`` checks.
    """

    word: NDArray[np.uint32]
    target: NDArray[np.int64]


def require_room(code: LowBits) -> None:
    """Refuse a code whose checks own too few weights to hold without moving them far, whatever
    these are: the patterns with which one holds lie 2^(64 / own) apart in each of them.

    Raises:
        SpecError: says how far.

    Example:
        >>> require_room(LowBits.for_errors(2000, 210))
        >>> require_room(LowBits.for_errors(1500, 210))
        Traceback (most recent call last):
        parimend.errors.SpecError: weights would move by 32768 units in the last place, as each ...
    """
    if (half := 2.0 ** (64 / code.own) / 2.0) >= _ROOM:
        raise SpecError(f"weights would move by {half:.0f} {_too_few(code)}")


def lower_into(code: LowBits, patterns: NDArray[np.uint32]) -> Lowered:
    """The bit patterns of the code near ``patterns``.

    Weights smaller than 1.2e-38 that have to move (zeros too) become about as large as that.

    Args:
        code: a code on bit patterns.
        patterns: (n,) uint32, of finite float32 numbers.

    Raises:
        WordError: if a weight is within 0.2 % of the largest float32 number.

    Example:
        >>> code = LowBits.for_errors(5120, 50)
        >>> weights = np.random.default_rng(0).normal(size=5120).astype(np.float32)
        >>> lowered = lower_into(code, weights.view(np.uint32))
        >>> bool(code.syndrome(lowered.word.astype(np.int64))[: code.imposed].any())
        False
        >>> bool(np.allclose(lowered.word.view(np.float32), weights, rtol=1e-4, atol=0))
        True
    """
    owned = code.owned.ravel()
    word = patterns.astype(np.int64)
    sign, magnitude = np.divmod(word[owned], int(_SIGN))
    if (magnitude > _LARGEST).any():
        raise WordError("a weight is too close to the largest float32 number to be moved")
    word[owned] = sign * int(_SIGN) + np.maximum(magnitude, _SMALLEST)
    before = word.copy()
    start, _, coefficient = code.columns
    own = coefficient[start[code.owned]]
    bases = np.array([kernel_modulo(a) for a in own]).reshape(*own.shape, own.shape[1])
    syndrome = code.syndrome(word)
    inverse = np.array([pow(int(a), -1, 1 << 64) for a in own[:, 0]], np.uint64)
    kernels.on("clearing").clear_modulo(*code.columns, code.owned, inverse, bases, word, syndrome)
    steps = int(np.abs(word - before).max(initial=0))
    if steps >= _ROOM:
        raise WordError(f"a weight would move by {steps} {_too_few(code)}")
    return Lowered(word.astype(np.uint32), syndrome)


def _too_few(code: LowBits) -> str:
    return (
        f"units in the last place, as each check has only {code.own} to move: protect more weights "
        "in one word, or ask for fewer errors"
    )
