"""A proof, for the code at hand, that any few wrong words are repaired.

Let d be the damage, at most t wrong words, d' another explanation of its syndrome by at most 3,
and z = d - d'. Damage is smaller in magnitude than L = 2^word_bits, as words lie between -L/2 and
L/2. So H z = 0 modulo 2^64, z has k <= t + 3 nonzero entries, |z_i| < 2 L, and |z_i| < L for all
but min(k, t + 3 - k) of them: only where d and d' are both wrong can z_i be larger. The
certificate proves that there is no such z:

1. *One column.* No check holds a single column of z: a z_i = 0 modulo 2^64 with an odd a and
   |z_i| < 2^63 means z_i = 0.
2. *Two columns.* For every two columns that meet in a check, the pairs (x, y) with a x + b y = 0
   modulo 2^64 are a lattice of determinant 2^64. Euclid's algorithm finds a vector f of a basis,
   with entries of at most 2^32; the larger of the two is at least 3 L. Every vector of the lattice
   is at least as long as f or as 2^64 / |f| (Gram-Schmidt), so at least 3 L; one with both entries
   below 2 L is shorter than 2.83 L. So no check holds exactly two columns of z.
3. *Stopping sets.* Hence each check that the columns of z touch holds three of them. All sets of
   at most t + 3 columns with this property are enumerated; the connected ones are enough, as each
   connected part of z is such a z by itself. For each, the z with H z = 0 modulo 2^64 are a
   lattice. Its basis is reduced until in exact integers no Gram-Schmidt vector is shorter than
   L sqrt(k + 3 min(k, t + 3 - k)); then no vector of the lattice is, but z would be.

The search of `parimend.decoders.peeling` then finds every explanation by at most three words. Some
check holds one of them or two: else three columns would have the same checks and be a stopping
set, and such a set is not accepted. By 1 and 2 the syndrome is not zero there, so that the search
looks at this check. One word is named by it. Two words are: with f of 2., the second basis vector
g is shorter than 2^64 / (2.9 L); (x, y) is shorter than 1.42 L; so the products of (x, y) with f
and g are below 2^63, are known exactly and not only modulo 2^64, and give x and y. What is left
is an explanation by fewer words.

So the peeling decoder repairs any t wrong words, erased ones counted, always: its rules can
explain the syndrome by at most three words only if these are the damage itself, and if they do
not, the search is asked, which finds the damage and nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

from parimend import kernels
from parimend.codes.base import Code
from parimend.codes.certificate import FEW, MOST_BITS, Certificate
from parimend.codes.sparse import Sparse
from parimend.decoders.lattice import none_shorter_than
from parimend.decoders.peeling import Peeling, PreparedPeeling
from parimend.errors import SpecError

_STEPS = 2 * 10**7
"""Of the enumeration; up to half a minute."""
_SETS = 10**5
"""Stopping sets that are looked at, a few in a millisecond, to make a certificate."""
_SEEDS = 8
"""So many codes are tried for one with a certificate: most have one."""


class AnotherSeedError(SpecError):
    """A certificate is refused for what the seed has drawn: the next one may do better."""


def certify(code: Code, errors: int = FEW, most: int = _SETS) -> Certificate:
    """Prove that any ``errors`` wrong words are repaired by `Peeling` in its default settings.

    Takes some seconds for 5,120 words.

    Args:
        code: a `Sparse` code.
        errors: 1 to 3.
        most: stopping sets; where there are more, it is given up.

    Raises:
        SpecError: if that cannot be proven: names the columns that stand against it.

    Example:
        >>> certify(Sparse.for_errors(n=150, errors=3)).statement
        'any 3 wrong words of 150 are repaired, always, with the 24 checks of seed 0'
    """
    prepared, what = require_certifiable(code, errors), _cannot(errors)
    assert isinstance(code, Sparse)
    start, row, coefficient = code.columns
    pair, i, k = kernels.on("stopping").closest_pair(*prepared.rows, prepared.inverse, coefficient)
    if pair < 3 << code.word_bits:
        raise AnotherSeedError(
            f"{what}: columns {i} and {k} may cancel in a check; take another seed"
        )
    sets, ended = kernels.on("stopping").stopping_sets(
        start, row, *prepared.rows[:2], errors + FEW, _STEPS
    )
    if not ended:
        raise SpecError(f"{what}: the search takes more than {_STEPS:,} steps; take more checks")
    if len(sets) > most:
        raise SpecError(
            f"{what}: {len(sets):,} sets of columns would have to be looked at; take more checks"
        )
    found = [[int(i) for i in columns if i >= 0] for columns in sets]
    if left := [columns for columns in found if not _excluded(code, columns, errors)]:
        shown = "; ".join(", ".join(map(str, columns)) for columns in left[:8])
        raise AnotherSeedError(
            f"{what}: damage of {len(left)} sets of columns may have two explanations: {shown}"
            f"{'; ...' * (len(left) > 8)}. Take another seed or more checks"
        )
    sizes = Counter(len(columns) for columns in found)
    return Certificate(code, errors, int(pair), tuple(sorted(sizes.items())))


def require_certifiable(code: Code, errors: int) -> PreparedPeeling:
    """Refuse a code that is seen at once to have no certificate, whatever its seed.

    Args:
        code, errors: see `certify`.

    Returns:
        Its decoder, of which a certificate says something.

    Raises:
        SpecError: says why there can be none.
    """
    if not 1 <= errors <= FEW:
        raise SpecError(f"certificates are for 1 to {FEW} wrong words, not {errors}")
    what = _cannot(errors)
    if type(code) is not Sparse or code.word_bits > MOST_BITS:
        raise SpecError(
            f"{what}: only sparse codes on words of at most {MOST_BITS} bits tell two wrong words "
            f"in one check apart, not this {code.family} code; take the carrier 'real'"
        )
    prepared = PreparedPeeling(code, Peeling().max_pairs)
    if not prepared.uses_pairs:
        raise SpecError(
            f"{what}: too many pairs of the {code.n} words meet in the {code.m} checks; take fewer "
            "words or more checks"
        )
    return prepared


def _cannot(errors: int) -> str:
    return f"any {errors} wrong words cannot be proven to be repaired"


@lru_cache(maxsize=32)
def certified(code: Sparse, errors: int = FEW) -> Certificate:
    """The certificate of a code, or of the first of its next seeds that has one.

    Raises:
        SpecError: if another seed does not help, or a few did not; see `certify`.

    Example:
        >>> certified(Sparse.for_errors(n=5120, errors=210, m=320, seed=1)).code.seed
        2
    """
    last = min(code.seed + _SEEDS, 1 << 64) - 1
    for seed in range(code.seed, last):
        try:
            return certify(replace(code, seed=seed), errors)
        except AnotherSeedError:
            pass
    try:
        return certify(replace(code, seed=last), errors)
    except AnotherSeedError as error:
        raise SpecError(f"{error}. Seeds {code.seed} to {last} were tried") from None


def verify_certificate(certificate: Certificate) -> None:
    """Prove a certificate again, from its code alone; takes as long as `certify`.

    Raises:
        SpecError: if the code has no such certificate, or another one.

    Example:
        >>> verify_certificate(certify(Sparse.for_errors(n=150, errors=3)))
    """
    proven = certify(certificate.code, certificate.errors, most=_STEPS)
    if proven != certificate:
        raise SpecError(
            f"this certificate is not that of its code: it states {certificate.pair} and "
            f"{certificate.sets}, the code gives {proven.pair} and {proven.sets}; make a new one"
        )


def _excluded(code: Sparse, columns: list[int], errors: int) -> bool:
    """Whether no z of the module's proof has exactly these nonzero entries."""
    k = len(columns)
    if k <= FEW:
        return False
    entries = [dict(zip(*(part.tolist() for part in code.column(i)), strict=True)) for i in columns]
    checks = sorted(set().union(*entries))
    matrix = [[entry.get(j, 0) for entry in entries] for j in checks]
    square = (k + 3 * min(k, errors + FEW - k)) << 2 * code.word_bits
    return none_shorter_than(matrix, square)
