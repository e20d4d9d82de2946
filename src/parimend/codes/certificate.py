"""What is proven of one code, as a record: any few wrong words are repaired, always.

`parimend.decoders.certificate` proves it and says how. The record is small and apart from that, so
that a seal can keep it: anybody can prove it again, from the code alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from parimend.codes.base import Code
from parimend.codes.promise import Promise
from parimend.codes.sparse import Sparse
from parimend.errors import SpecError
from parimend.words.layout import Word

FEW = 3
"""The peeling decoder searches for so many wrong words in every combination; no certificate says
more."""
MOST_BITS = 28
"""Of the words of a code with a certificate: 3 L is shorter then than the 2^31.5 that 2^64 / |f| is
at least; see `parimend.decoders.certificate`."""
_FACTS = ("errors", "pair", "sets")


@dataclass(frozen=True)
class Certificate:
    """What `parimend.decoders.certify` proved of a code.

    Args:
        code: of which it is true.
        errors: any that many wrong words, erased ones counted, are repaired by peeling, always.
        pair: of every pair of columns that meet in a check, a first short vector that makes them
            cancel was found; the least of all the larger entries.
        sets: (number of columns, number of stopping sets so large), for all of which it was shown
            that no two explanations differ there.

    Raises:
        SpecError: if it cannot be the certificate of its code; says why. That it is, its
            verification says.
    """

    code: Sparse
    errors: int
    pair: int
    sets: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        code, errors, pair = self.code, self.errors, self.pair
        if type(code) is not Sparse or code.word_bits > MOST_BITS:
            raise SpecError(
                f"certificates are of sparse codes on words of at most {MOST_BITS} bits, not of "
                f"this {code.family} code"
            )
        if any(type(x) is not int for x in (errors, pair, *chain(*self.sets))):
            raise SpecError("a certificate consists of whole numbers")
        if not 1 <= errors <= FEW:
            raise SpecError(f"a certificate is for 1 to {FEW} wrong words, not for {errors}")
        if pair < 3 << code.word_bits:
            raise SpecError(
                f"a certificate with pairs of {pair} proves nothing of words of {code.word_bits} "
                f"bits: it takes {3 << code.word_bits}"
            )
        sizes, most = [size for size, _ in self.sets], errors + FEW
        possible = sorted({size for size in sizes if FEW < size <= most})
        if sizes != possible or any(count < 1 for _, count in self.sets):
            raise SpecError(
                f"a certificate counts sets of {FEW + 1} to {most} columns in this order, not of "
                f"{sizes}"
            )

    @classmethod
    def of(cls, code: Code, facts: Mapping[str, Any]) -> Certificate:
        """The certificate of a code with these `facts`.

        Raises:
            SpecError: if there is none such.
        """
        if not isinstance(facts, Mapping) or sorted(facts) != sorted(_FACTS):
            raise SpecError(f"a certificate consists of {', '.join(_FACTS)}")
        errors, pair, sets = (facts[name] for name in _FACTS)
        try:
            counted = tuple((size, count) for size, count in sets)
        except (TypeError, ValueError):
            raise SpecError("a certificate counts sets in pairs of numbers") from None
        return cls(code, errors, pair, counted)  # type: ignore[arg-type]

    @property
    def facts(self) -> dict[str, Any]:
        """All but the code, as JSON values; see `of`."""
        return {"errors": self.errors, "pair": self.pair, "sets": [list(s) for s in self.sets]}

    @property
    def statement(self) -> str:
        """What is proven, in words."""
        code = self.code
        return (
            f"any {self.errors} wrong words of {code.n:,} are repaired, always, "
            f"with the {code.m} checks of seed {code.seed}"
        )

    @property
    def noticed(self) -> int:
        """Any that many wrong words change some check: else some of them and the others would be
        two explanations of one syndrome.
        """
        return self.errors + FEW


def promised(code: Code, word: Word, errors: int, certificate: Certificate | None) -> Promise:
    """What is promised of a word in its code, which is made for so many errors.

    Args:
        code: its code.
        word: its elements; all of them in a wrong word of 32 bits may be wrong.
        errors: wrong words of 32 bits.
        certificate: of the code, if there is one.

    Example:
        >>> from parimend.words.layout import whole
        >>> code = Sparse.for_errors(150, 6, word_bits=16)
        >>> word = Word((whole("w", "I16", (150,)),))
        >>> promised(code, word, 3, Certificate(code, 3, 10**6, ((6, 40),))).guaranteed
        1
    """
    promise = code.promise(errors, word)
    if certificate is None:
        return promise
    elements = word.elements_within(1)
    return replace(
        promise,
        guaranteed=max(promise.guaranteed, min(certificate.errors // elements, errors)),
        noticed=max(promise.noticed, certificate.noticed // elements),
    )
