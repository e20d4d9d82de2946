"""The real carrier: a true linear constraint on the weights themselves.

Weights are integers on a grid (`parimend.words.grid`) and a word of them satisfies H q = c, where c
is zero but for the free checks, which the seal keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import whole_number
from parimend.carriers.carrier import Carrier, Chosen, PlannedWord
from parimend.carriers.imposing import Alphabet, Draft, Imposing, Piece, pieces_of, positions_of
from parimend.codes import Sparse
from parimend.codes.budget import MOST_POWER
from parimend.codes.certificate import FEW
from parimend.dtypes import DTYPES
from parimend.errors import SpecError, WordError
from parimend.impose.rounding import round_held
from parimend.seal import SealedWord
from parimend.stores.base import Tensors
from parimend.stores.spread import Elements
from parimend.warning import warn
from parimend.words.grid import GRID_DTYPES, Grid, choose_grid, not_finite
from parimend.words.layout import Part, Word, whole

Project = Callable[[Sparse, NDArray[np.float64], Word], NDArray[np.float64]]
"""Moves a word (in grid steps) to a real codeword: (code, values, word) -> values."""

LARGE_MOVE = 0.3
"""Relative L2 change of a word from which accuracy is at risk and a warning is given."""

_ROOM = 1.0 / 32.0  # of the range of a grid, for exact rounding


@dataclass(frozen=True)
class Real(Imposing):
    """Linear constraints on the weights.

    Args:
        rows: number of checks of every word, instead of as many as are needed.
        bits: of a weight on its grid: 18 by default, of integers all that they have. With fewer,
            these stay in the range of fewer: int8 weights between -7 and 7 with 4.
        calibration: batches of inputs: the weights then move where that changes the outputs of the
            model least, not where the way is shortest. 500 inputs or more; a batch is a tensor, a
            tuple that begins with one, or a dict of keyword arguments.

    Example:
        >>> import torch, parimend as pm
        >>> model = torch.nn.Linear(512, 10)
        >>> pm.protect_(model, 210, pm.Real(bits=20))
        <Seal: real, 210 errors (0 guaranteed, 210 measured), 1 protected word of 5,130 elements>
    """

    bits: int | None = None
    calibration: Iterable[Any] | None = field(default=None, repr=False, compare=False)
    _project: Project | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits is not None:
            object.__setattr__(self, "bits", whole_number(self.bits, "bits"))

    name: ClassVar[str] = "real"
    families: ClassVar[tuple[str, ...]] = ("sparse",)
    code: ClassVar[type[Sparse]] = Sparse

    def fitted(self, model: Any, tensors: Tensors) -> Carrier:
        if self.calibration is None:
            return self
        from parimend.impose.surgeon import gentlest  # loads torch

        names = {part.name for part in tensors.whole()}
        return replace(self, calibration=None, _project=gentlest(model, self.calibration, names))

    def choose(
        self, words: Sequence[Word], tensors: Tensors, errors: int, seed: int
    ) -> list[Chosen]:
        self.require_held(words, GRID_DTYPES)
        placed = self._on_grids(words, tensors)
        return [self.code_for(word, bits, errors, seed) for word, bits in placed]

    def guarantee(
        self, chosen: Sequence[Chosen], errors: int, guaranteed: int, prove: bool = True
    ) -> list[Chosen]:
        return [_certified(each, guaranteed, prove) for each in chosen]

    def plan(self, chosen: Chosen, errors: int) -> PlannedWord:
        code, moved = chosen.code, math.sqrt(chosen.code.imposed / chosen.code.n)
        return replace(super().plan(chosen, errors), redundancy=code.redundancy, moved=moved)

    def alphabets(self, sealed: SealedWord) -> Sequence[Alphabet]:
        assert isinstance(sealed.code, Sparse)
        return grids_of(sealed.code, sealed.word)

    def draft(self, chosen: Chosen, tensors: Tensors) -> Draft:
        if self.calibration is not None:
            raise SpecError("calibration is for the modules of a model, which can be run")
        code, word, _ = chosen
        spread = tensors.spread
        pieces = pieces_of(word, tensors)
        mine = positions_of(pieces, word, tensors)
        before = _in_steps(pieces, grids_of(code, word))
        x = self._projected(code, mine, before, word, tensors)
        if shift := doublings(code, word, float(spread.largest(_size(x))[0])):
            word = Word(tuple(replace(p, exponent=p.exponent + shift) for p in word))
            before, x = before / 2.0**shift, x / 2.0**shift
        try:
            q, target = round_held(code, mine, x, spread)
        except WordError as error:
            raise WordError(f"{word.name}: {error}") from None
        squares = spread.sum(np.array([np.sum((q - before) ** 2), np.sum(before**2)]))
        moved = math.sqrt(squares[0] / max(squares[1], 1e-300))
        if self._project is None:
            _warn_if_far(word.name, moved)
        return Draft(code, word, target, list(_written(pieces, q, grids_of(code, word))), moved)

    def _projected(
        self, code: Sparse, mine: Elements, x: NDArray[np.float64], word: Word, tensors: Tensors
    ) -> NDArray[np.float64]:
        """The values of the nearest word with its imposed checks at zero that are held here."""
        if self._project is not None:
            if tensors.spread.several:
                raise SpecError(
                    "calibration is for models in one piece; train with constrain_ instead"
                )
            return self._project(code, x, word)
        columns, x = code.columns.take(mine), x.copy()
        for _ in range(2):  # the second time clears the rounding errors of the first
            checks = tensors.spread.sum(columns.multiply(x, np.zeros(code.m))) / code.unit
            if not (imposed := checks[: code.imposed]).any():
                break
            y = code.filled(code.solve_gram(imposed))
            columns.subtract_transposed(y / code.unit, x)
        return x

    def _on_grids(self, words: Sequence[Word], tensors: Tensors) -> Iterator[tuple[Word, int]]:
        """Words of parts with exponents, each with the bits of its grid; tensors with different
        numbers of bits go to different words.
        """
        grids: dict[str, Grid] = {}
        blank = set[str]()  # of floats, all zero
        for word in words:
            for part in word:
                if part.name not in grids:
                    # One grid per tensor, also where several words share it.
                    grids[part.name], largest = _grid_of(part, tensors, self.bits)
                    if not largest and DTYPES[part.dtype].is_float:
                        blank.add(part.name)
            placed = [
                (replace(p, exponent=grids[p.name].exponent), grids[p.name].bits) for p in word
            ]
            placed.sort(key=lambda item: item[1])
            for width, group in groupby(placed, key=lambda item: item[1]):
                yield Word(tuple(_beside([part for part, _ in group], blank))), width


def _beside(parts: Sequence[Part], blank: AbstractSet[str]) -> Sequence[Part]:
    """The parts of a word, those of zeros with the finest steps of the others: a projection moves
    all weights by about as many steps, and what is zero says nothing of how far that may be.
    """
    if blank.isdisjoint(part.name for part in parts):
        return parts
    others = (p for p in parts if p.name not in blank and DTYPES[p.dtype].is_float)
    finest = min((part.exponent for part in others), default=None)
    if finest is None:
        return parts
    return [replace(part, exponent=finest) if part.name in blank else part for part in parts]


def _certified(chosen: Chosen, guaranteed: int, prove: bool) -> Chosen:
    """The word in its code, or in that of one of the next seeds, with a certificate; unless it is
    to be proven, the word as it is, if its code may have one.
    """
    from parimend.decoders import certified, require_certifiable  # a check needs none

    word, weights = chosen.word, chosen.word.elements_within(guaranteed)
    if weights > FEW:
        most = FEW // word.elements_within(1)
        remedy = f"ask for guaranteed={most}, or take" if most else "take"
        raise SpecError(
            f"{word.name}: certificates are for {FEW} wrong weights at most, and guaranteed="
            f"{guaranteed} asks for {weights}, all in so many words of 32 bits: {remedy} "
            f"carrier='sidecar', which guarantees all errors up to {MOST_POWER:,}"
        )
    try:
        if not prove:
            require_certifiable(chosen.code, weights)
            return chosen
        proof = certified(chosen.code, weights)
    except SpecError as error:
        raise SpecError(
            f"{word.name}: {error}. More errors (or carrier=Real(rows=...)) have more "
            "checks, and protected words are shorter with only= and per= (--only, --per)"
        ) from None
    return Chosen(proof.code, word, proof)


def grids_of(code: Sparse, word: Word) -> list[Grid]:
    """The grid of every part."""
    return [Grid(code.word_bits, part.exponent) for part in word]


def _grid_of(part: Part, tensors: Tensors, bits: int | None) -> tuple[Grid, float]:
    """The grid of the whole tensor that a part belongs to, and the largest of its magnitudes.

    Raises:
        WordError: see `choose_grid`.
    """
    tensor = whole(part.name, part.dtype, part.shape)
    if part.dtype not in GRID_DTYPES:
        choose_grid(np.zeros(1), part.dtype, part.name, bits)  # says what is wrong
    values = tensors.read_held(tensor).view(DTYPES[part.dtype].numpy)
    finite = np.isfinite(values)
    wrong = int(tensors.spread.sum(np.array([np.count_nonzero(~finite)]))[0])
    if wrong:
        mine = tensors.spread.held(tensor).offsets[~finite][:1].tolist()
        first = tensor.index(min(tensors.spread.gather(mine)))
        raise not_finite(part.name, wrong, tensor.count, list(first))
    largest = tensors.spread.largest(_size(values))
    return choose_grid(largest, part.dtype, part.name, bits), float(largest[0])


def doublings(code: Sparse, word: Word, largest: float) -> int:
    """How often the steps of a word must be doubled, so that its largest weight has room.

    A projection that minds the loss may let weights grow. Coarser steps, all by the same factor,
    leave the constraint what it is. Integers have no other step than 1: rounding cuts off what has
    no room there.
    """
    if not all(DTYPES[part.dtype].is_float for part in word):
        return 0
    limit = Grid(code.word_bits, 0).limit * (1.0 - _ROOM)
    return math.frexp(largest / limit)[1] if limit <= largest < math.inf else 0


def _size(values: NDArray[Any]) -> NDArray[np.float64]:
    """The largest magnitude, (1,)."""
    low, high = (float(f(values, initial=0)) for f in (np.min, np.max))
    return np.array([max(-low, high)])


def _in_steps(pieces: Sequence[Piece], grids: Sequence[Grid]) -> NDArray[np.float64]:
    """All values, each in steps of its grid."""
    return np.concatenate(
        [piece.values.astype(np.float64) / grids[piece.number].step for piece in pieces]
    )


def _written(
    pieces: Sequence[Piece], q: NDArray[np.int64], grids: Sequence[Grid]
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of the integers of every piece, (k, item size)."""
    at = 0
    for piece in pieces:
        count = len(piece.values)
        new = grids[piece.number].write(q[at : at + count], piece.values.dtype)
        yield new.view(np.uint8).reshape(count, piece.values.itemsize)
        at += count


def _warn_if_far(name: str, moved: float) -> None:
    """Warn where a plain projection moved the weights so far that accuracy is at risk."""
    if moved > LARGE_MOVE:
        warn(
            f"{name}: the constraint moved the weights by {moved:.0%} (relative L2), which may "
            "cost accuracy: ask for fewer errors, protect more weights in one word, give "
            "calibration data, or train with the constraint",
        )
