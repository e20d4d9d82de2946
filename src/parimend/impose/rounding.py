"""Exact rounding: from real numbers near a code to an integer word inside it.

Integers near to the code (`parimend.impose.near`) leave a residual of a few units in every check.
The checks are then cleared one after the other: each moves the columns that it owns by a short
integer vector that cancels its residual exactly and, because the other checks of those columns come
later, disturbs no check that is already clear.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes.sparse import Sparse
from parimend.errors import SpecError, WordError
from parimend.impose.lattice import kernel
from parimend.impose.near import near
from parimend.stores.spread import Elements, Spread, common

_KNOWN = WeakKeyDictionary[Sparse, tuple[NDArray[Any], ...]]()
"""What `_clearing` gave for codes that are still in use: thousands of words may have one."""
_ROOMS = (0, 1, 2, 4, 8, 12)  # sixteenths of the range, left free for moves of owned columns


class Rounded(NamedTuple):
    """An integer word inside a code.

    Attributes:
        word: (n,) int64.
        target: (m,) int64, its syndrome: zero but for the last `Sparse.free` checks.
        moved: root of the summed squares of word - x, in grid steps.
    """

    word: NDArray[np.int64]
    target: NDArray[np.int64]
    moved: float


def round_into(code: Sparse, x: NDArray[np.float64]) -> Rounded:
    """The integer word of the code near ``x``.

    It is in the range of the code's words, also where ``x`` is not. If a check moves a column that
    it owns out of range, all owned columns start farther from the ends, so that they have room.

    Args:
        code: a sparse code.
        x: (n,) float64, in grid steps; best a real codeword (`Sparse.project`).

    Raises:
        SpecError: if ``x`` has another shape.
        WordError: if an entry is not finite, or no word in range is found.

    Example:
        >>> code = Sparse(n=2000, m=64)
        >>> x = code.project(np.random.default_rng(0).normal(size=2000) * 3e4)
        >>> rounded = round_into(code, x)
        >>> int(np.abs(code.syndrome(rounded.word)[: code.imposed]).max())
        0
    """
    if x.shape != (code.n,):
        raise SpecError(f"a word of this code has shape ({code.n},), not {x.shape}")
    if not np.isfinite(x).all():
        raise WordError(f"element {int(np.argmin(np.isfinite(x)))} of the word is not finite")
    word, syndrome = round_held(code, slice(0, code.n), x, Spread())
    return Rounded(word, syndrome, float(np.linalg.norm(word - x)))


def round_held(
    code: Sparse, mine: Elements, x: NDArray[np.float64], spread: Spread
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`round_into` for the elements that this process holds.

    The checks are cleared by moving the few columns that they own; only those are brought together.

    Args:
        code: of the word.
        mine: the positions that are held.
        x: (k,) float64, their values in grid steps.
        spread: how the word is spread over processes.

    Returns:
        (k,) int64, the integers held here, and (m,) int64, the syndrome of the word.

    Raises:
        WordError: see `round_into`.
    """
    limit = 1 << (code.word_bits - 1)
    columns = code.columns.take(mine)
    clearing = _KNOWN.get(code)
    if clearing is None:
        clearing = _KNOWN[code] = _clearing(code)
    here, where = common(mine, code.owned.ravel())
    edges = np.full(len(x), limit - 1.0)
    for sixteenths in _ROOMS:
        edges[here] = limit - 1 - limit * sixteenths // 16
        q = near(code, columns, x, edges, spread)
        syndrome = spread.sum(columns.multiply(q, np.zeros(code.m, np.int64)))
        owned = np.zeros(code.owned.size, np.int64)
        owned[where] = q[here]
        owned = spread.sum(owned)
        kernels.on("clearing").clear_exactly(*clearing, owned, syndrome)  # changes both
        q[here] = owned[where]
        if _worst(q, spread) < limit:
            return q, syndrome
    crowded = code.n < 100 * code.m  # elsewhere rounding leaves more than owned columns can take
    remedy = "more weights in one word, fewer errors" if crowded else "fewer weights in one word"
    raise WordError(
        f"{code.m} checks cannot be imposed on {code.n} weights that stay below {limit} steps: "
        f"take {remedy}, more bits where the dtype has them, or carrier='sidecar', which moves "
        "no weights"
    )


def _worst(values: NDArray[Any], spread: Spread) -> float:
    """The largest magnitude in the whole word."""
    return float(spread.largest(np.array([np.abs(values).max(initial=0)], np.float64))[0])


def _clearing(code: Sparse) -> tuple[NDArray[Any], ...]:
    """What clearing the imposed checks takes: the columns that they own, by their entries; which of
    these every check owns, (imposed, own); their coefficients in it, and what `kernel` makes of
    these.
    """
    columns = code.columns.take(code.owned.ravel())
    numbers = np.arange(code.owned.size).reshape(code.owned.shape)
    start, _, coefficient = code.columns
    own = coefficient[start[code.owned]]  # supports are sorted and the owner comes first
    bases = np.empty((code.imposed, code.own - 1, code.own), np.int64)
    units = np.empty((code.imposed, code.own), np.int64)
    for j in range(code.imposed):
        bases[j], units[j] = kernel(own[j])
    return (*columns, numbers, own, bases, units)
