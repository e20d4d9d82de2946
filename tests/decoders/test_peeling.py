"""Peeling: every damage within the budget, never a wrong repair beyond it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba as nb
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from parimend.codes import Sparse, from_spec
from parimend.codes.lowbits import LowBits
from parimend.decoders.peeling import Peeling
from parimend.errors import SpecError
from parimend.kernels import peeling_numba as kernels
from parimend.outcomes import Verdict
from tests.decoders.contract import DecoderContract

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "peeling.json").read_text())
KINDS = ("random", "powers of two", "largest", "same", "burst", "small")


def damage_of(kind, code, count, rng):
    """(n,) int64 with ``count`` wrong words."""
    limit = 1 << code.word_bits
    positions = rng.choice(code.n, count, replace=False)
    if kind == "burst":
        positions = rng.integers(code.n - count + 1) + np.arange(count)
    values = {
        "powers of two": 1 << rng.integers(0, code.word_bits, count),
        "largest": np.full(count, limit - 1),
        "same": np.full(count, rng.integers(1, limit)),
        "small": rng.integers(1, min(3, limit), count),
    }.get(kind, rng.integers(1, limit, count))
    if kind != "same":
        values = values * rng.choice([-1, 1], count)
    damage = np.zeros(code.n, np.int64)
    damage[positions] = values
    return damage


def found(code, decoding):
    damage = np.zeros(code.n, np.int64)
    damage[decoding.positions] = decoding.values
    return damage


def assert_repairs(prepared, damage, erasures=None):
    code = prepared.code
    decoding = prepared.decode(code.syndrome(damage), erasures)
    assert decoding.verdict is Verdict.CORRECTED
    np.testing.assert_array_equal(found(code, decoding), damage)
    return decoding


class TestContract(DecoderContract):
    easy, overload, overload_trials = 18, (60, 300), 150

    @pytest.fixture(params=[Peeling(), Peeling(max_pairs=0)], ids=["pairs", "no pairs"])
    def decoder(self, request):
        return request.param

    @pytest.fixture(
        params=[
            Sparse(n=400, m=48, own=4),
            Sparse(n=400, m=60, weights=((3, 1000),), own=4),
            Sparse(n=400, m=60, weights=((3, 1000),), own=4, word_bits=8, coefficient_bits=20),
            Sparse(n=400, m=60, weights=((3, 1000),), own=4, word_bits=32, coefficient_bits=30),
            LowBits(n=400, m=60, weights=((3, 920), (16, 80)), own=4),
        ],
        ids=lambda code: f"{code.family}-{code.m}-{code.word_bits}",
    )
    def code(self, request):
        return request.param

    def damage(self, code, count, rng):
        values = damage_of("random", code, count, rng)
        return np.flatnonzero(values), values[values != 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "errors", "word_bits"),
    [(150, 3, 18), (300, 20, 8), (1000, 60, 12), (5120, 210, 18), (5120, 210, 8),
     (5120, 100, 24), (60_000, 210, 18), (2000, 50, 28)],
)  # fmt: skip
class TestBudget:
    @pytest.fixture
    def prepared(self, n, errors, word_bits):
        return Peeling().prepare(Sparse.for_errors(n, errors, word_bits=word_bits))

    def test_errors(self, prepared, errors, kind, rng):
        for _ in range(8):
            assert_repairs(prepared, damage_of(kind, prepared.code, errors, rng))

    def test_erasures_all_and_mixed(self, prepared, errors, kind, rng):
        for known in (1.0, 0.5):
            damage = damage_of(kind, prepared.code, errors, rng)
            wrong = np.flatnonzero(damage)
            erasures = rng.permutation(wrong)[: int(known * errors)]
            decoding = assert_repairs(prepared, damage, erasures)
            np.testing.assert_array_equal(decoding.positions, np.sort(wrong))


class TestErasures:
    @pytest.fixture
    def prepared(self):
        return Peeling().prepare(Sparse.for_errors(1000, 40))

    def test_words_that_were_zero_are_named_with_no_damage(self, prepared, rng):
        # A word that reads as zero for being off the grid, and was zero, has to be written.
        erasures = np.sort(rng.choice(1000, 40, replace=False))
        decoding = prepared.decode(np.zeros(prepared.code.m, np.int64), erasures)
        assert decoding.verdict is Verdict.CORRECTED
        np.testing.assert_array_equal(decoding.positions, erasures)
        assert not decoding.values.any()

    def test_some_are_wrong_and_some_are_not(self, prepared, rng):
        for _ in range(20):
            damage = damage_of("random", prepared.code, 20, rng)
            sound = rng.choice(np.flatnonzero(damage == 0), 20, replace=False)
            erasures = np.concatenate([np.flatnonzero(damage)[:10], sound])
            decoding = assert_repairs(prepared, damage, erasures)
            assert set(erasures) <= set(decoding.positions)

    def test_elimination_reaches_beyond_the_budget(self, rng):
        code = Sparse(n=2000, m=160, weights=((3, 1000),))
        prepared = Peeling(max_pairs=0).prepare(code)
        solved = 0
        for _ in range(10):
            damage = damage_of("largest", code, 135, rng)
            solved += assert_repairs(prepared, damage, np.flatnonzero(damage)).steps["elimination"]
        assert solved >= 5

    def test_order_repeats_and_dtype_do_not_matter(self, prepared, rng):
        damage = damage_of("random", prepared.code, 12, rng)
        wrong = np.flatnonzero(damage)
        for erasures in (wrong[::-1], np.repeat(wrong, 2), wrong.astype(np.uint16), wrong.tolist()):
            assert_repairs(prepared, damage, erasures)

    @pytest.mark.parametrize("erasures", [np.zeros(1000, bool), np.array([1.0])])
    def test_a_mask_is_refused(self, prepared, erasures):
        with pytest.raises(SpecError, match="integer positions"):
            prepared.decode(np.zeros(prepared.code.m, np.int64), erasures)


class TestOverload:
    @staticmethod
    def weak_codes():
        """Few checks, short words and coefficients: where a wrong answer is likeliest."""
        for number, (m, word_bits, coefficient_bits) in enumerate(
            [(6, 8, 20), (10, 8, 20), (16, 8, 20), (24, 8, 20), (10, 4, 12), (24, 4, 12),
             (10, 2, 8), (24, 2, 8), (10, 18, 44), (24, 18, 44), (24, 24, 38)]
        ):  # fmt: skip
            for weights in (((2, 1000),), ((2, 500), (3, 500)), ((3, 920), (5, 80))):
                n = min(6 * m, m * (m - 1) // 3)
                yield Sparse(
                    n, m, number, weights=weights, own=2, free=m // 2 + 1,
                    word_bits=word_bits, coefficient_bits=coefficient_bits,
                )  # fmt: skip

    @pytest.mark.parametrize("times", [20, pytest.param(60, marks=pytest.mark.long)])
    @pytest.mark.parametrize("max_pairs", [0, 10**6])
    def test_never_corrects_wrongly(self, max_pairs, times, rng):
        verdicts = set()
        for code in self.weak_codes():
            prepared = Peeling(max_pairs).prepare(code)
            for _ in range(times):
                count = rng.integers(1, min(code.n, 2 * code.m) + 1)
                damage = damage_of(rng.choice(KINDS), code, count, rng)
                erasures = rng.choice(code.n, rng.integers(0, code.m // 2), replace=False)
                syndrome = code.syndrome(damage)
                decoding = prepared.decode(syndrome, erasures)
                verdicts.add(decoding.verdict)
                if decoding.verdict is Verdict.CORRECTED:
                    answer = found(code, decoding)
                    np.testing.assert_array_equal(code.syndrome(answer), syndrome)
                    np.testing.assert_array_equal(answer, damage)
        assert verdicts == {Verdict.CORRECTED, Verdict.UNCORRECTABLE}

    def test_what_it_corrects_explains_the_checks_even_where_codes_say_nothing(self, rng):
        # Coefficients of 3 bits: other damage may explain the checks as well.
        for seed in range(40):
            code = Sparse(40, 16, seed, own=2, free=9, word_bits=4, coefficient_bits=3)
            prepared = Peeling().prepare(code)
            for _ in range(20):
                syndrome = code.syndrome(damage_of("small", code, rng.integers(1, 20), rng))
                decoding = prepared.decode(syndrome)
                if decoding.verdict is Verdict.CORRECTED:
                    np.testing.assert_array_equal(code.syndrome(found(code, decoding)), syndrome)
                    assert (np.abs(decoding.values) < 1 << code.word_bits).all()

    @settings(max_examples=30)
    @given(st.integers(0, 2**32), st.sampled_from([-(2**63), 2**63 - 1, -1, 1, None]))
    def test_syndromes_that_no_damage_explains(self, seed, value):
        rng = np.random.default_rng(seed)
        for code in (Sparse.for_errors(300, 20), Sparse.for_errors(300, 20, word_bits=28)):
            syndrome = rng.integers(-(2**63), 2**63 - 1, code.m, endpoint=True)
            if value is not None:
                syndrome[:] = value
            erasures = rng.choice(code.n, 5, replace=False)
            for erased in (None, erasures):
                decoding = Peeling().prepare(code).decode(syndrome, erased)
                assert decoding.verdict is Verdict.UNCORRECTABLE
                assert 0 < decoding.unexplained <= code.m
                assert decoding.positions.size == decoding.values.size == 0

    def test_everything_wrong(self, rng):
        for code in (Sparse.for_errors(5120, 210), Sparse.for_errors(5120, 210, word_bits=8)):
            decoding = (
                Peeling()
                .prepare(code)
                .decode(code.syndrome(damage_of("random", code, code.n, rng)))
            )
            assert decoding.verdict is Verdict.UNCORRECTABLE
            decoding = (
                Peeling()
                .prepare(code)
                .decode(code.syndrome(damage_of("random", code, code.n, rng)), np.arange(code.n))
            )
            assert decoding.verdict is Verdict.UNCORRECTABLE


class TestUse:
    @pytest.fixture
    def code(self):
        return Sparse.for_errors(2000, 80)

    def test_noise_is_refused(self, code):
        with pytest.raises(SpecError, match="exact"):
            Peeling().prepare(code).decode(np.ones(code.m, np.int64), noise=0.5)

    def test_from_several_threads(self, code, rng):
        prepared = Peeling().prepare(code)  # the first decodings prepare the pairs, at once
        damages = [damage_of("random", code, 80, rng) for _ in range(40)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda damage: assert_repairs(prepared, damage), damages))

    def test_repeats_itself_and_keeps_its_input(self, code, rng):
        damage = damage_of("random", code, 105, rng)
        syndrome, erasures = code.syndrome(damage), np.flatnonzero(damage)[:9]
        before = syndrome.copy(), erasures.copy()
        runs = [Peeling().prepare(code).decode(syndrome, erasures) for _ in range(2)]
        np.testing.assert_array_equal(syndrome, before[0])
        np.testing.assert_array_equal(erasures, before[1])
        assert runs[0].steps == runs[1].steps
        assert runs[0].verdict is runs[1].verdict
        np.testing.assert_array_equal(runs[0].values, runs[1].values)

    def test_pairs_only_add_to_what_is_corrected(self, code, rng):
        with_pairs, without = Peeling().prepare(code), Peeling(max_pairs=0).prepare(code)
        gained = 0
        for count in range(10, 110, 5):
            syndrome = code.syndrome(damage_of("random", code, count, rng))
            a, b = with_pairs.decode(syndrome), without.decode(syndrome)
            if b.verdict is Verdict.CORRECTED:
                assert a.verdict is Verdict.CORRECTED
                np.testing.assert_array_equal(found(code, a), found(code, b))
            gained += a.verdict is not b.verdict
        assert gained

    def test_every_rule_is_counted(self, code, rng):
        steps = {}
        for _ in range(20):
            damage = damage_of("random", code, 100, rng)
            for name, count in Peeling().prepare(code).decode(code.syndrome(damage)).steps.items():
                steps[name] = steps.get(name, 0) + count
        assert set(steps) == {"agree", "alone", "pair", "pair alone", "elimination", "search"}
        assert steps["agree"] > 0
        assert steps["pair"] > 0


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(len(case["damage"])))
def test_damage_of_the_golden_files(case):
    code = from_spec(case["spec"])
    decoding = (
        Peeling()
        .prepare(code)
        .decode(np.array(case["syndrome"], np.int64), np.array(case["erasures"], np.int64))
    )
    assert decoding.verdict is Verdict.CORRECTED
    assert [list(p) for p in zip(decoding.positions, decoding.values, strict=True)] == case[
        "damage"
    ]


@nb.njit
def short_vectors(r):
    return kernels.short_vectors(r)


ODD = st.integers(0, 2**63 - 1).map(lambda a: 2 * a + 1)


class TestPairs:
    @given(ODD)
    @example(3)
    @example(2**64 - 3)
    @example(2**32 - 1)
    @example(2**32 + 1)
    @example(2**63 + 1)
    @example(2**63 - 1)
    def test_short_vectors_are_a_basis_with_a_short_first(self, r):
        assume(r not in (1, 2**64 - 1))
        u0, v0, u1, v1 = (int(x) for x in short_vectors(np.uint64(r)))
        assert (v0 - r * u0) % 2**64 == (v1 - r * u1) % 2**64 == 0
        assert abs(u0 * v1 - u1 * v0) == 2**64
        assert max(abs(u0), abs(v0)) <= 2**32

    def test_of_random_coefficients_both_are_short(self, rng):
        longest = 0
        for a, b in rng.integers(2**43, 2**44, (500, 2)).tolist():
            r = (b | 1) * pow(a | 1, -1, 2**64) % 2**64
            longest = max(longest, *(abs(int(x)) for x in short_vectors(np.uint64(r))))
        assert longest < 2**40

    def test_multipliers_make_both_coefficients_short(self):
        code = Sparse(n=60, m=12, own=2, free=8, word_bits=8, coefficient_bits=20)
        coefficient = code.columns.coefficient
        rows = kernels.by_rows(code.columns.start, code.columns.row, code.m)
        first, multiplier = kernels.pair_multipliers(
            *rows, kernels.inverses(code.columns.row, rows[0], coefficient), coefficient
        )
        row_start, column, entry = rows
        at = 0
        for j in range(code.m):
            assert first[j] == at
            here = range(row_start[j], row_start[j + 1])
            for p in here:
                assert j in code.column(column[p])[0]
                for q in here[p - here[0] + 1 :]:
                    for end in (p, q):
                        long = int(multiplier[at]) * int(coefficient[entry[end]]) % 2**64
                        assert min(long, 2**64 - long) <= 2**32
                    assert multiplier[at] != 0
                    at += 1
        assert first[-1] == at == multiplier.size

    def test_coefficients_of_equal_size_have_no_multiplier(self):
        row_start, column = np.array([0, 3]), np.array([0, 1, 2], np.int32)
        coefficient = np.array([77, -77, 77])
        inverse = kernels.inverses(np.zeros(3, np.int32), row_start, coefficient)
        _, multiplier = kernels.pair_multipliers(
            row_start, column, np.arange(3), inverse, coefficient
        )
        assert multiplier.tolist() == [0, 0, 0]

    @given(ODD)
    def test_inverses(self, a):
        coefficient = np.array([a], np.uint64).view(np.int64)
        [inverse] = kernels.inverses(np.zeros(1, np.int32), np.array([0, 1]), coefficient)
        assert a * int(inverse) % 2**64 == 1


@pytest.mark.parametrize("seeds", [[0], pytest.param([1, 2, 3], marks=pytest.mark.long)])
def test_short_words_of_32_bits_have_no_floor(seeds):
    """Few free checks left 1 damage in 300 stuck among the last checks, however many checks."""
    failed = 0
    for seed in seeds:
        code = LowBits.for_errors(5120, 210, seed=seed)
        prepared = Peeling().prepare(code)
        rng = np.random.default_rng(seed)
        for _ in range(500):
            damage = np.zeros(code.n, np.int64)
            positions = rng.choice(code.n, 210, replace=False)
            damage[positions] = rng.integers(1, 1 << 32, 210)
            decoding = prepared.decode(code.syndrome(damage))
            failed += decoding.verdict is not Verdict.CORRECTED
    assert failed == 0
