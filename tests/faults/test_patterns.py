"""Patterns: what a struck word becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.errors import ImpossibleFaultError
from parimend.faults import PATTERNS, FaultError, Words, draw
from parimend.faults.patterns import Pattern
from parimend.faults.words import FORMATS
from parimend.rng import Stream
from tests.chisquare import assert_uniform

from .tensors import models, suits

FLOATS = [name for name, form in FORMATS.items() if form.is_float]
INTEGERS = [name for name in FORMATS if name not in FLOATS]


def gaussian(dtype: str, size: int = 4000, scale: float = 0.05) -> Words:
    """A tensor as networks have them; integers are scaled to a quarter of their range."""
    values = np.random.default_rng(0).normal(scale=scale, size=size)
    form = FORMATS[dtype]
    if form.is_float:
        return Words("w", form.encode(values), dtype)
    whole = np.rint(values / scale * 2.0 ** (form.bits - 4)).astype(np.int64)
    return Words("w", whole.astype(form.unsigned), dtype)


def struck(kind: str, words: Words, count: int | None = None, **options: Any) -> Words:
    """The new patterns of ``count`` words (default: of all), as words."""
    count = len(words) if count is None else count
    faults = draw(kind, [words], count, seed=1, **options)
    return Words("w", faults.after.astype(words.bits.dtype), words.dtype)


@given(st.data(), st.sampled_from(sorted(PATTERNS)), st.integers(0, 2**64 - 1))
def test_every_changeable_word_changes(data: st.DataObject, name: str, seed: int) -> None:
    for words in data.draw(models(name, most=200)):
        pattern = PATTERNS[name](words)
        before = words.bits[pattern.changeable(words.bits)]
        kept = before.copy()
        after = pattern.damage(before, Stream(seed, ""))
        assert after.dtype == before.dtype
        assert (after != before).all()
        assert (before == kept).all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_bitflip_strikes_one_bit_each_as_often(dtype: str) -> None:
    words, width = gaussian(dtype), FORMATS[dtype].bits
    faults = draw("bitflip", [words], len(words), seed=2)
    flipped = faults.before ^ faults.after
    assert (np.bitwise_count(flipped) == 1).all()
    assert_uniform(np.bincount(np.log2(flipped.astype(float)).astype(int), minlength=width))


@pytest.mark.parametrize("dtype", FORMATS)
def test_multiflip_strikes_two_to_eight_bits(dtype: str) -> None:
    words, width = gaussian(dtype), FORMATS[dtype].bits
    faults = draw("multiflip", [words], len(words), seed=3)
    flipped = faults.before ^ faults.after
    assert_uniform(np.bincount(np.bitwise_count(flipped), minlength=9)[2:])
    per_bit = [int((flipped >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(width)]
    assert_uniform(np.array(per_bit))
    faults = draw("multiflip", [words], 100, seed=3, fewest=width, most=width)
    assert (np.bitwise_count(faults.before ^ faults.after) == width).all()


@pytest.mark.parametrize("dtype", [dtype for dtype in FORMATS if suits("sign", dtype)])
def test_sign_negates(dtype: str) -> None:
    words = gaussian(dtype)
    words.bits[words.bits == 0] = 1
    negated = struck("sign", words)
    np.testing.assert_array_equal(negated.values(), -words.values())


def test_integers_that_are_their_own_negatives_are_passed_over() -> None:
    words = Words.of("w", np.array([0, -128, 5, 127], np.int8))
    assert draw("sign", [words], 2, seed=0).index.tolist() == [2, 3]
    with pytest.raises(ImpossibleFaultError, match="only 2 of the 3 elements asked for in w;"):
        draw("sign", [words], 3, seed=0)


@pytest.mark.parametrize("dtype", FORMATS)
def test_zero_and_stuck(dtype: str) -> None:
    words = gaussian(dtype)
    words.bits[words.bits == 0] = 2
    assert not struck("zero", words).bits.any()
    default = 0.125 if dtype in FLOATS else 1
    words.bits[words.values() == default] = 2
    assert (struck("stuck", words).values() == default).all()
    assert (struck("stuck", words, value=96).values() == 96).all()


def test_stuck_rounds_for_floats_and_takes_the_ends_of_integers() -> None:
    assert struck("stuck", gaussian("F32"), 1, value=0.1).values()[0] == np.float32(0.1)
    assert np.isnan(struck("stuck", gaussian("BF16"), 1, value=float("nan")).values()[0])
    for dtype, value in (("I64", -(2**63)), ("I64", 2**63 - 1), ("U64", 2**64 - 1), ("I8", -128)):
        bits = struck("stuck", gaussian(dtype), 1, value=value).bits
        assert int(bits[0]) == value % 2 ** FORMATS[dtype].bits


@pytest.mark.parametrize("dtype", FORMATS)
def test_random_reaches_every_bit(dtype: str) -> None:
    words = gaussian(dtype)
    bits = struck("random", words).bits.astype(np.uint64)
    for bit in range(FORMATS[dtype].bits):
        ones = int((bits >> np.uint64(bit) & np.uint64(1)).sum())
        assert_uniform(np.array([ones, len(words) - ones]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_nonfinite_mixes_what_the_format_has(dtype: str) -> None:
    bits = struck("nonfinite", gaussian(dtype)).bits
    patterns, hits = np.unique(bits, return_counts=True)
    assert set(patterns.tolist()) == set(FORMATS[dtype].nonfinite)
    assert_uniform(hits)


@pytest.mark.parametrize("dtype", FLOATS)
def test_noise_is_added_at_the_scale_of_the_tensor(dtype: str) -> None:
    words = gaussian(dtype, 20_000)
    moved = struck("noise", words, 15_000)
    faults = draw("noise", [words], 15_000, seed=1)
    added = moved.values() - words.values()[faults.index]
    rms = np.sqrt(np.mean(words.values() ** 2))
    # With few mantissa bits the small deviates are lost in rounding, so drawn again.
    tolerance = 0.03 if FORMATS[dtype].mantissa > 3 else 0.15
    assert abs(added.mean()) < 0.03 * rms
    assert abs(added.std() / rms - 1) < tolerance
    assert abs(struck("noise", words, scale=2.0).values().std() / 2 - 1) < tolerance


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_noise_stays_in_range(dtype: str) -> None:
    words = gaussian(dtype)
    info = np.iinfo(FORMATS[dtype].numpy)
    huge = struck("noise", words, 1000, scale=1e30).values()
    assert set(huge.tolist()) <= {float(info.min), float(info.max)}
    faults = draw("noise", [words], 1000, seed=4, scale=1.0)
    native = words.bits.dtype if FORMATS[dtype].family == "unsigned" else info.dtype
    steps = [
        int(after.astype(words.bits.dtype).view(native))
        - int(before.astype(words.bits.dtype).view(native))
        for before, after in zip(faults.before, faults.after, strict=True)
    ]
    assert {-2, -1, 1, 2} <= set(steps) <= set(range(-6, 7))


def test_noise_passes_over_words_it_cannot_move() -> None:
    array = np.array([1e20, np.nan, np.inf, 0.5], np.float32)
    assert draw("noise", {"w": array}, 1, seed=0, scale=1.0).index.tolist() == [3]
    with pytest.raises(ImpossibleFaultError, match=r"noise .* can change only 1 of the 2 elements"):
        draw("noise", {"w": array}, 2, seed=0, scale=1.0)
    with pytest.raises(ImpossibleFaultError, match="take another kind, placement or option"):
        draw("noise", {"w": np.zeros(4)}, 1, seed=0)  # no scale to go by


def test_default_scale_ignores_what_is_not_finite() -> None:
    array = np.array([3, np.nan, -4, np.inf] * 300_000, np.float32)
    scale: float = PATTERNS["noise"](Words.of("w", array)).scale  # type: ignore[attr-defined]
    assert scale == pytest.approx(np.sqrt(12.5), rel=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_replace_stays_on_the_default_grid(dtype: str) -> None:
    words, form = gaussian(dtype), FORMATS[dtype]
    reach = np.abs(words.values()).max()
    step = 2.0 ** (np.frexp(reach)[1] - form.mantissa)
    k = struck("replace", words).values() / step
    np.testing.assert_array_equal(k, np.rint(k))
    assert np.abs(k).max() < 2**form.mantissa
    cells = 2 * (np.abs(k) >= 2 ** (form.mantissa - 1)) + (k > 0)
    if form.mantissa > 6:  # else the odd number of grid points shows
        assert_uniform(np.bincount(cells.astype(int), minlength=4))


def test_replace_takes_a_grid() -> None:
    words = Words.of("w", np.full(4000, 0.25, np.float32))
    k = struck("replace", words, step=0.25, limit=1.1).values() * 4
    assert sorted(set(k.tolist())) == [-4, -3, -2, -1, 0, 2, 3, 4]  # 1 is what was there
    k = struck("replace", words, step=2.0**-25).values() * 2.0**25
    assert np.abs(k).max() <= 2**23 - 1
    assert (k == np.rint(k)).all()
    k = struck("replace", words, limit=0.2).values() * 2.0**25
    assert (k == np.rint(k)).all()
    assert 0.19 < np.abs(k).max() * 2.0**-25 <= 0.2


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", ["zero", "tiniest", "largest"])
def test_replace_finds_a_grid_for_any_tensor(dtype: str, value: str) -> None:
    form = FORMATS[dtype]
    infinities = len(form.nonfinite) == 3
    largest = form.nonfinite[infinities] - 1
    bits = np.full(50, {"zero": 0, "tiniest": 1, "largest": largest}[value], form.unsigned)
    assert np.isfinite(struck("replace", Words("w", bits, dtype)).values()).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_replace_covers_the_range_of_integers(dtype: str) -> None:
    high = struck("replace", gaussian(dtype)).bits >> (FORMATS[dtype].bits - 3)
    assert_uniform(np.bincount(high.astype(int), minlength=8))


@pytest.mark.parametrize(
    ("kind", "dtype", "options", "message"),
    [
        ("nonfinite", "I8", {}, "tensor 'w': I8 has no NaN and no infinity; select floating-point"),
        ("sign", "U8", {}, "tensor 'w': U8 elements have no sign; select other tensors"),
        ("noise", "F32", {"scale": 0}, "noise: scale must be a number above 0, not 0"),
        ("noise", "F32", {"scale": float("nan")}, "noise: scale must be a number above 0, not nan"),
        ("multiflip", "F32", {"fewest": 0}, "fewest=0, most=8 do not fit F32; .* most <= 32"),
        ("multiflip", "I8", {"most": 9}, "fewest=2, most=9 do not fit I8; .* most <= 8"),
        ("stuck", "I8", {"value": 128}, "I8 does not hold the stuck value 128; .* -128 to 127"),
        ("stuck", "U8", {"value": 0.125}, "U8 does not hold the stuck value 0.125"),
        ("stuck", "I32", {"value": float("inf")}, "I32 does not hold the stuck value inf"),
        ("replace", "F32", {"step": 0.3}, "replace step 0.3 is not a power of two"),
        ("replace", "F32", {"limit": -1}, "replace: limit must be a number above 0, not -1"),
        ("replace", "F32", {"step": 0.5, "limit": 0.4}, "F32 does not hold all multiples of step"),
        ("replace", "BF16", {"step": 2.0**-25, "limit": 1}, "BF16 .* at least one and at most 2^8"),
        ("replace", "F16", {"step": 2.0**-30}, "F16 does not hold all multiples of step"),
        ("replace", "F16", {"limit": 1e6}, "F16 does not hold .* up to limit 1000000.0"),
        ("replace", "F64", {"step": 2.0**-1070, "limit": 1e300}, "F64 does not hold"),
        ("bitflip", "F32", {"value": 1}, "bitflip has no option 'value'; it takes lowest, highest"),
        ("burst", "F32", {"value": 1}, "burst has no option 'value'; it takes none"),
        ("replace", "F32", {"scale": 1}, "replace has no option 'scale'; it takes step, limit"),
        (
            "bitflip",
            "F32",
            {"lowest": 1.5},
            "bitflip: lowest must be a whole number, not a float: 1.5",
        ),
        ("multiflip", "F32", {"most": None}, "multiflip: most must be a whole number, not None"),
        ("noise", "F32", {"scale": "x"}, "noise: scale must be a number, not a str: 'x'"),
        ("noise", "F32", {"scale": True}, "noise: scale must be a number, not a bool: True"),
        ("noise", "F32", {"scale": 10**400}, "a number, not a number of 401 digits"),
    ],
)
def test_unsuitable_requests_are_refused(
    kind: str, dtype: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FaultError, match=message.replace("2^8", r"2\^8")):
        draw(kind, [gaussian(dtype)], 1, seed=0, **options)


def test_a_pattern_that_breaks_its_promise_is_found_out() -> None:
    class Idle(Pattern):
        def _draw(self, before: npt.NDArray[Any], stream: Stream) -> npt.NDArray[Any]:
            return before.copy()

    with pytest.raises(RuntimeError, match="Idle calls words changeable that it never changes"):
        Idle(gaussian("F32")).damage(np.zeros(3, np.uint32), Stream(0, ""))
