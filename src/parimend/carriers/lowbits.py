"""The lowbits carrier: a finished float32 network carries its checks in its lowest mantissa bits.

Bit patterns q of the weights satisfy H q = c modulo 2^64, where c is zero but for the free checks,
which the seal keeps. It takes no training and no data, and moves weights by about 1e-6 relative
where there are 20 of them for an error or more, by 1e-5 with 13, by 2e-4 with 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend import codes
from parimend.carriers.carrier import Chosen, PlannedWord
from parimend.carriers.imposing import Alphabet, Draft, Imposing
from parimend.codes.budget import MOST_POWER
from parimend.codes.certificate import FEW
from parimend.errors import SpecError, WordError
from parimend.impose.lowering import lower_into, require_room
from parimend.seal import SealedWord
from parimend.stores.base import Tensors
from parimend.words.grid import require_finite
from parimend.words.layout import Word, whole

_SMALLEST = 2.0**-126
"""The least normal number: moves are relative to weights that large, or larger."""

_LAST_PLACE = 2.0**-23 / 1.5
"""Of weights, in relation to their root mean square."""


class Patterns:
    """Elements of 32 bits as unsigned integers: none is impossible."""

    def read(self, values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return values.view("<u4").astype(np.int64), np.zeros(values.shape, bool)

    def write(self, integers: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.asarray(integers).astype("<u4").view(dtype)

    def contains(self, integers: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray((integers >= 0) & (integers < 1 << 32))


@dataclass(frozen=True)
class LowBits(Imposing):
    """Checks in the lowest mantissa bits of float32 weights.

    Args:
        rows: number of checks of every word, instead of as many as are needed.

    Example:
        >>> import torch, parimend as pm
        >>> model = torch.nn.Linear(512, 10)
        >>> pm.protect_(model, 210, "lowbits")
        <Seal: lowbits, 210 errors (0 guaranteed, 210 measured), 1 protected word of 5,130 elements>
    """

    name: ClassVar[str] = "lowbits"
    families: ClassVar[tuple[str, ...]] = ("lowbits",)
    code: ClassVar[type[codes.LowBits]] = codes.LowBits

    def choose(
        self, words: Sequence[Word], tensors: Tensors, errors: int, seed: int
    ) -> list[Chosen]:
        self.require_held(words, ["F32"])
        chosen = [self.code_for(word, 32, errors, seed) for word in words]
        for code, word, _ in chosen:
            try:
                require_room(code)
            except SpecError as error:
                raise SpecError(f"{word.parts[0].name}: {error}") from None
        return chosen

    def guarantee(
        self, chosen: Sequence[Chosen], errors: int, guaranteed: int, prove: bool = True
    ) -> list[Chosen]:
        raise SpecError(
            "the lowbits carrier guarantees nothing: its words have 32 bits and its checks 64, so "
            "that for any two wrong words about one pair of values cancels in a check that they "
            f"share. Take 'sidecar', which guarantees all errors up to {MOST_POWER:,}, or 'real', "
            f"up to {FEW}"
        )

    def plan(self, chosen: Chosen, errors: int) -> PlannedWord:
        """See `Carrier.plan`. The weights that a check owns go to the nearest patterns with which
        it holds, which lie 2^(64 / own) last places apart in each of them.
        """
        code = chosen.code
        places = 2.0 ** (64 / code.own) / math.sqrt(12.0)
        moved = _LAST_PLACE * places * math.sqrt(code.own * code.imposed / code.n)
        return replace(super().plan(chosen, errors), moved=moved)

    def alphabets(self, sealed: SealedWord) -> Sequence[Alphabet]:
        return [Patterns()] * len(sealed.word)

    def draft(self, chosen: Chosen, tensors: Tensors) -> Draft:
        code, word, _ = chosen
        values = [tensors.read(part).view("<f4") for part in word]
        for part, v in zip(word, values, strict=True):
            all_of_it = part == whole(part.name, part.dtype, part.shape)
            require_finite(v.reshape(part.shape) if all_of_it else v, part.name, part.start)
        before = np.concatenate(values)
        try:
            lowered = lower_into(code, before.view("<u4"))
        except WordError as error:
            raise WordError(f"{word.parts[0].name}: {error}") from None
        after = lowered.word.view("<f4")
        size = max(float(np.linalg.norm(before.astype(np.float64))), _SMALLEST * code.n**0.5)
        moved = float(np.linalg.norm(after.astype(np.float64) - before) / size)
        data = [
            piece.view(np.uint8).reshape(-1, 4)[tensors.spread.held(part).elements]
            for part, piece in zip(word, word.split(lowered.word), strict=True)
        ]
        return Draft(code, word, lowered.target, data, moved)
