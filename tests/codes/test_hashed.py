"""Hashed sums beside power sums: both are those of their codes, in parts and packed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Hashed, Modular, PowerSums, from_spec
from parimend.errors import SealError, SpecError
from tests.codes.contract import CodeContract

PRIME = 4_294_991_873


class TestContract(CodeContract):
    @pytest.fixture(
        params=[
            Hashed(100, 8 + 2 * 64),
            Hashed(333, 2 + 2 * 90, seed=5, first=2, bands=5),
            Hashed.for_errors(333, 20, seed=2**64 - 2),
        ],
        ids=repr,
    )
    def code(self, request):
        return request.param

    def word(self, code, rng):
        return rng.integers(0, 1 << 32, code.n, dtype=np.uint32)

    def oracle(self, code, word):
        power, buckets = code.parts
        powers = [int(row @ word.astype(object)) % PRIME for row in power.dense().astype(object)]
        H, q = buckets.dense().astype(object), word.astype(object)
        sums = [*powers, *((H != 0).astype(object) @ q % PRIME), *(H @ q % PRIME)]
        return np.array(sums, np.uint64)


def words_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 32, n, dtype=np.uint32)


def test_its_sums_are_those_of_two_codes():
    code = Hashed(5000, 8 + 2 * 4 * 30, seed=3)
    power, buckets = code.parts
    assert (power.m, code.guaranteed) == (8, 4)
    assert power.generator != PowerSums(5000, 8, seed=3).generator
    assert buckets == Modular(5000, 120, seed=3, version=2)
    assert code.prime == power.prime == buckets.prime == PRIME
    words = words_of(5000)
    first, hashed = code.split(code.syndrome(words))
    np.testing.assert_array_equal(first, power.syndrome(words))
    np.testing.assert_array_equal(hashed, buckets.syndrome(words))


@given(st.data())
def test_few_and_all_sums_come_in_parts(data):
    code = Hashed(data.draw(st.integers(1, 4000)), 136, data.draw(st.integers(0, 99)))
    words = words_of(code.n)
    cut = 16 * data.draw(st.integers(0, code.n // 16))
    expected = code.syndrome(words)
    for few in (False, True):
        sums = code.accumulate(code.zeros(few), words[cut:], cut)
        sums = code.add(sums, code.accumulate(code.zeros(few), words[:cut]))
        np.testing.assert_array_equal(sums, code.few(expected) if few else expected)
    assert code.few_shape == (8,)


@given(st.integers(1, 8), st.integers(0, 1 << 30))
def test_eight_wrong_words_always_change_the_few(count, seed):
    code, rng = Hashed(10_000, 136), np.random.default_rng(seed)
    positions = rng.choice(10_000, count, replace=False)
    assert code.few(code.sums_of(positions, rng.integers(1, PRIME, count))).any()


@given(st.integers(0, 99), st.integers(1, 400))
def test_sums_are_linear_and_packed(seed, n):
    code = Hashed(n, 8 + 2 * 3 * 29, bands=3)
    received, original = words_of(n, seed), words_of(n, seed + 100)
    changed = code.subtract(code.syndrome(received), code.syndrome(original))
    damage = received.astype(np.int64) - original
    np.testing.assert_array_equal(changed, code.sums_of(np.arange(n), damage))
    packed = code.pack(changed)
    assert len(packed) == code.packed_bytes
    np.testing.assert_array_equal(code.unpack(packed), changed)


def test_sizes():
    for errors in (1001, 10_000):
        code, hashed = (c.for_errors(17_200_000, errors) for c in (Hashed, Modular))
        assert code.parts[1].m == hashed.m
        assert code.packed_bytes == hashed.packed_bytes + 33
    assert code.packed_bytes == 111_144


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "hashed.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["spec"]))
def test_golden_sums(case):
    code = from_spec(case["spec"])
    assert code.spec() == case["spec"]
    positions, values = np.array(case["words"], np.int64).T
    sums = code.sums_of(positions, values)
    assert code.pack(sums).hex() == case["checks"]
    assert (code.unpack(bytes.fromhex(case["checks"])) == sums).all()
    if code.n <= 300_000:  # the others would fill the memory
        word = np.zeros(code.n, np.uint32)
        word[positions] = values
        assert (code.syndrome(word) == sums).all()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"first": 0}, "first"),
        ({"first": 136}, "first"),
        ({"first": True}, "first"),
        ({"first": 8.0}, "first"),
        ({"first": 7, "m": 135}, "power sums"),
        ({"m": 137}, "m=137 less first=8 must be even"),
        ({"m": 134}, "at least 64"),
        ({"bands": 3}, "multiple of 3"),
        ({"n": 2**32}, "split the data"),
    ],
)
def test_codes_that_cannot_exist(fields, match):
    with pytest.raises(SpecError, match=match):
        dataclasses.replace(Hashed(100, 136), **fields)


def test_misuse_is_refused():
    code = Hashed(100, 136)
    for wrong in (np.zeros(3, np.uint64), np.zeros((2, 4, 16), np.uint64)):
        with pytest.raises(SpecError, match="uint64"):
            code.accumulate(wrong, words_of(16))
    with pytest.raises(SealError, match="sums"):
        code.unpack(b"\0" * (code.packed_bytes - 1))
    with pytest.raises(SpecError, match="errors must be at least 1"):
        Hashed.for_errors(100, 0)
