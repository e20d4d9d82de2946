"""Modular codes: sums against big integers, in parts, packed; words restored."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Modular, from_spec, restore
from parimend.codes.base import MAX_WORDS
from parimend.codes.modular import GROUP, PRIMES
from parimend.errors import SealError, SpecError
from parimend.hashing import stream_key
from parimend.kernels import modular_numba
from parimend.kernels.modular import most_groups
from tests.codes.contract import CodeContract

LARGEST = 0xFFFFFFFF
PRIME = PRIMES[1]
VERSIONS = st.sampled_from(sorted(PRIMES))


def random_words(n, seed=0):
    """Random patterns with extremes among them."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    words[rng.random(n) < 0.2] = LARGEST
    words[rng.random(n) < 0.1] = 0
    return words


def splitmix64(key, i):
    x = (key + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def coefficient(group):
    x = group + 1
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def oracle(code, words, first=0):
    """The sums by their definition, in Python's integers."""
    sums = np.zeros(code.syndrome_shape, object)
    key, half = int(stream_key(code.seed, 1)), (code.bands + 1) // 2
    for i, q in enumerate(words.tolist(), first):
        group, lane = divmod(i, 16)
        for k in range(code.bands):
            h = splitmix64(key, group * half + k // 2)
            h = h & LARGEST if k % 2 else h >> 32
            bucket = ((h * code.size >> 32) + lane) % code.size
            sums[0, k, bucket] += q
            sums[1, k, bucket] += coefficient(group) * q
    return (sums % PRIMES[code.version]).astype(np.uint64)


class TestContract(CodeContract):
    @pytest.fixture(
        params=[
            Modular(n=1, m=64),
            Modular(n=40, m=51, bands=3, seed=3),
            Modular(n=333, m=90, bands=5, seed=1),
            Modular(n=333, m=90, version=2, bands=5, seed=1),
            Modular.for_errors(333, 20, seed=2**64 - 2),
        ],
        ids=repr,
    )
    def code(self, request):
        return request.param

    def oracle(self, code, word):
        H = code.dense().astype(object)
        sums = np.array([(H != 0).astype(object) @ word.tolist(), H @ word.tolist()])
        return (sums % PRIMES[code.version]).astype(np.uint64).reshape(code.syndrome_shape)

    def test_a_word_is_seen_by_the_checks_of_its_column_and_no_others(self, code):
        # Here a check has two sums, which come first in the shape.
        for i in {0, code.n // 2, code.n - 1}:
            rows, coefficients = code.column(i)
            word = np.zeros(code.n, np.uint32)
            word[i] = 1
            s0, s1 = code.syndrome(word).reshape(2, code.m)
            np.testing.assert_array_equal(np.flatnonzero(s0), np.sort(rows))
            assert (s0[rows] == 1).all()
            assert (s1[rows] == coefficients).all()
            assert np.count_nonzero(s1) == rows.size == code.bands


@given(
    n=st.one_of(st.integers(1, 40), st.integers(1, 3000)),
    bands=st.integers(2, 8),
    size=st.one_of(st.integers(16, 40), st.integers(16, 3000)),
    seed=st.integers(0, 2**64 - 1),
    version=VERSIONS,
)
def test_sums_are_those_of_the_oracle(n, bands, size, seed, version):
    code = Modular(n, bands * size, seed, version, bands)
    words = random_words(n, seed % 1000)
    np.testing.assert_array_equal(code.syndrome(words), oracle(code, words))


@given(data=st.data(), n=st.integers(1, 5000))
def test_parts_in_any_order_make_the_whole(data, n):
    code = Modular(n, 4 * 37, seed=n)
    words = random_words(n, n)
    cuts = data.draw(st.sets(st.integers(0, (n - 1) // GROUP), max_size=6)) | {0}
    starts = sorted(GROUP * cut for cut in cuts)
    parts = list(zip(starts, [*starts[1:], n], strict=True))
    sums = code.zeros()
    for start, stop in data.draw(st.permutations(parts)):
        assert code.accumulate(sums, words[start:stop], start) is sums
    np.testing.assert_array_equal(sums, code.syndrome(words))


@pytest.mark.parametrize("version", sorted(PRIMES))
@pytest.mark.parametrize("phases", [1, 8])
def test_blocks_change_nothing(monkeypatch, phases, version):
    code = Modular(n=20_011, m=5 * 61, bands=5, version=version)
    words = random_words(code.n)
    whole = code.syndrome(words)
    monkeypatch.setattr("parimend.codes.modular._FAST_BYTES", 0 if phases == 1 else 1 << 20)
    monkeypatch.setattr("parimend.codes.modular.most_groups", lambda excess: 70)
    np.testing.assert_array_equal(code.accumulate(code.zeros(), words), whole)


@given(n=st.integers(1, 2000), bands=st.integers(2, 8), size=st.integers(16, 600), data=st.data())
def test_the_first_bands_can_be_summed_up_alone(n, bands, size, data):
    code = Modular(n, bands * size, seed=n, bands=bands)
    words = random_words(n)
    few = data.draw(st.integers(1, bands))
    none = np.zeros((2, few, code.size), np.uint64)
    cut = GROUP * data.draw(st.integers(0, n // GROUP))
    sums = code.accumulate(none.copy(), words[cut:], cut)
    sums = code.add(sums, code.accumulate(none, words[:cut]))
    np.testing.assert_array_equal(sums, code.syndrome(words)[:, :few])


@pytest.mark.parametrize("prime", PRIMES.values())
def test_accumulators_cannot_overflow(prime):
    # One term a group, at most, falls into the same accumulator.
    excess = prime - 2**32
    largest_s1_term = (2**32 - 1) + excess * prime
    most = most_groups(excess)
    assert most * largest_s1_term < 2**64 < 2 * most * largest_s1_term


@pytest.mark.parametrize("version", sorted(PRIMES))
def test_the_largest_words_and_the_last_group(version):
    code = Modular(n=MAX_WORDS, m=64, version=version)
    words = np.full(16 * 100, LARGEST, np.uint32)
    start = MAX_WORDS - words.size
    sums = code.accumulate(code.zeros(), words, start)
    np.testing.assert_array_equal(sums, oracle(code, words, start))
    positions = np.arange(start, MAX_WORDS)
    np.testing.assert_array_equal(code.sums_of(positions, words.astype(np.int64)), sums)


@given(seed=st.integers(0, 99), n=st.integers(1, 400), version=VERSIONS)
def test_sums_are_linear(seed, n, version):
    code = Modular(n, 3 * 29, bands=3, version=version)
    received, original = random_words(n, seed), random_words(n, seed + 100)
    damage = received.astype(np.int64) - original
    changed = code.subtract(code.syndrome(received), code.syndrome(original))
    np.testing.assert_array_equal(changed, code.sums_of(np.arange(n), damage))
    np.testing.assert_array_equal(code.sums_of(np.arange(n), damage % code.prime), changed)
    np.testing.assert_array_equal(
        code.add(changed, code.syndrome(original)), code.syndrome(received)
    )


def test_words_may_be_unaligned_strided_read_only_and_mapped(tmp_path):
    code = Modular(n=100, m=64)
    words = random_words(100)
    sums = code.syndrome(words)
    unaligned = np.frombuffer(b"x" + words.tobytes(), np.uint32, offset=1)
    (tmp_path / "words").write_bytes(words.tobytes())
    mapped = np.memmap(tmp_path / "words", np.uint32, mode="r")
    for other in (unaligned, np.repeat(words, 3)[::3], mapped):
        np.testing.assert_array_equal(code.accumulate(code.zeros(), other), sums)


def test_the_coefficients_are_a_bijection_without_zero():
    groups = [0, 1, 2, 12345, 2**31, 2**32 - 3, 2**32 - 2, *range(1000, 2000)]
    a = [coefficient(group) for group in groups]
    assert len(set(a)) == len(a)
    assert all(0 < x < 2**32 for x in a)
    for group, x in zip(groups, a, strict=True):
        assert modular_numba.group_of(np.uint64(x)) == group
        assert int(modular_numba.coefficient(np.int64(group))) == x


@given(prime=st.sampled_from(list(PRIMES.values())), data=st.data())
def test_multiplication_modulo_p(prime, data):
    residues = st.integers(0, prime - 1) | st.integers(prime - 20, prime - 1)
    a, b = data.draw(residues), data.draw(residues)
    excess = np.uint64(prime - 2**32)
    assert int(modular_numba.multiply(np.uint64(a), np.uint64(b), excess)) == a * b % prime


def test_the_sums_are_pinned():
    # Seals outlive versions: these bytes must never change.
    code = Modular(n=1000, m=5 * 20, seed=42, bands=5)
    words = (np.arange(1000, dtype=np.uint64) ** 5 % PRIME).astype(np.uint32)
    packed = code.pack(code.syndrome(words))
    assert packed[:16].hex() == "4a483d5859fd63edbfe2eeb425e91030"
    assert (
        hashlib.sha256(packed).hexdigest()
        == "842d798dff533c2cdf544e8ef14c129c202f77278c3868ad011b17ebcee14b73"
    )


@given(
    seed=st.integers(0, 10**6), size=st.integers(16, 50), bands=st.integers(2, 8), version=VERSIONS
)
def test_packing_round_trip(seed, size, bands, version):
    code = Modular(100, bands * size, bands=bands, version=version)
    rng = np.random.default_rng(seed)
    sums = rng.integers(0, code.prime, code.syndrome_shape, dtype=np.uint64)
    top = rng.random(sums.shape) < 0.2
    sums[top] = rng.integers(1 << 32, code.prime, top.sum(), dtype=np.uint64)
    packed = code.pack(sums)
    assert len(packed) == code.packed_bytes == 8 * code.m + -(-code.m // 4)
    np.testing.assert_array_equal(code.unpack(packed), sums)


def test_damaged_bytes_are_refused():
    code = Modular(100, 85, bands=5)
    packed = code.pack(code.syndrome(random_words(100)))
    for bad in (b"", packed[:-1], packed + b"\0"):
        with pytest.raises(SealError, match=rf"{code.packed_bytes} bytes, not {len(bad)}"):
            code.unpack(bad)
    too_large = bytearray(packed)
    too_large[0:4] = b"\xff" * 4
    too_large[8 * code.m] |= 1
    with pytest.raises(SealError, match="2\\^32"):
        code.unpack(bytes(too_large))
    padding = bytearray(packed)
    padding[-1] |= 1 << 7
    with pytest.raises(SealError, match="damaged"):
        code.unpack(bytes(padding))


@given(original=st.integers(0, LARGEST), received=st.integers(0, LARGEST), other=st.integers(0, 14))
def test_restore(original, received, other):
    damage = np.array([(received - original) % PRIME])
    words = restore(np.array([received], np.uint32), damage, PRIME)
    assert words is not None
    assert words.dtype == np.uint32
    assert words[0] == original
    # Damage that would lead to one of the 15 residues that are no pattern of 32 bits.
    impossible = np.array([(received - (2**32 + other)) % PRIME])
    assert restore(np.array([received], np.uint32), impossible, PRIME) is None


@pytest.mark.parametrize("errors", [1, 2, 10, 11, 100, 210, 999, 1000, 30_000, 10**6])
@pytest.mark.parametrize("n", [1, 40, 5120, 17_200_000, MAX_WORDS])
def test_codes_for_any_number_of_errors(n, errors):
    code = Modular.for_errors(n, errors, seed=3)
    assert (code.n, code.seed) == (n, 3)
    assert from_spec(code.spec()) == code
    assert code.packed_bytes <= Modular.for_errors(n, errors + 100).packed_bytes


def test_budgets():
    size = {t: Modular.for_errors(17_200_000, t).packed_bytes for t in (10, 210, 1000, 10_000)}
    assert size == {10: 743, 210: 3218, 1000: 12111, 10_000: 111_111}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"version": 3}, "version 3 of modular codes is unknown"),
        ({"bands": 1}, "bands"),
        ({"bands": 9}, "bands"),
        ({"bands": True}, "bands"),
        ({"bands": 4.0}, "bands"),
        ({"m": 65}, "multiple of 4"),
        ({"m": 60}, "at least 64"),
        ({"n": MAX_WORDS + 1}, "split"),
        ({"m": 1 << 32}, "split"),
    ],
)
def test_codes_that_cannot_exist(fields, match):
    with pytest.raises(SpecError, match=match):
        Modular(**{"n": 100, "m": 64, **fields})


def test_misuse_is_refused():
    code = Modular(n=100, m=64)
    words = random_words(100)
    for part, start in ((words, 16), (words[:5], 8), (words[:5], -16), (words[:48], 64)):
        with pytest.raises(SpecError, match="multiple of 16"):
            code.accumulate(code.zeros(), part, start)
    with pytest.raises(SpecError, match="uint32"):
        code.accumulate(code.zeros(), words.astype(np.int32))
    with pytest.raises(SpecError, match="shape"):
        code.accumulate(code.zeros()[0], words)
    with pytest.raises(SpecError, match="uint64"):
        code.subtract(code.zeros(), code.zeros().astype(np.int64))
    for wrong in (
        code.zeros(few=True),
        np.zeros((2, 5, 16), np.uint64),
        np.zeros((2, 0, 16), np.uint64),
    ):
        with pytest.raises(SpecError, match="shape"):
            code.add(code.zeros(), wrong)
    with pytest.raises(SpecError, match="shape"):
        code.pack(code.zeros(few=True))
    with pytest.raises(SpecError, match="shape"):
        code.accumulate(np.zeros((2, 5, 16), np.uint64), words)
    with pytest.raises(SpecError, match="residues"):
        code.add(code.zeros(), code.zeros() + np.uint64(PRIME))
    for positions, values in (([100], [1]), ([-1], [1]), ([1, 2], [1]), ([[1]], [[1]])):
        with pytest.raises(SpecError, match="positions"):
            code.sums_of(np.array(positions), np.array(values))
    with pytest.raises(SpecError, match="errors must be at least 1"):
        Modular.for_errors(100, 0)
