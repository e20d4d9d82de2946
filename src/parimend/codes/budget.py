"""Which code on sums a number of errors asks for."""

from __future__ import annotations

from functools import lru_cache

from parimend.arguments import whole_number
from parimend.codes.hashed import Hashed
from parimend.codes.power import MAX_ERRORS
from parimend.codes.screened import Screened
from parimend.codes.sums import SumsCode

MOST_POWER = 1000
"""So many errors at most are met with power sums: with more, hashed sums are faster and smaller."""
_CHECK = 4  # power sums for a check


def sums_for(n: int, errors: int, seed: int = 0, *, each: int = 1) -> SumsCode:
    """The code on sums that repairs any ``errors`` wrong ones of n words at the least cost.

    Up to `MOST_POWER` errors that is proven, see `parimend.codes.power`, if there may be so many
    power sums; beyond, it is measured, see `Hashed.for_errors`.

    Args:
        n: number of words.
        errors: so many are wrong at most.
        seed: selects the code.
        each: so many words an error makes wrong, at most; see `Word.words_within`.

    Raises:
        SpecError: if ``errors`` is not positive, or n is too large.

    Example:
        >>> [type(sums_for(10**6, t)).__name__ for t in (4, 210, 10_000)]
        ['Screened', 'Screened', 'Hashed']
    """
    return _sums_for(n, whole_number(errors, least=1), seed, each)


@lru_cache(maxsize=1024, typed=True)
def _sums_for(n: int, errors: int, seed: int, each: int) -> SumsCode:
    """Kept, since words of one length may be thousands, and share what is derived from the code."""
    t = min(each * errors, n)
    if min(errors, n) > MOST_POWER or t > MAX_ERRORS:
        return Hashed.for_errors(n, t, seed)
    return Screened(n, 2 * t + _CHECK, seed, first=_CHECK)
