"""What a carrier is: where redundancy lives, and everything that depends on it.

A carrier is a frozen dataclass whose fields are its options. It chooses codes for words, seals
words in them, and reads out of a sealed word what is wrong with it. Everything else asks a carrier,
found by its name (`carrier`) or by the code of a sealed word (`carrier_of`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, TypedDict

from parimend.arguments import require
from parimend.carriers.finding import Finding, Place
from parimend.carriers.together import Clean, clean_by_sha256
from parimend.codes import Certificate, Code, Promise, SumsCode
from parimend.codes.certificate import promised
from parimend.errors import SealError, SpecError
from parimend.outcomes import Verdict
from parimend.record import Record
from parimend.risk.crowd import Crowd
from parimend.seal import CheckedWord, SealedWord
from parimend.stores.base import Tensors
from parimend.words.layout import Per, Word, bytes_in


class Options(TypedDict, total=False):
    """What can be asked of every protection, whatever its carrier is.

    Attributes:
        only: shell patterns; the tensors whose names match one of them, and none that begins with
            ``!``. All by default.
        per: one protected word for everything, per tensor, or per output row.
        seed: selects the codes.
        guaranteed: any that many wrong 32-bit words, of the ``errors`` asked for, are to be
            repaired in each protected word, always, with a proof. A sidecar for up to 1,000 errors
            proves all of them anyway. Of real carriers a code is chosen that has a certificate,
            which is kept in the seal; 3 at most, and it takes seconds.
    """

    only: Sequence[str] | None
    per: Per
    seed: int
    guaranteed: int | None


class Chosen(NamedTuple):
    """A word and the code that it is to be sealed in, with its certificate if it has one."""

    code: Any
    word: Word
    certificate: Certificate | None = None

    def promise(self, errors: int) -> Promise:
        """What is promised of the word when it is sealed; see `parimend.codes.Code.promise`."""
        return promised(self.code, self.word, errors, self.certificate)


@dataclass(frozen=True, repr=False)
class PlannedWord(Record):
    """What protecting one word takes.

    Attributes:
        name: the tensor, or the first and last of several; with the elements and the bits, if it
            is not all of them: ``fc.weight[3] .. fc.bias[3]``.
        elements: number of protected elements.
        nbytes: that their protected bits take.
        code: that it is sealed in.
        promise: how many wrong words are repaired, and how that is known.
        redundancy: part of the degrees of freedom that the constraint takes; ``real`` only.
        moved: relative L2 change of the weights to expect, of ``real`` from a plain projection.
        crowd: where events strike more in it than elsewhere; see `parimend.risk.crowd.Crowd`.
    """

    name: str
    elements: int
    nbytes: int
    code: Any
    promise: Promise
    redundancy: float = 0.0
    moved: float = 0.0
    crowd: Crowd = field(default_factory=Crowd)

    @property
    def checks(self) -> int:
        """Number of checks."""
        checks: int = self.code.m
        return checks

    @property
    def seal_bytes(self) -> int:
        """Bytes of the word's checks in the seal."""
        size: int = self.code.packed_bytes
        return size

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; ``guaranteed``, ``bound`` and the others are keys of their own."""
        content = Record.as_dict(replace(self, code=self.code.spec()))
        promise = content.pop("promise")
        del content["crowd"]
        more = {"checks": self.checks, "seal_bytes": self.seal_bytes}
        return {**content, **more, **promise}


class Sealing(NamedTuple):
    """Sealed words, and how far each was moved (relative L2); nothing if they were not."""

    words: tuple[SealedWord, ...]
    moved: tuple[float, ...] = ()


_BY_NAME: dict[str, type[Carrier]] = {}
_BY_FAMILY: dict[str, type[Carrier]] = {}


@dataclass(frozen=True)
class Carrier(ABC):
    """Where redundancy lives: what `Sidecar`, `Real` and `LowBits` have in common."""

    name: ClassVar[str]
    """As users write it, and in seals."""
    families: ClassVar[tuple[str, ...]]
    """Of codes whose words are read by this carrier."""
    moves: ClassVar[bool]
    """Whether weights are changed, so that the seal can be kept inside a file."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            _BY_NAME[cls.name] = cls
            _BY_FAMILY.update(dict.fromkeys(cls.families, cls))

    def fitted(self, model: Any, tensors: Tensors) -> Carrier:
        """The carrier with everything that it has to know of a model, of which these tensors are
        protected: itself, if that is nothing.

        Raises:
            SpecError: if the model cannot tell.
        """
        return self

    @abstractmethod
    def choose(
        self, words: Sequence[Word], tensors: Tensors, errors: int, seed: int
    ) -> list[Chosen]:
        """Codes that repair any ``errors`` wrong words of 32 bits, and what each is for.

        Raises:
            SpecError: if there are none; names a tensor.
            WordError: if a tensor cannot be held; names it.
        """

    @abstractmethod
    def guarantee(
        self, chosen: Sequence[Chosen], errors: int, guaranteed: int, prove: bool = True
    ) -> list[Chosen]:
        """The same words in codes of which it is proven that any ``guaranteed`` wrong words of 32
        bits are repaired, always.

        Unless it is to ``prove`` that, it only refuses words and codes of which it cannot be, as
        far as that is seen at once: a proof may take minutes.

        Raises:
            SpecError: if there are none; names a tensor and says why.
        """

    @abstractmethod
    def seal_(self, chosen: Sequence[Chosen], tensors: Tensors) -> Sealing:
        """Seal words; weights are written once all words are computed.

        Raises:
            WordError: if a word cannot be sealed; names a tensor. Nothing was changed then.
        """

    @abstractmethod
    def find(self, sealed: SealedWord, tensors: Tensors, erased: Sequence[Place] = ()) -> Finding:
        """Decode one word; ``erased`` are places that may well be wrong, whatever is in them."""

    def explains(self, found: Finding, sealed: CheckedWord, tensors: Tensors) -> bool:
        """Whether a word would be as it was, as far as its checks tell, if what was found was put
        back now: it may have changed since. Asked where no SHA-256 tells.
        """
        return True

    def clean(self, words: Sequence[SealedWord], tensors: Tensors) -> Iterator[Clean]:
        """Which of the small words are as sealed, as far as that is seen of many together. What
        the others are is for `find` to say. By default, SHA-256 tells.
        """
        return clean_by_sha256(words, tensors)

    def look(self, sealed: SealedWord, tensors: Tensors) -> Generator[int, None, bool]:
        """Look whether a word is as it was, piece by piece; yields the bytes of every piece."""
        clean = self.find(sealed, tensors).verdict is Verdict.CLEAN
        yield sum(part.nbytes for part in sealed.parts)
        return clean

    def plan(self, chosen: Chosen, errors: int) -> PlannedWord:
        """What sealing a word takes that is to repair so many errors, and what that promises."""
        code, word, _ = chosen
        return PlannedWord(
            name=word.name,
            elements=word.elements,
            nbytes=bytes_in(word),
            code=code,
            promise=chosen.promise(errors),
            crowd=_crowded(code, word),
        )

    def renew(self, sealed: Sequence[SealedWord], tensors: Tensors) -> list[SealedWord]:
        """Seal updated weights anew, in the codes of before.

        Raises:
            SpecError: for carriers that live in the weights: an update takes them out of the code.
        """
        raise self.not_renewed()

    def not_renewed(self) -> SpecError:
        """The error to raise where weights are to be updated that carry a code."""
        return SpecError(
            f"the {self.name} carrier lives in the weights: after an update protect them again, "
            "or train with constrain_"
        )


