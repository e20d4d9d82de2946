"""What a code is: a value that knows its parity-check matrix H.

A code is a frozen dataclass whose fields are its spec. Equal specs give equal codes on every
platform and library version; everything large is derived from the spec on first use.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.gram import conjugate_gradients
from parimend.codes.promise import Promise
from parimend.errors import SealError, SpecError
from parimend.record import field_names
from parimend.words.layout import Word

MAX_WORDS = 16 * ((1 << 32) - 1)
"""Longest word of any code: 256 GiB of 32-bit words."""


_FAMILIES: dict[str, type[Code]] = {}


@dataclasses.dataclass(frozen=True)
class Code(ABC):
    """A parity-check matrix H with m rows (checks) and n columns (words).

    Args:
        n: number of words, the length of the code.
        m: number of checks.
        seed: selects one code of the family, 0 <= seed < 2^64.
        version: of the construction. A new construction gets a new number and the old one is kept,
            so that old seals stay readable.

    Raises:
        SpecError: if no such code exists.
    """

    n: int
    m: int
    seed: int = 0
    version: int = 1

    family: ClassVar[str]
    """Name of the family in specs and seals."""
    versions: ClassVar[tuple[int, ...]] = (1,)
    """Constructions of this family that are known here."""
    word_dtype: ClassVar[np.dtype[Any]]
    """dtype of words, shape (n,)."""
    syndrome_dtype: ClassVar[np.dtype[Any]]
    """dtype of syndromes, shape `syndrome_shape`."""
    erasures: ClassVar[bool] = False
    """See `Promise.erasures`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "family" in cls.__dict__:
            _FAMILIES[cls.family] = cls

    def __post_init__(self) -> None:
        for name in ("n", "m", "seed", "version"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise SpecError(f"{name} of a {self.family} code must be an integer, not {value!r}")
        if self.n < 1 or self.m < 1:
            raise SpecError(
                f"a {self.family} code needs n >= 1 and m >= 1, not n={self.n}, m={self.m}"
            )
        if not 0 <= self.seed < 1 << 64:
            raise SpecError(f"seed must be in 0 .. 2^64 - 1, not {self.seed}")
        if self.version not in self.versions:
            raise SpecError(
                f"version {self.version} of {self.family} codes is unknown here: "
                "install a newer parimend"
            )

    @property
    def redundancy(self) -> float:
        """m / n, the part of the degrees of freedom that the code takes."""
        return self.m / self.n

    @property
    def most_errors(self) -> int:
        """No decoder repairs more wrong words than this."""
        return min(2 * self.m, self.n)

    @property
    def proves(self) -> bool:
        """Whether words whose syndrome is as sealed are as sealed: of all others, unless somebody
        makes them for this code, a share of 2^-128 at most has the same one.
        """
        return False

    def most_bytes(self, word: Word) -> int:
        """No decoder puts right more bytes of a word than this."""
        return self.most_errors * max(part.itemsize for part in word)

    def promise(self, errors: int, word: Word) -> Promise:
        """What is known of a word of this code that is to repair ``errors`` wrong words of 32 bits.

        By default nothing; families that are sealed know more.

        Args:
            errors: the budget.
            word: one that this code fits.
        """
        return Promise()

    @property
    def syndrome_shape(self) -> tuple[int, ...]:
        """Shape of a syndrome: (m,) unless a check has several sums."""
        return (self.m,)

    def spec(self) -> dict[str, Any]:
        """The spec as plain JSON values; `from_spec` turns it back into the code."""
        values = {name: getattr(self, name) for name in field_names(type(self))}
        return {"family": self.family, **values}

    def syndrome(self, word: NDArray[Any]) -> NDArray[Any]:
        """H times ``word``.

        Args:
            word: (n,), `word_dtype`.

        Returns:
            `syndrome_shape`, `syndrome_dtype`.

        Raises:
            SpecError: if shape or dtype do not fit.
        """
        word = np.asarray(word)
        if word.shape != (self.n,) or word.dtype != self.word_dtype:
            raise SpecError(
                f"a word of this {self.family} code has shape ({self.n},) and dtype "
                f"{self.word_dtype}, not {word.shape} and {word.dtype}"
            )
        return self._syndrome(np.ascontiguousarray(word))

    @abstractmethod
    def _syndrome(self, word: NDArray[Any]) -> NDArray[Any]: ...

    def fits(self, word: Word) -> bool:
        """Whether the word is one of this code's: as long, of elements that it can hold."""
        return False

    def pack(self, target: NDArray[Any]) -> bytes:
        """The syndrome of sealed words, as few bytes as it takes.

        Raises:
            SealError: if codes of this family are not sealed.
        """
        raise SealError(f"{self.family} codes are not sealed")

    def unpack(self, data: bytes | memoryview) -> NDArray[Any]:
        """The inverse of `pack`: `syndrome_shape`.

        Raises:
            SealError: if it cannot be; no more room is made than the data take.
        """
        raise SealError(f"{self.family} codes are not sealed")

    @abstractmethod
    def column(self, i: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The checks that word ``i`` takes part in, and its coefficient in each."""

    def dense(self) -> NDArray[Any]:
        """H as a (m, n) array built column by column: the oracle that tests compare against."""
        H = np.zeros((self.m, self.n), dtype=self.syndrome_dtype)
        for i in range(self.n):
            rows, coefficients = self.column(i)
            H[rows, i] = coefficients
        return H


class RealCode(Code):
    """A code whose words can be seen as real vectors: it has a null space to project onto."""

    @abstractmethod
    def matvec(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """H x in the reals, (n,) -> (m,), with H scaled so that its coefficients are about 1.

        Raises:
            ValueError: if x has another shape.
        """

    @abstractmethod
    def rmatvec(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The transpose of `matvec`, (m,) -> (n,).

        Raises:
            ValueError: if y has another shape.
        """

    def project(
        self,
        x: NDArray[np.float64],
        target: NDArray[np.float64] | None = None,
        rows: int | None = None,
    ) -> NDArray[np.float64]:
        """The nearest real vector with H x = target: x - H^T (H H^T)^-1 (H x - target).

        Args:
            x: (n,) float64.
            target: (m,) float64 in the scale of `matvec`; zero if absent.
            rows: the first so many checks shall be met, and the others may be what they like; all
                by default.

        Raises:
            SpecError: if H has dependent rows and the target cannot be met.
        """
        x = np.array(x, dtype=np.float64)
        for _ in range(2):  # the second time clears the rounding errors of the first
            residual = self.matvec(x)
            if target is not None:
                residual -= target
            if not residual[:rows].any():
                break
            x -= self.rmatvec(self.filled(self.solve_gram(residual[:rows])))
        return x

    def filled(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Multipliers of the first rows, (k,), as those of all, (m,): zero for the others."""
        return np.concatenate([y, np.zeros(self.m - len(y))])

    def solve_gram(self, residual: NDArray[np.float64], rtol: float = 1e-13) -> NDArray[np.float64]:
        """The y with H H^T y = residual, (k,) -> (k,), where H is the first k of m rows.

        By conjugate gradients: H H^T is well conditioned for every family here, so that a few dozen
        products with H and H^T are enough at any size.

        Args:
            residual: (k,) float64.
            rtol: how exactly, relative to the norm of the residual; a direct solver is exact.

        Raises:
            SpecError: if H has dependent rows.
        """
        try:
            return self._solve_gram(residual, rtol)
        except ArithmeticError:
            raise self.dependent_rows() from None

    def _solve_gram(self, residual: NDArray[np.float64], rtol: float) -> NDArray[np.float64]:
        k = len(residual)
        return conjugate_gradients(
            lambda y: self.matvec(self.rmatvec(self.filled(y)))[:k], residual, rtol
        )

    def dependent_rows(self) -> SpecError:
        """The error to raise when H H^T turns out to be singular."""
        return SpecError(
            f"the {self.m} rows of this {self.family} code (n={self.n}, seed={self.seed}) are "
            "close to dependent: take fewer rows or another seed"
        )


def from_spec(spec: Mapping[str, Any]) -> Code:
    """Rebuild a code from `Code.spec`.

    Raises:
        SpecError: for an unknown family, an unknown or missing field, or a code that cannot exist.
    """
    fields = dict(spec)
    family = fields.pop("family", None)
    cls = _FAMILIES.get(family) if isinstance(family, str) else None
    if cls is None:
        known = ", ".join(sorted(_FAMILIES))
        raise SpecError(f"unknown code family {family!r}: this version knows {known}")
    known_fields = set(field_names(cls))
    if unknown := fields.keys() - known_fields:
        raise SpecError(f"unknown fields in the spec of a {family} code: {sorted(unknown)}")
    try:
        return cls(**fields)
    except TypeError as error:
        raise SpecError(f"the spec of a {family} code is incomplete: {error}") from None
