"""Power sums: against plain integers, in parts, in integers as in floats, and their promise."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parimend.codes import PowerSums, from_spec
from parimend.codes.power import LONGEST, MAX_ERRORS
from parimend.errors import SealError, SpecError
from parimend.kernels import power_numba
from parimend.kernels.points import SIZES
from tests.codes.contract import CodeContract, assert_golden_sums

PRIME = 4_294_991_873
LARGEST = 0xFFFFFFFF


def splitmix64(key, i):
    x = (key + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def generator(seed):
    """The primitive root by its definition: 3 to a number without a factor of p - 1."""
    key = seed
    for tag in (1, 1):
        key = splitmix64(key, tag)
    exponent = key % (PRIME - 1)
    while any(exponent % factor == 0 for factor in (2, 29, 101, 179)):
        exponent += 1
    return pow(3, exponent, PRIME)


def points(code):
    """x_i of every word, in Python's integers."""
    g = generator(code.seed)
    rows = next(2**k for k in range(1, 13) if 2**k >= code.m)
    root = pow(g, (PRIME - 1) // rows, PRIME)
    for i in range(code.n):
        tile, rest = divmod(i, 8 * rows)
        row, lane = divmod(rest, 8)
        yield pow(g, -(8 * tile + lane), PRIME) * pow(root, row, PRIME) % PRIME


def oracle(code, words):
    sums, key = [0] * code.m, code.seed
    for tag in (1, 2):
        key = splitmix64(key, tag)
    for i, (x, value) in enumerate(zip(points(code), words.tolist(), strict=True)):
        value = value * x * (splitmix64(key, i % code.tile) % (PRIME - 1) + 1) % PRIME
        for j in range(code.m):
            sums[j] = (sums[j] + value) % PRIME
            value = value * x % PRIME
    return np.array(sums, np.uint64)


def random_words(n, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    words[rng.random(n) < 0.3] = LARGEST
    return words


class TestContract(CodeContract):
    @pytest.fixture(
        params=[PowerSums(100, 2), PowerSums(300, 8), PowerSums(217, 6, seed=5), PowerSums(40, 32)]
    )
    def code(self, request):
        return request.param

    def word(self, code, rng):
        return random_words(code.n, int(rng.integers(1 << 30)))

    def oracle(self, code, word):
        dense = code.dense().astype(object)
        return np.array([int(row @ word.astype(object)) % PRIME for row in dense], np.uint64)


@pytest.mark.parametrize("rows", SIZES)
def test_sums_are_those_of_plain_integers(rows):
    code = PowerSums(2 * 8 * min(rows, 64) + 13, min(rows, 24), seed=rows)
    words = random_words(code.n)
    np.testing.assert_array_equal(code.syndrome(words), oracle(code, words))


@pytest.mark.parametrize("rows", SIZES)
def test_every_size_of_tile_agrees_with_the_sums_of_single_words(rows):
    code = PowerSums(3 * 8 * rows + 5, rows)
    words = np.zeros(code.n, np.uint32)
    where = np.unique(np.linspace(0, code.n - 1, 25).astype(np.int64))
    words[where] = random_words(where.size)
    assert code.rows == rows
    np.testing.assert_array_equal(code.syndrome(words), code.sums_of(where, words[where]))


@pytest.mark.parametrize("rows", [*SIZES[:-1], pytest.param(SIZES[-1], marks=pytest.mark.long)])
def test_the_largest_words_stay_exact(rows):
    code = PowerSums(2 * 8 * rows, rows)
    words = np.full(code.n, LARGEST, np.uint32)
    expected = code.sums_of(np.arange(code.n), words.astype(np.int64))
    np.testing.assert_array_equal(code.syndrome(words), expected)


@pytest.mark.parametrize("m", [2, 6, 16, 30, 128, 420])
def test_integers_give_what_floats_give(m, monkeypatch):
    code = PowerSums(5 * 8 * 512 + 77, m, seed=m)
    words = random_words(code.n)
    fast = code.syndrome(words)
    monkeypatch.setattr(power_numba, "fuses", lambda: False)
    np.testing.assert_array_equal(code.syndrome(words), fast)


@pytest.mark.parametrize("fuses", [True, False])
@given(rows=st.sampled_from(SIZES[:7]), blocks=st.integers(1, 4), seed=st.integers(0, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_block_has_the_sums_of_a_word_of_its_own(monkeypatch, fuses, rows, blocks, seed):
    code = PowerSums(3 * 8 * rows, rows, seed)
    words = random_words(blocks * code.n, seed)
    expected = [code.syndrome(block) for block in words.reshape(-1, code.n)]
    with monkeypatch.context() as patch:
        patch.setattr(power_numba, "fuses", lambda: fuses)
        found = code.of_each(words, code.n * np.arange(1, blocks + 1))
    np.testing.assert_array_equal(found, np.reshape(expected, (-1, rows)))


@given(st.data())
def test_parts_in_any_order_give_the_same_sums(data):
    code = PowerSums(data.draw(st.integers(1, 3000)), data.draw(st.sampled_from([2, 4, 14, 40])))
    words = random_words(code.n)
    cuts = data.draw(st.lists(st.integers(0, code.n // 8), max_size=5))
    edges = sorted({0, code.n, *(8 * cut for cut in cuts)})
    parts = data.draw(st.permutations(list(pairwise(edges))))
    sums = code.zeros()
    for a, b in parts:
        code.accumulate(sums, words[a:b], a)
    np.testing.assert_array_equal(sums, code.syndrome(words))


def test_all_points_differ():
    for code in (PowerSums(20_000, 2), PowerSums(20_000, 16), PowerSums(70_000, 420, seed=9)):
        assert np.unique(code.points(np.arange(code.n))).size == code.n


def test_far_words_have_the_points_that_their_definition_says():
    code = PowerSums(LONGEST, 8)
    g, w = generator(0), pow(generator(0), (PRIME - 1) // 8, PRIME)
    for i in (0, 63, 64, 10**9 + 7, LONGEST - 1):
        x = pow(g, -(8 * (i // 64) + i % 8), PRIME) * pow(w, i % 64 // 8, PRIME) % PRIME
        assert int(code.points(np.array([i]))[0]) % PRIME == x


def test_sums_are_linear():
    code, rng = PowerSums(1000, 12), np.random.default_rng(0)
    a, b = (rng.integers(0, 1 << 31, 1000, dtype=np.uint32) for _ in range(2))
    both = code.add(code.syndrome(a), code.syndrome(b))
    np.testing.assert_array_equal(both, code.syndrome(a + b))
    np.testing.assert_array_equal(code.subtract(both, code.syndrome(b)), code.syndrome(a))


def test_sizes():
    assert [PowerSums.for_errors(17_200_000, t).packed_bytes for t in (1, 4, 210, 1000)] == [
        9,
        33,
        1733,
        8250,
    ]
    assert PowerSums.for_errors(10, 7).guaranteed == 7


@given(st.integers(1, 60), st.integers(0, 1 << 30))
def test_packing_round_trip(pairs, seed):
    code = PowerSums(100, 2 * pairs)
    sums = np.random.default_rng(seed).integers(0, PRIME, 2 * pairs).astype(np.uint64)
    sums[0] = PRIME - 1
    np.testing.assert_array_equal(code.unpack(code.pack(sums)), sums)
    assert len(code.pack(sums)) == code.packed_bytes


def test_packed_sums_that_cannot_be_are_refused():
    code = PowerSums(100, 4)
    good = code.pack(np.full(4, PRIME - 1, np.uint64))
    for bad in (good[:-1], good + b"\0", b"\xff" * len(good), good[:-1] + b"\xff"):
        with pytest.raises(SealError, match="sums"):
            code.unpack(bad)


def test_refuses_what_cannot_be():
    for n, m in ((10, 3), (10, 2 * MAX_ERRORS + 2), (LONGEST + 1, 2)):
        with pytest.raises(SpecError, match="power sums"):
            PowerSums(n, m)
    for errors in (0, MAX_ERRORS + 1):
        with pytest.raises(SpecError, match="errors"):
            PowerSums.for_errors(100, errors)


def test_refuses_parts_that_do_not_fit():
    code, sums = PowerSums(100, 4), PowerSums(100, 4).zeros()
    words = np.zeros(16, np.uint32)
    for bad, start in ((words, 4), (words, 96), (words, -8), (words.astype(np.int32), 0)):
        with pytest.raises(SpecError, match="words"):
            code.accumulate(sums, bad, start)
    with pytest.raises(SpecError, match="shape"):
        code.accumulate(sums[:2], words)
    with pytest.raises(SpecError, match="residues"):
        code.add(np.full(4, PRIME, np.uint64), sums)
    with pytest.raises(SpecError, match="positions"):
        code.sums_of([100], [1])
    with pytest.raises(SpecError, match="do not go"):
        code.sums_of([1, 2], [1])


def test_spec_names_the_family():
    assert PowerSums(10, 4).spec() == {"family": "power", "n": 10, "m": 4, "seed": 0, "version": 1}
    assert from_spec(PowerSums(10, 4).spec()) == PowerSums(10, 4)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "power.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["spec"]))
def test_golden_sums(case):
    assert_golden_sums(case)
