"""Sparse codes: sums against Python integers, the built-in properties, the golden structure."""

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parimend.codes import LowBits, RealCode, Sparse, from_spec
from parimend.decoders import prepared
from parimend.errors import SpecError
from parimend.words.layout import Word, whole
from tests.codes.contract import RealCodeContract

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sparse.json").read_text())


def big_sums(code, word):
    """H word modulo 2^64 as int64, in Python integers."""
    total = [0] * code.m
    for i, value in enumerate(word.tolist()):
        for row, coefficient in zip(*code.column(i), strict=True):
            total[row] += int(coefficient) * value
    return np.array([(s + 2**63) % 2**64 - 2**63 for s in total], np.int64)


@st.composite
def codes(draw, largest=200):
    """Valid codes of all shapes; the arguments are drawn so that few have to be rejected."""
    m = draw(st.integers(3, 40))
    degrees = sorted(draw(st.sets(st.integers(2, min(m, 7)), min_size=1, max_size=3)))
    parts = [draw(st.integers(0, 300)) for _ in degrees]
    word_bits = draw(st.integers(2, 32))
    fields = {
        "weights": tuple(zip(degrees, parts, strict=True)),
        "own": draw(st.integers(2, 5)),
        "free": draw(st.integers(m // 3, m + 1)),
        "word_bits": word_bits,
        "coefficient_bits": draw(st.integers(3, 62 - word_bits)),
        "seed": draw(st.integers(0, 2**64 - 1)),
    }
    try:
        return Sparse(draw(st.integers(m, largest)), m, **fields)
    except SpecError:
        assume(False)


class TestContract(RealCodeContract):
    @pytest.fixture(
        params=[
            Sparse(n=400, m=40),
            Sparse(n=150, m=24, seed=3, weights=((3, 1000),), free=12, own=4),
            Sparse(n=120, m=30, weights=((2, 700), (3, 200), (9, 100)), free=30),
            Sparse(n=100, m=20, seed=2**64 - 2, own=3, free=9, word_bits=8, coefficient_bits=20),
            Sparse(n=60, m=12, own=2, free=8, word_bits=2, coefficient_bits=60),
        ],
        ids=lambda code: f"{code.n}-{code.m}",
    )
    def code(self, request):
        return request.param

    def oracle(self, code, word):
        return big_sums(code, word)


class TestStructure:
    @given(codes())
    def test_column_weights_are_those_asked_for(self, code):
        found = np.bincount(np.diff(code.columns.start), minlength=20)
        for degree, parts in code.weights[1:]:
            assert found[degree] == code.n * parts // 1000
        assert found.sum() == code.n

    @given(codes())
    def test_supports_are_sorted_and_distinct(self, code):
        supports = [tuple(code.column(i)[0]) for i in range(code.n)]
        assert len(set(supports)) == code.n
        for support in supports:
            assert list(support) == sorted(set(support))
            assert 0 <= support[0] <= support[-1] < code.m

    @given(codes())
    def test_coefficients_are_odd_and_of_full_length(self, code):
        size = 1 << (code.coefficient_bits - 1)
        coefficient = code.columns.coefficient
        assert (coefficient % 2 == 1).all()
        assert ((size <= np.abs(coefficient)) & (np.abs(coefficient) < 2 * size)).all()

    @given(codes())
    def test_owned_columns_touch_no_earlier_check(self, code):
        assert code.owned.shape == (code.imposed, code.own)
        assert np.unique(code.owned).size == code.owned.size
        for j, columns in enumerate(code.owned):
            entries = [code.column(i) for i in columns]
            assert all(len(rows) == code.weights[0][0] for rows, _ in entries)
            assert all(rows[0] == j < rows[1] for rows, _ in entries)
            first, second = (int(coefficients[0]) for _, coefficients in entries[:2])
            assert math.gcd(first, second) == 1

    @given(codes())
    def test_sums_are_those_of_big_integers(self, code):
        rng = np.random.default_rng(0)
        limit = 1 << (code.word_bits - 1)
        word = rng.integers(-limit + 1, limit, code.n)
        word[rng.random(code.n) < 0.3] = limit - 1
        np.testing.assert_array_equal(code.syndrome(word), big_sums(code, word))

    def test_rows_are_balanced(self):
        for errors, n in ((210, 5120), (50, 2000), (20, 60_000)):
            code = Sparse.for_errors(n, errors)
            load = np.bincount(code.columns.row, minlength=code.m)
            assert load.max() < 1.15 * load.mean()

    def test_signs_are_balanced_and_coefficients_random(self):
        coefficient = Sparse(n=5120, m=320).columns.coefficient
        assert abs((coefficient > 0).mean() - 0.5) < 0.02
        assert np.unique(coefficient).size == coefficient.size
        assert abs(np.abs(coefficient).mean() / 2**44 - 0.75) < 0.01

    def test_bursts_fall_on_unrelated_checks(self):
        code = Sparse(n=5120, m=320)
        for start in range(0, 5120, 64):
            rows = np.concatenate([code.column(i)[0] for i in range(start, start + 64)])
            assert np.bincount(rows).max() < 8

    def test_what_is_shared_is_read_only(self):
        code = Sparse(n=400, m=40)
        for array in (*code.columns, code.owned):
            assert not array.flags.writeable
        code.column(0)[1][0] = 0  # a copy
        assert code.column(0)[1][0] != 0

    def test_imposed_rows_are_independent(self):
        for seed in range(20):
            code = Sparse(n=200, m=40, own=3, free=9, seed=seed)
            assert np.linalg.matrix_rank(code.dense()[: code.imposed] / code.unit) == code.imposed


class TestProjection:
    @given(codes(), st.integers(0, 2**32))
    def test_is_that_of_the_pseudoinverse(self, code, seed):
        H = code.dense() / code.unit
        assume(np.linalg.matrix_rank(H, tol=1e-3) == code.m)
        x, y = np.random.default_rng(seed).normal(size=(2, code.n))
        target = H @ y
        expected = x - np.linalg.pinv(H) @ (H @ x - target)
        np.testing.assert_allclose(code.project(x, target), expected, rtol=0, atol=1e-7)

    def test_unit_scales_a_product_to_a_syndrome(self):
        code = Sparse(n=400, m=40)
        word = np.zeros(400, np.int64)
        word[5] = 1
        np.testing.assert_array_equal(code.matvec(word) * code.unit, code.syndrome(word))

    def test_dependent_rows_are_an_error(self):
        code = Sparse(n=50, m=100, free=100)
        with pytest.raises(SpecError, match=r"100 rows.*dependent.*fewer rows"):
            code.project(np.ones(50))

    def test_by_conjugate_gradients_too(self):
        code = Sparse(n=20_000, m=4200, weights=((3, 1000),), own=4)
        x = np.random.default_rng(0).normal(size=code.n)
        projected = code.project(x)
        assert np.abs(code.matvec(projected)).max() < 1e-9
        assert abs((x - projected) @ projected) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ((1, 1000),)}, "at least 2, not [1]"),
        ({"weights": ((3, 500), (2, 500))}, "must increase from at least 2, not [3, 2]"),
        ({"weights": ((2, 500), (2, 500))}, "must increase"),
        ({"weights": ()}, "not []"),
        ({"weights": ((2, 700), (3, 301))}, "sum to 1000, not [700, 301]"),
        ({"weights": ((2, 700), (3, -1))}, "must be >= 0"),
        ({"weights": ((2.0, 1000),)}, "must be integers"),
        ({"weights": (2, 3)}, "must be pairs"),
        ({"weights": None}, "must be pairs"),
        ({"own": 2.5}, "must be integers"),
        ({"free": "16"}, "must be integers"),
        ({"word_bits": True}, "must be integers"),
        ({"word_bits": 1}, "word_bits in 2 .. 32"),
        ({"word_bits": 33, "coefficient_bits": 20}, "word_bits in 2 .. 32"),
        ({"coefficient_bits": 2}, "coefficient_bits >= 3"),
        ({"word_bits": 20}, "= 64 exceeds 62"),
        ({"own": 1}, "own >= 2"),
        ({"free": -1}, "free >= 0"),
        ({"m": 2, "free": 2}, "weight 3 need at least as many checks"),
        ({"own": 17}, "free must be larger than 16"),
        ({"m": 100}, "84 imposed checks own 672 columns of weight 2, but there are 300: lower m"),
        ({"m": 20}, "too few distinct supports of weight 2: raise m"),
        # Ten different columns cannot all be in every check.
        ({"weights": ((3, 980), (40, 20))}, "too few distinct supports of weight 40"),
        ({"version": 2}, "install a newer parimend"),
    ],
)
def test_codes_that_cannot_exist(change, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        replace(Sparse(n=600, m=40), **change)


def test_specs_from_json_carry_lists():
    code = Sparse(n=600, m=40)
    spec = json.loads(json.dumps(code.spec()))
    assert spec["weights"] == [[2, 500], [3, 500]]
    assert from_spec(spec) == code
    assert hash(from_spec(spec)) == hash(code)


class TestForErrors:
    @pytest.mark.parametrize("word_bits", [2, 4, 8, 12, 16, 17, 18, 24, 30, 32])
    @settings(max_examples=60)
    @given(n=st.integers(1, 20_000), errors=st.integers(1, 2000))
    def test_is_valid_or_says_how_many_weights_are_enough(self, word_bits, n, errors):
        try:
            code = Sparse.for_errors(n, errors, word_bits=word_bits)
        except SpecError as error:
            enough = int(re.search(r"(\d+) are enough", str(error))[1])
            assert enough > n
            code = Sparse.for_errors(enough, errors, word_bits=word_bits)
        assert code.own >= 4
        assert code.imposed > 0
        assert code.word_bits == word_bits

    @given(n=st.integers(1_500_000, 10**9), errors=st.integers(1, 30))
    def test_long_words_have_few_errors_too(self, n, errors):
        code = Sparse.for_errors(n, errors)
        assert code.own >= 4
        assert code.m <= max(Sparse.for_errors(10**6, errors).m, 40)

    @given(n=st.integers(120, 20_000), data=st.data())
    def test_takes_a_given_number_of_checks(self, n, data):
        m = data.draw(st.integers(24, n // 5))
        assert Sparse.for_errors(n, 10, m=m).m == m

    @pytest.mark.parametrize("m", [1, 3, 10, 2000])
    def test_says_which_numbers_of_checks_fit(self, m):
        with pytest.raises(SpecError, match=rf"{m} checks do not fit 5120 weights, 24 to 1024 do"):
            Sparse.for_errors(5120, 10, m=m)

    @given(
        word_bits=st.sampled_from([4, 6, 8, 12, 16]),
        n=st.integers(40_000, 10**8),
        errors=st.integers(1, 1000),
    )
    def test_members_of_a_check_rarely_explain_it_by_chance(self, word_bits, n, errors):
        code = Sparse.for_errors(n, errors, word_bits=word_bits)
        members = n * code.weights[0][0] / code.m
        assert members * 2.0 ** (word_bits + 1 - code.coefficient_bits) < 0.25

    @pytest.mark.parametrize(
        ("n", "times"), [(500_000, 20), pytest.param(1_000_000, 60, marks=pytest.mark.long)]
    )
    def test_long_words_of_short_integers_are_repaired(self, rng, n, times):
        """With coefficients of 20 bits, as in short words, one in twenty was not."""
        code = Sparse.for_errors(n, 80, word_bits=8)
        decoder = prepared(code)
        for _ in range(times):
            at = np.sort(rng.choice(code.n, 80, replace=False))
            values = rng.integers(1, 128, 80) * rng.choice([-1, 1], 80)
            decoding = decoder.decode(
                code.columns.take(at).multiply(values, np.zeros(code.m, np.int64))
            )
            np.testing.assert_array_equal(decoding.positions, at)
            np.testing.assert_array_equal(decoding.values, values)

    def test_says_how_many_checks_long_words_take(self):
        with pytest.raises(SpecError, match="24 checks do not fit 17200000 weights, 28 to 3440000"):
            Sparse.for_errors(17_200_000, 1, m=24)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"errors": 0}, "errors must be at least 1"),
            ({"n": 0}, "n >= 1"),
            ({"n": -3}, "n >= 1"),
            ({"m": 0}, "m >= 1"),
            ({"m": -1}, "m >= 1"),
            ({"word_bits": 33}, "word_bits in 2 .. 32"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, arguments, message):
        with pytest.raises(SpecError, match=re.escape(message)):
            Sparse.for_errors(**{"n": 5120, "errors": 10, **arguments})

    @pytest.mark.parametrize(
        ("family", "n", "errors"),
        [(LowBits, 13_000, 1000), (LowBits, 26_000, 2000), (Sparse, 65_000, 5000)],
    )
    def test_many_errors_in_crowded_words_are_repaired(self, family, n, errors, rng):
        """Where checks own nearly all columns, a third of the patterns or more were not."""
        code = family.for_errors(n, errors)
        decoder, span = prepared(code), 1 << (code.word_bits - 1)
        for _ in range(15):
            at = np.sort(rng.choice(n, errors, replace=False))
            values = rng.integers(1, span, errors) * rng.choice([-1, 1], errors)
            syndrome = code.columns.take(at).multiply(values, np.zeros(code.m, np.int64))
            np.testing.assert_array_equal(decoder.decode(syndrome).positions, at)
        word = Word((whole("w", "F32", (n,)),))
        assert code.promise(errors, word).measured.errors == errors
        assert replace(code, own=code.own + 1).promise(errors, word).measured is None

    @pytest.mark.parametrize(
        ("family", "n", "errors"), [(LowBits, 10_000, 1000), (Sparse, 98_000, 10_000)]
    )
    def test_nothing_is_said_of_words_too_crowded_to_be_even(self, family, n, errors):
        crowded, roomy = (Word((whole("w", "F32", (k,)),)) for k in (n, 2 * n))
        assert family.for_errors(n, errors).promise(errors, crowded).measured is None
        assert family.for_errors(2 * n, errors).promise(errors, roomy).measured

    @pytest.mark.parametrize("family", [Sparse, LowBits])
    @pytest.mark.parametrize("errors", [5121, 10**9, 1 << 62, 10**30])
    def test_more_errors_than_weights_are_refused_at_once(self, family, errors):
        with pytest.raises(SpecError, match=f"5120 weights are too few to repair {errors} errors"):
            family.for_errors(5120, errors)
        promise = family.for_errors(5120, 50).promise(errors, Word((whole("w", "F32", (5120,)),)))
        assert promise.measured is None

    def test_more_errors_take_more_checks(self):
        for n in (5120, 200_000):
            checks = [Sparse.for_errors(n, errors).m for errors in range(1, 400, 7)]
            assert checks == sorted(checks)

    def test_seed_selects_a_code(self):
        assert Sparse.for_errors(500, 5, seed=9) == replace(Sparse.for_errors(500, 5), seed=9)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['spec']['n']}-{c['spec']['m']}")
