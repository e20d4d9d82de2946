"""What the carriers that impose a code on the weights share.

Every process works on the elements that it holds, see `parimend.stores.spread`; with tensors in one
piece that is all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import whole_number
from parimend.carriers.base import sha256_of
from parimend.carriers.carrier import Carrier, Chosen, Sealing
from parimend.carriers.finding import Element, Finding, Place
from parimend.codes.structure import SparseIntegers
from parimend.dtypes import DTYPES
from parimend.errors import MismatchError, SpecError, WordError
from parimend.names import listed, some
from parimend.outcomes import Verdict
from parimend.seal import SealedWord
from parimend.stores.base import Tensors
from parimend.stores.spread import Elements, Held, common
from parimend.words.layout import Word

if TYPE_CHECKING:
    from parimend.decoders.decoding import Decoding


class Alphabet(Protocol):
    """The integers that the elements of a part stand for."""

    def read(self, values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The integers, and which elements cannot be undamaged (their integers are 0)."""

    def write(self, integers: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The inverse of `read`."""

    def contains(self, integers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which integers stand for an element."""


class Piece(NamedTuple):
    """What this process holds of one part of a word.

    Attributes:
        number: of the part.
        first: position of the part in the word.
        held: which elements of the part.
        values: (k,), these elements.
    """

    number: int
    first: int
    held: Held
    values: NDArray[Any]

    @property
    def elements(self) -> Elements:
        """Positions of the values in the word."""
        return self.held.shifted(self.first)


class Draft(NamedTuple):
    """A word brought into its code, not yet written.

    Attributes:
        code: of the word.
        word: its parts, which may lie on coarser grids than before.
        target: its syndrome.
        data: the new bytes of every part that this process holds, (k, item size).
        moved: relative L2 change.
    """

    code: SparseIntegers
    word: Word
    target: NDArray[np.int64]
    data: Sequence[NDArray[np.uint8]]
    moved: float


@dataclass(frozen=True)
class Imposing(Carrier):
    """A carrier whose redundancy is in the weights themselves.

    Args:
        rows: number of checks of every word, instead of as many as are needed.
    """

    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None:
            object.__setattr__(self, "rows", whole_number(self.rows, "rows"))

    moves: ClassVar[bool] = True
    code: ClassVar[type[SparseIntegers]]

    @abstractmethod
    def alphabets(self, sealed: SealedWord) -> Sequence[Alphabet]:
        """One for every part."""

    @abstractmethod
    def draft(self, chosen: Chosen, tensors: Tensors) -> Draft:
        """Bring a word into its code; nothing is written."""

    def require_held(self, words: Sequence[Word], dtypes: Collection[str]) -> None:
        """Refuse words with tensors that this carrier cannot hold.

        Raises:
            WordError: names the first of them, and their dtypes.
        """
        others = {part.name: part.dtype for word in words for part in word}
        others = {name: dtype for name, dtype in others.items() if dtype not in dtypes}
        if not others:
            return
        kinds, name = listed(sorted(set(others.values()))), next(iter(others))
        left = f"it out with only='!{name}'"
        if len(others) > 1:
            left = "them out with only='!NAME' for each, or a pattern for several"
        raise WordError(
            f"{some(others)} {'is' if len(others) == 1 else 'are'} {kinds}, but the {self.name} "
            f"carrier holds {listed(dtypes)}: leave {left}, or use carrier='sidecar', which holds "
            "any dtype"
        )

    def code_for(self, word: Word, word_bits: int, errors: int, seed: int) -> Chosen:
        """The code for a word in which any ``errors`` words of 32 bits may be wrong.

        Raises:
            SpecError: if it is too short for so many; names its first tensor.
        """
        weights = word.elements_within(errors)
        try:
            code = self.code.for_errors(
                word.elements, weights, m=self.rows, word_bits=word_bits, seed=seed
            )
        except SpecError as error:
            words = f"{errors} errors are {weights} weights: " if weights != errors else ""
            raise SpecError(f"{word.parts[0].name}: {words}{error}") from None
        return Chosen(code, word)

    def seal_(self, chosen: Sequence[Chosen], tensors: Tensors) -> Sealing:
        drafts = [self.draft(each, tensors) for each in chosen]
        for draft in drafts:
            for part, data in zip(draft.word, draft.data, strict=True):
                tensors.write_held(part, data)
        words = tuple(
            SealedWord(*draft[:3], sha256_of(draft.word, tensors), each.certificate)
            for each, draft in zip(chosen, drafts, strict=True)
        )
        return Sealing(words, tuple(draft.moved for draft in drafts))

    def find(self, sealed: SealedWord, tensors: Tensors, erased: Sequence[Place] = ()) -> Finding:
        code, spread, alphabets = sealed.code, tensors.spread, self.alphabets(sealed)
        assert isinstance(code, SparseIntegers)
        pieces = pieces_of(sealed.word, tensors)
        read = [alphabets[piece.number].read(piece.values) for piece in pieces]
        syndrome = np.zeros(code.m, np.int64)
        impossible = [np.empty(0, np.int64)]
        for piece, (q, wrong) in zip(pieces, read, strict=True):
            code.columns.take(piece.elements).multiply(q, syndrome)
            if wrong.any():
                impossible.append(piece.first + piece.held.offsets[wrong])
        located, count = _all(impossible, code, tensors)
        erasures = np.union1d(located, _elements_in(erased, sealed.word))
        decoding = _decode(code, spread.sum(syndrome) - sealed.target, erasures, count)
        if isinstance(decoding, Finding):
            # Sums of sharded weights are cheap, their SHA-256 is not: all of them would travel.
            clean = decoding.verdict is Verdict.CLEAN and not spread.several
            if clean and sha256_of(sealed.word, tensors) != sealed.sha256:
                reason = "all checks hold, but the SHA-256 is not as sealed"
                return Finding(Verdict.UNCORRECTABLE, reason=reason)
            return decoding
        elements = []
        for piece, (q, _) in zip(pieces, read, strict=True):
            elements += _elements(piece, q, alphabets[piece.number], decoding)
        elements = sorted(spread.gather(elements))
        if not all(original for *_, original in elements):
            return Finding(Verdict.UNCORRECTABLE, reason="a decoded weight is out of range")
        return Finding(Verdict.CORRECTABLE, elements)


def pieces_of(word: Word, tensors: Tensors) -> list[Piece]:
    """What this process holds of a word.

    Raises:
        MismatchError: if a tensor has become shorter than it was; names it.
    """
    pieces = [
        Piece(
            number,
            first,
            tensors.spread.held(part),
            tensors.read_held(part).view(DTYPES[part.dtype].numpy),
        )
        for number, (part, first) in enumerate(zip(word, word.starts, strict=True))
    ]
    for (_, _, held, values), part in zip(pieces, word, strict=True):
        if len(values) != held.stop - held.start:
            raise MismatchError(
                f"{part.name} has become another one than was protected, of shape "
                f"{list(part.shape)}: protect the tensors again"
            )
    return pieces


def positions_of(pieces: Sequence[Piece], word: Word, tensors: Tensors) -> Elements:
    """Where the values of all pieces, one after the other, are in the word."""
    if not tensors.spread.several:
        return slice(0, word.elements)
    return np.concatenate([piece.first + piece.held.offsets for piece in pieces])


def _all(
    erased: Sequence[NDArray[np.int64]], code: SparseIntegers, tensors: Tensors
) -> tuple[NDArray[np.int64], int]:
    """The erasures of all processes, and how many they are.

    More of them than checks cannot be decoded, and it does not matter then which they are.
    """
    mine = np.concatenate(erased)
    if not tensors.spread.several:
        return mine, mine.size
    total = int(tensors.spread.sum(np.array([mine.size]))[0])
    gathered = tensors.spread.gather(mine[: code.m + 1].tolist())
    return np.array(sorted(gathered), np.int64), total


def _decode(
    code: SparseIntegers, syndrome: NDArray[np.int64], erasures: NDArray[np.int64], located: int
) -> Decoding | Finding:
    """What is wrong in a word, or the finding that nothing is, or that it cannot be told."""
    if not located and not syndrome.any():
        return Finding(Verdict.CLEAN)
    from parimend.decoders import prepared  # what is clean needs none

    decoding = prepared(code).decode(syndrome, erasures)
    if decoding.verdict is Verdict.CORRECTED:
        return decoding
    where = f", of which {located} are located" if located else ""
    return Finding(
        Verdict.UNCORRECTABLE,
        unexplained=decoding.unexplained,
        reason=f"more wrong words than the code can repair{where}",
    )


def _elements_in(places: Sequence[Place], word: Word) -> NDArray[np.int64]:
    """The positions of the elements in places of memory."""
    elements = (
        word.starts[place.part] + offset
        for place in places
        for offset in place.elements(word.parts[place.part])
    )
    return np.fromiter(elements, np.int64)


def _elements(
    piece: Piece, q: NDArray[np.int64], alphabet: Alphabet, decoding: Decoding
) -> list[Element]:
    """The wrong elements of a piece; without the right bytes where there are none."""
    at, which = common(piece.elements, decoding.positions)
    originals = q[at] - decoding.values[which]
    right = alphabet.contains(originals)
    repaired = alphabet.write(np.where(right, originals, 0), piece.values.dtype)
    offsets = piece.held.offsets[at] if len(at) else at
    found = []
    for i, offset, fits, new in zip(at.tolist(), offsets.tolist(), right, repaired, strict=True):
        received = piece.values[i].tobytes()
        original = new.tobytes() if fits else b""
        if received != original:
            found.append((piece.number, offset, received, original))
    return found
