"""Hashed sums beside power sums: both are those of their codes, in parts and packed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Hashed, Modular, PowerSums, hashed
from parimend.errors import SpecError
from tests.codes.contract import CodeContract, assert_golden_sums

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
    with pytest.raises(SpecError, match="errors must be at least 1"):
        Hashed.for_errors(100, 0)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "hashed.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["spec"]))
def test_golden_sums(case):
    assert_golden_sums(case)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
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


def test_what_was_not_simulated_says_so():
    def what(errors):
        return Hashed.for_errors(10**7, errors).measured(errors).what

    assert what(hashed.SIMULATED) == "random damage, bursts, lines and pages"
    assert what(hashed.SIMULATED + 1).endswith(
        f"in all simulations, up to {hashed.SIMULATED:,} errors"
    )
