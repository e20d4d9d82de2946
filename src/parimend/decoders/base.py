"""What a decoder is: prepared once for a code, then syndrome in, damage out.

A decoder sees the syndrome of the damage and which words are erased (known to be wrong, by how much
is not known). It never sees the word, the weights or the truth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.base import Code
from parimend.codes.sums import Sums, SumsCode
from parimend.decoders.decoding import Decoding
from parimend.errors import SpecError
from parimend.outcomes import Verdict

_DECODERS: list[type[Decoder]] = []


class Decoder(ABC):
    """The settings of a decoding method; subclasses are frozen dataclasses."""

    name: ClassVar[str]
    """Name of the method, as users know it."""
    families: ClassVar[tuple[str, ...]]
    """Families of codes that it can decode."""
    usual: ClassVar[bool] = True
    """Whether it may be what is meant where no decoder is named; see `decoder_for`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            _DECODERS.append(cls)

    def prepare(self, code: Code) -> Prepared:
        """Do what depends on the code alone.

        Raises:
            SpecError: if this method cannot decode this family.
        """
        if code.family not in self.families:
            raise SpecError(
                f"decoder {self.name!r} decodes {' and '.join(self.families)} codes, "
                f"not {code.family}"
            )
        return self._prepare(code)

    @abstractmethod
    def _prepare(self, code: Any) -> Prepared: ...


class Prepared(ABC):
    """A decoder made ready for one code. Safe to call from several threads."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def decode(
        self,
        syndrome: NDArray[Any],
        erasures: NDArray[np.int64] | None = None,
        noise: float = 0.0,
    ) -> Decoding:
        """Find the damage with the fewest wrong words that explains ``syndrome``.

        Args:
            syndrome: `Code.syndrome_shape`, `Code.syndrome_dtype`: H (received - original). It is
                not changed.
            erasures: (k,) distinct positions that are known to be wrong or lost.
            noise: bound on the part of each check that is rounding noise and not damage, in the
                units of the syndrome; 0 where arithmetic is exact.

        Returns:
            A `Decoding`. ``corrected`` is said only if the damage explains every check.

        Raises:
            SpecError: if shapes, dtypes or positions do not fit the code.
        """
        code = self.code
        syndrome = np.asarray(syndrome)
        if syndrome.shape != code.syndrome_shape or syndrome.dtype != code.syndrome_dtype:
            raise SpecError(
                f"a syndrome of this {code.family} code has shape {code.syndrome_shape} and dtype "
                f"{code.syndrome_dtype}, not {syndrome.shape} and {syndrome.dtype}"
            )
        erased = np.unique(np.empty(0, np.int64) if erasures is None else erasures)
        # A mask must not pass for the positions 0 and 1.
        if erased.size and erased.dtype.kind not in "iu":
            raise SpecError(f"erasures must be integer positions, not {erased.dtype}")
        erased = erased.astype(np.int64)
        if erased.size and not 0 <= erased[0] <= erased[-1] < code.n:
            raise SpecError(f"erasures must lie in 0 .. {code.n - 1}")
        if not noise >= 0.0:
            raise SpecError(f"noise must be a bound >= 0, not {noise}")
        if not erased.size and not noise and not syndrome.any():
            return nothing(Verdict.CLEAN, syndrome)
        return self._decode(syndrome.copy(), erased, noise)

    @abstractmethod
    def _decode(
        self, syndrome: NDArray[Any], erasures: NDArray[np.int64], noise: float
    ) -> Decoding: ...


class PreparedSums(Prepared):
    """A decoder of sums of bit patterns: residues, without rounding noise."""

    code: SumsCode

    def _decode(
        self, syndrome: NDArray[Any], erasures: NDArray[np.int64], noise: float
    ) -> Decoding:
        if noise:
            raise SpecError("sums of bit patterns carry no rounding noise: noise must be 0")
        if int(syndrome.max()) >= self.code.prime:
            raise SpecError(f"sums of this code are residues, below {self.code.prime}")
        return self._decode_sums(syndrome, erasures)

    @abstractmethod
    def _decode_sums(self, syndrome: Sums, erasures: NDArray[np.int64]) -> Decoding: ...


def nothing(verdict: Verdict, syndrome: NDArray[Any], **fields: Any) -> Decoding:
    """A decoding without damage: clean, or uncorrectable with all checks unexplained."""
    dtype = np.float64 if syndrome.dtype.kind == "f" else np.int64
    return Decoding(verdict, np.empty(0, np.int64), np.empty(0, dtype), **fields)


def decoder_for(code: Code) -> Decoder:
    """The usual decoder of a code's family, with its usual settings: the first that may be.

    Raises:
        SpecError: if there is none.
    """
    for each in _DECODERS:
        if each.usual and code.family in each.families:
            return each()
    raise SpecError(f"there is no decoder for {code.family} codes")


@lru_cache(maxsize=32)
def prepared(code: Code) -> Prepared:
    """The usual decoder, made ready for a code, and kept."""
    return decoder_for(code).prepare(code)
