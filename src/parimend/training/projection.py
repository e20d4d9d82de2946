"""Projecting parameters onto their codes while they are trained, where they are.

A projection looks before it moves anything: what an optimizer step does to the checks of a code is
small and spread over all of them, what a single wrong weight does is large and in a few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.carriers import Chosen
from parimend.dtypes import DTYPES
from parimend.errors import WordError
from parimend.names import some
from parimend.outcomes import Change
from parimend.stores.shards import Shards
from parimend.stores.spread import Held, common
from parimend.training.share import Share, require_shape, take_back_
from parimend.words.grid import Grid
from parimend.words.layout import Part

RTOL = 1e-6
"""How exactly a projection during training is solved for, relative to what it moves."""


class _Piece(NamedTuple):
    """What this process holds of one part of a word, and the step of its grid."""

    part: Part
    held: Held
    step: float

    def of(self, flat: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Its values; shares memory."""
        return flat[self.part.name][self.held.start : self.held.stop]


class Projection:
    """The words of some parameters.

    Args:
        parameters: by name; all in one piece, or all sharded alike.
        words: what is to be kept inside which code.
        shards: of the parameters.

    What reads or writes weights raises `MismatchError` if their shapes have changed.

    Raises:
        MismatchError: if a parameter is of another shape than the words; names it.

    Example:
        >>> from parimend.codes import Sparse
        >>> from parimend.words.layout import Word, whole
        >>> weight = torch.nn.Parameter(torch.randn(20, 100))
        >>> word = Chosen(Sparse(n=2000, m=64), Word((whole("w", "F32", (20, 100)),)))
        >>> projection = Projection({"w": weight}, [word], Shards({"w": weight}))
        >>> projection.project_(projection.checks())
        >>> projection.residual() < 1e-6
        True
    """

    def __init__(
        self, parameters: Mapping[str, torch.Tensor], words: Sequence[Chosen], shards: Shards
    ) -> None:
        self._words, self._shards = tuple(words), shards
        for part in (part for each in words for part in each.word):
            require_shape(part.name, parameters[part.name], torch.Size(part.shape))
        self._shapes = {name: shards.local(name).shape for name in parameters}
        self._pieces = [
            [
                _Piece(part, shards.held(part), Grid(each.code.word_bits, part.exponent).step)
                for part in each.word
            ]
            for each in words
        ]
        self._shares = [
            Share(
                each.code,
                [
                    (piece.held.shifted(first), piece.step)
                    for piece, first in zip(pieces, each.word.starts, strict=True)
                ],
            )
            for each, pieces in zip(words, self._pieces, strict=True)
        ]

    def checks(self) -> list[NDArray[np.float64]]:
        """H times every word, (m,) each, in the scale of `Sparse.matvec`.

        Collective if the parameters are sharded. Not finite where a weight is not.
        """
        flat = self._flat()
        sums = [self._sums(number, flat) for number in range(len(self._words))]
        together = self._shards.sum(np.concatenate(sums))  # all words in one sum
        return np.split(together, np.cumsum([word.code.m for word in self._words])[:-1])

    def checks_of(self, number: int) -> NDArray[np.float64]:
        """`checks` of one word, (m,); collective."""
        return self._shards.sum(self._sums(number, self._flat(number)))

    def _sums(self, number: int, flat: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
        """What this process holds adds to the checks of a word."""
        return self._shares[number].checks([piece.of(flat) for piece in self._pieces[number]])

    def require_finite(self, checks: Sequence[NDArray[np.float64]], steps: int) -> None:
        """Check what `checks` gave.

        Raises:
            WordError: if a weight is not finite; names the parameter.
        """
        if all(np.isfinite(each).all() for each in checks):
            return
        wrong = [name for name, values in self._flat().items() if not values.isfinite().all()]
        what = some(wrong) if wrong else "a shard in another process"
        raise WordError(
            f"{what} has non-finite values after {steps} steps: the training diverged, or the "
            "weights were damaged"
        )

    def project_(self, checks: Sequence[NDArray[np.float64]]) -> None:
        """Move the words to the nearest ones inside their codes; ``checks`` are what they fail."""
        flat = self._flat()
        for share, pieces, residual in zip(self._shares, self._pieces, checks, strict=True):
            if residual.any():
                y = share.code.solve_gram(residual, RTOL)
                share.subtract_([piece.of(flat) for piece in pieces], y)
        self._put_back(flat)

    def wild(self, number: int, scale: float = 1.0) -> NDArray[np.int64]:
        """Positions of a word whose weights are no numbers or far out of a range that is so many
        times that of their grid: (k,), increasing.

        Of more than m + 1 of them, which cannot be solved for, only some. Collective.
        """
        code, flat, first, found = self._words[number].code, self._flat(number), 0, []
        for piece in self._pieces[number]:
            wild = ~(piece.of(flat).abs() < scale * piece.step * 2.0**code.word_bits)
            if wild.any():
                found += (piece.held.offsets[wild.cpu().numpy()] + first).tolist()
            first += piece.part.count
        return np.array(sorted(self._shards.gather(found[: code.m + 1])), np.int64)

    def sizes(self, number: int) -> list[float]:
        """The largest magnitude of a weight in every part of a word; collective."""
        flat = self._flat(number)
        held = [piece.of(flat) for piece in self._pieces[number]]
        most = [each.abs().max() if each.numel() else each.new_zeros(()) for each in held]
        together = torch.stack([each.to(most[0].device) for each in most])  # and read at once
        return self._shards.largest(together.cpu().double().numpy()).tolist()

    def steps(self, number: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """The steps of the grids of weights of a word, (k,)."""
        word = self._words[number].word
        exponents = [word.parts[word.locate(i)[0]].exponent for i in positions.tolist()]
        return np.ldexp(1.0, np.array(exponents, int))

    def get(self, number: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights of a word at increasing positions, in grid steps; collective."""
        values = np.zeros(len(positions))
        for which, local, index, step in self._at(number, positions, self._flat(number)):
            values[which] = local[index].double().cpu().numpy() / step
        return self._shards.sum(values)

    def set_(self, number: int, positions: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Set weights of a word at increasing positions, in grid steps."""
        flat = self._flat(number)
        for which, local, index, step in self._at(number, positions, flat):
            local[index] = torch.from_numpy(values[which] * step).to(local)
        self._put_back(flat)

    def _at(
        self, number: int, positions: NDArray[np.int64], flat: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor, float]]:
        """For every piece: which of the positions are in it, its values, where, and the step."""
        first = 0
        for piece in self._pieces[number]:
            at, which = common(piece.held.offsets + first, positions)
            local = piece.of(flat)
            yield which, local, torch.from_numpy(at).to(local.device), piece.step
            first += piece.part.count

    def changes(
        self,
        number: int,
        positions: NDArray[np.int64],
        received: NDArray[np.float64],
        now: NDArray[np.float64],
    ) -> tuple[Change, ...]:
        """A record of what `get` gave before and after."""
        word = self._words[number].word
        changes = []
        for i, position in enumerate(positions.tolist()):
            k, offset = word.locate(position)
            part = word.parts[k]
            step, dtype = Grid(0, part.exponent).step, DTYPES[part.dtype].numpy
            with np.errstate(over="ignore"):
                old, new = (np.array(v[i] * step).astype(dtype).tobytes() for v in (received, now))
            changes.append(Change(part.name, part.index(offset), part.dtype, old, new))
        return tuple(changes)

    def residual(self) -> float:
        """The largest check, relative to the norm of its word."""
        flat = self._flat()
        squares = [
            sum(float(each.of(flat).double().square().sum()) / each.step**2 for each in pieces)
            for pieces in self._pieces
        ]
        sizes = np.sqrt(self._shards.sum(np.array(squares)))
        largest = [float(np.abs(checks).max()) for checks in self.checks()]
        return float((np.array(largest) / np.maximum(sizes, 1e-300)).max())

    def _flat(self, number: int | None = None) -> dict[str, torch.Tensor]:
        """The parameters as they are held here, flat; of all words, or of one."""
        names: Iterable[str] = self._shapes
        if number is not None:  # words may be thousands, of as many parameters
            names = dict.fromkeys(piece.part.name for piece in self._pieces[number])
        return {
            name: require_shape(name, self._shards.local(name), self._shapes[name]).reshape(-1)
            for name in names
        }

    def _put_back(self, flat: Mapping[str, torch.Tensor]) -> None:
        changed = [self._shards.local(name) for name in flat]
        for local, values in zip(changed, flat.values(), strict=True):
            take_back_(local, values)
        # Arrays of numpy change them behind the back of autograd.
        torch.autograd.graph.increment_version(changed)