def test_version_1_stays_as_it_is(case):
    code = from_spec(case["spec"])
    start, row, coefficient = code.columns
    entries = np.empty(len(row), [("row", "<i4"), ("coefficient", "<i8")])
    entries["row"], entries["coefficient"] = row, coefficient
    data = np.diff(start).astype("<i4").tobytes() + entries.tobytes()
    assert [list(entry) for entry in zip(*code.column(0), strict=True)] == case["first"]
    assert code.owned[:1].ravel().tolist() == case["owned"]
    assert hashlib.sha256(data).hexdigest() == case["sha256"]


@pytest.mark.parametrize(
    "change",
    [
        {"m": 1 << 31, "free": 1 << 31},
        {"n": 1 << 40},
        {"weights": ((2, 500), (65, 500))},
        {"m": 10**9, "free": 10**9, "weights": ((2, 1000), (10**8, 0))},
    ],
)
def test_claims_without_end_are_refused_at_once(change):
    with pytest.raises(SpecError, match="a sparse code with n="):
        Sparse(**{"n": 2000, "m": 160, **change})


def test_bit_patterns_have_the_structure_but_no_projection():
    code = LowBits.for_errors(5120, 50)
    assert not isinstance(code, RealCode)
    assert not hasattr(code, "matvec")
    assert code.spec() == {**Sparse.for_errors(5120, 50, m=code.m).spec(), **code.spec()}
    with pytest.raises(SpecError, match=r"a lowbits code with n=5120, m=.*word_bits=32"):
        replace(code, word_bits=18)
