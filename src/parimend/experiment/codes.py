"""Bare codes with their decoders as targets: no model, no seal, no SHA-256 behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.codes import Gaussian, Sparse, SumsCode, restore
from parimend.decoders import Decoder, Peeling, Prepared, decoder_for
from parimend.experiment.trials import Answer, Faults
from parimend.impose.rounding import round_into
from parimend.outcomes import Verdict
from parimend.words.grid import choose_grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint32]


class CodeTarget:
    """Weights on a grid, inside a sparse code, with a decoder and no SHA-256 behind it.

    A state is (n,) float32.

    Args:
        code: the code.
        weights: (n,) float32; they are rounded into the code, as the real carrier does.
        decoder: of the code; peeling by default.
    """

    def __init__(
        self, code: Sparse, weights: NDArray[np.float32], decoder: Decoder | None = None
    ) -> None:
        self.code = code
        self.grid = choose_grid(weights, "F32", "weights", code.word_bits)
        rounded = round_into(code, code.project(weights.astype(np.float64) / self.grid.step))
        self.intact = self.grid.write(rounded.word, np.dtype(np.float32))
        self.target = rounded.target
        self.prepared = (decoder or Peeling()).prepare(code)

    def damaged(self, faults: Faults, seed: int) -> NDArray[np.float32]:
        state = self.intact.copy()
        faults.draw({"weights": state}, seed).apply_({"weights": state})
        return state

    def repair_(self, state: NDArray[np.float32]) -> Answer:
        q, off = self.grid.read(state)
        erased = np.flatnonzero(off)
        decoding = self.prepared.decode(self.code.syndrome(q) - self.target, erased)
        if decoding.verdict is Verdict.CORRECTED:
            q[decoding.positions] -= decoding.values
            for wrong in (decoding.positions, erased):  # also an erased zero, whose damage is 0
                state[wrong] = self.grid.write(q[wrong], state.dtype)
        return Answer(decoding.verdict, len(decoding.positions))

    def same(self, state: NDArray[np.float32]) -> bool:
        return state.tobytes() == self.intact.tobytes()


@dataclass
class Received:
    """A word with damage.

    Attributes:
        word: (n,) float64; zero where an element is known to be wrong.
        syndrome: (m,) float64, what the checks say about the damage.
        erased: (k,) int64, increasing: the elements that are known to be wrong.
    """

    word: Floats
    syndrome: Floats
    erased: Ints


class DenseTarget:
    """A word of a dense real code with its decoder; a state is `Received`.

    The checks of the intact word are taken as known: the problem at its easiest.

    Args:
        code: the code.
        decoder: of the code.
        intact: (n,) float64 or float32, whose bits are what is damaged; zeros by default, since the
            decoder sees the damage alone.
        tolerance: two words are the same if no element differs by more; arithmetic is not exact.
        limit: elements of this magnitude and more, and what is no number, are known to be wrong.
    """

    def __init__(
        self,
        code: Gaussian,
        decoder: Decoder,
        intact: NDArray[np.floating[Any]] | None = None,
        tolerance: float = 1e-9,
        limit: float = np.inf,
    ) -> None:
        self.code, self.prepared = code, decoder.prepare(code)
        self.intact = np.zeros(code.n) if intact is None else intact
        self.tolerance, self.limit = tolerance, limit

    def damaged(self, faults: Faults, seed: int) -> Received:
        word = self.intact.copy()
        faults.draw({"weights": word}, seed).apply_({"weights": word})
        return self.received(word)

    def received(self, word: NDArray[np.floating[Any]]) -> Received:
        """The state of a damaged word."""
        right = np.abs(word) < self.limit
        known = np.where(right, word, 0).astype(np.float64)
        erased = np.flatnonzero(~right)
        return Received(known, self.code.syndrome(known - self.intact), erased)

    def repair_(self, state: Received) -> Answer:
        decoding = self.prepared.decode(state.syndrome, state.erased)
        state.word[decoding.positions] -= decoding.values
        return Answer(decoding.verdict, len(decoding.positions))

    def same(self, state: Received) -> bool:
        return self.error(state) <= self.tolerance

    def error(self, state: Received) -> float:
        """The largest difference from the intact word."""
        return float(np.abs(state.word - self.intact).max(initial=0.0))


@dataclass
class Struck:
    """The words that damage struck, and what it did to the sums: all that a decoder depends on.

    Attributes:
        prepared: the decoder.
        positions: (k,) int64, increasing: the words that are wrong.
        original: (k,) uint32.
        received: (k,) uint32.
        changed: what the damage added to the sums.
        repaired: (k,) uint32 after a repair; None if it names other words, or values that no word
            can have.
    """

    prepared: Prepared
    positions: Ints
    original: Words
    received: Words
    changed: NDArray[np.uint64]
    repaired: Words | None

    @classmethod
    def of(cls, prepared: Prepared, positions: Ints, original: Words, received: Words) -> Struck:
        """From distinct positions in any order; words that are as they were are left out."""
        order = np.argsort(positions)
        order = order[(received != original)[order]]
        positions, original, received = positions[order], original[order], received[order]
        code: Any = prepared.code
        changed = code.sums_of(positions, received.astype(np.int64) - original)
        return cls(prepared, positions, original, received, changed, received)


class Sums:
    """Repair and comparison where only the struck words are looked at; a state is `Struck`."""

    def repair_(self, state: Struck) -> Answer:
        decoding = state.prepared.decode(state.changed)
        if decoding.verdict is Verdict.CORRECTED:
            named = np.array_equal(decoding.positions, state.positions)
            code: Any = state.prepared.code
            state.repaired = restore(state.received, decoding.values, code.prime) if named else None
        return Answer(decoding.verdict, len(decoding.positions))

    def same(self, state: Struck) -> bool:
        return state.repaired is not None and np.array_equal(state.repaired, state.original)


class SumsTarget(Sums):
    """The sums of a sidecar without a SHA-256 behind them: trials do not read the other words.

    Args:
        code: the code.
        words: (n,), any dtype of 32 bits; not changed.
    """

    def __init__(self, code: SumsCode, words: NDArray[Any]) -> None:
        self.words, self.prepared = words, decoder_for(code).prepare(code)

    def damaged(self, faults: Faults, seed: int) -> Struck:
        drawn = faults.draw({"words": self.words}, seed)
        before, after = drawn.before.astype(np.uint32), drawn.after.astype(np.uint32)
        return Struck.of(self.prepared, drawn.index, before, after)
