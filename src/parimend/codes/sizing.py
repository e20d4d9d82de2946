"""How many checks a sparse code takes for a number of errors, and what its columns are like.

The numbers are those that simulations found to be enough, see ``benchmarks/decoding.py``.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from parimend.errors import SpecError

FEW = 500
"""Checks up to which those to spare make up for any structure."""
EVEN = 750
"""Parts per thousand of the columns that more checks may own, where pairs are not told apart."""


class Sizes(NamedTuple):
    """What a code is made of; see `parimend.codes.structure.SparseIntegers`.

    Attributes:
        has_spare: whether there are checks to spare, so that pairs need not be told apart.
        members: columns in a check that may explain it by chance.
    """

    m: int
    weights: tuple[tuple[int, int], ...]
    own: int
    free: int
    has_spare: bool
    members: int


def sizes_for(
    n: int,
    errors: int,
    given: int | None,
    pairs_possible: Callable[[int], bool],
    least_owned: int,
) -> Sizes:
    """The sizes of the code for words of length ``n`` with any ``errors`` of them wrong.

    Args:
        n: length of the word.
        errors: number of wrong words to repair, 1 or more.
        given: number of checks, if it is not to be the smallest that is enough.
        pairs_possible: whether two errors in one of so many checks can be told apart.
        least_owned: columns that a check owns if there are so many.

    Raises:
        SpecError: if n is too small for so many errors, or ``given`` does not fit; names an n or
            the number of checks that would do.

    >>> sizes_for(5120, 210, None, lambda m: True, least_owned=7)[:4]
    (173, ((2, 500), (3, 500)), 12, 16)
    """
    root = math.sqrt(errors)
    fewest = _fewest_checks(n)
    without = max(math.ceil(1.22 * errors + 3.5 * root) + 12, fewest)
    m = given
    if m is None:
        m = max(math.ceil(0.70 * errors + 1.5 * root) + 4, fewest)
        # More checks make it easier; with as many as words they are refused below.
        m += bisect_left(range(m, min(without, n)), True, key=pairs_possible)
    pairs = pairs_possible(m)
    free = 16 if m >= 32 else m // 2
    imposed = m - free
    light = lightest(n, m, 2 if pairs else 3)
    weights: tuple[tuple[int, int], ...]
    if pairs:
        share = min(max(500, -(-8000 * imposed // n)), 1000)
        weights = ((light, share), (light + 1, 1000 - share))
    else:
        weights = ((light, 920), (max(16, light + 1), 80)) if m >= 64 else ((light, 1000),)
        share = weights[0][1]
    own = min(12, choices(free, light - 1, 12), n * share // 1000 // max(imposed, 1))
    if own < 4 and given and n >= 5 * fewest:
        raise SpecError(
            f"{given} checks do not fit {n} weights, {fewest} to {n // 5} do: take as many, or "
            "protect more weights in one word"
        )
    if own < 4:
        raise SpecError(
            f"{n} weights are too few to repair {errors} errors, {5 * without} are enough: ask "
            "for fewer errors or protect more weights in one word"
        )
    if m > FEW:
        # Owned columns have their other checks among the later ones: where nearly all columns are
        # owned, these have most of the entries, and peeling takes more checks.
        most, least = (900, 4) if pairs else (EVEN, least_owned)
        own = min(own, max(n * most // 1000 // imposed, least))
    if not pairs and m >= 96 and n < 64 * m:
        # The columns that the last imposed checks own have all their checks among these and the
        # free ones. In a short word they are many, and wrong ones among them get stuck.
        free = 48
    return Sizes(m, weights, own, free, m >= without, 1 if pairs else n * light // m)


def choices(m: int, d: int, enough: int) -> int:
    """The number of supports of weight ``d`` in ``m`` checks, or any number from ``enough`` on.

    With m checks claimed, the number itself may be too long to be written down.

    >>> choices(6, 3, 100), choices(10**9, 10**8, 100) >= 100
    (20, True)
    """
    count = 1
    for k in range(min(d, m - d)):
        if count >= enough:
            break
        count = count * (m - k) // (k + 1)
    return count if d <= m else 0


def _fewest_checks(n: int) -> int:
    """The fewest checks that give n columns distinct supports: 24 up to two million columns.

    >>> _fewest_checks(5120), _fewest_checks(17_200_000)
    (24, 28)
    """
    m = 24
    while lightest(n, m, 3) == m:
        m += 1
    return m


def lightest(n: int, m: int, light: int) -> int:
    """The lightest column weight that gives half of n columns a support of their own."""
    while light < m and 0.35 * choices(m, light, 2 * n) < n / 2:
        light += 1
    return light