def carrier(wanted: Carrier | str) -> Carrier:
    """A carrier, by its name with the options it has by default.

    Raises:
        SpecError: if there is none of that name.

    Example:
        >>> carrier("real")
        Real(rows=None, bits=None)
    """
    if isinstance(wanted, Carrier):
        return wanted
    if isinstance(wanted, str) and wanted in _BY_NAME:
        return _BY_NAME[wanted]()
    if isinstance(wanted, type) and issubclass(wanted, Carrier):
        raise SpecError(f"{wanted.__name__} is a class: give {wanted.__name__}(), with its options")
    require(wanted, "carrier", "a name, or a Carrier with its options", str)
    names = ", ".join(repr(name) for name in _BY_NAME)
    raise SpecError(f"unknown carrier {wanted!r}: there are {names}")


def carrier_of(code: Code) -> Carrier:
    """The carrier that reads words of a code.

    Raises:
        SealError: if there is none.
    """
    if code.family not in _BY_FAMILY:
        raise SealError(f"{code.family} codes are not sealed")
    return _BY_FAMILY[code.family]()


def _crowded(code: Code, word: Word) -> Crowd:
    """The memory of a word where events strike more in it than they do in other words: tensors that
    lie closer together than words of 32 bits (a carrier that counts weights takes them one after
    the other, whatever tensor they are in), and planes.
    """
    if isinstance(code, SumsCode) and (word.odd or word.masked):
        return Crowd(sum(part.nbytes for part in word), word.odd)
    return Crowd()
