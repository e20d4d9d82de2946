"""Tensors to damage, as hypothesis strategies."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from parimend.faults import KINDS, PLACEMENTS, Words
from parimend.faults.words import FORMATS

NAMES = ["fc.weight", "fc.bias", "conv.0", "head"]


def suits(kind: str, dtype: str) -> bool:
    """Whether words of that dtype can take that kind at all."""
    family = FORMATS[dtype].family
    if kind == "doublebyte":
        return FORMATS[dtype].bits > 8
    return family == "float" or kind not in (
        ["nonfinite", "sign"] if family == "unsigned" else ["nonfinite"]
    )


@st.composite
def models(draw: st.DrawFn, kind: str, most: int = 3000) -> list[Words]:
    """One to three tensors of any dtype, filled with random bits; some hold many zeros."""
    tensors = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)):
        dtype = draw(st.sampled_from([dtype for dtype in FORMATS if suits(kind, dtype)]))
        size = draw(st.integers(0, most))
        random = np.random.default_rng(draw(st.integers(0, 2**32)))
        form = FORMATS[dtype]
        bits = random.integers(0, 1 << form.bits, size, dtype=form.unsigned)
        if draw(st.booleans()):
            bits[random.random(size) < 0.7] = 0
        tensors.append(Words(name, bits, dtype))
    return tensors


kinds = st.sampled_from(sorted(KINDS))
placements = st.none() | st.sampled_from(sorted(PLACEMENTS))
seeds = st.integers(0, 2**64 - 1)
counts = st.integers(0, 40) | st.integers(0, 4000)


def copies(model: list[Words]) -> list[Words]:
    return [Words(words.name, words.bits.copy(), words.dtype) for words in model]


def same(a: list[Words], b: list[Words]) -> bool:
    return all(np.array_equal(x.bits, y.bits) for x, y in zip(a, b, strict=True))
