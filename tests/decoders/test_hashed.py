"""Power sums name what peeling leaves: any four words, and no floor of failures."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.codes import Hashed, restore
from parimend.decoders import Buckets, HashedSums
from parimend.outcomes import Verdict
from tests.decoders.contract import SumsDecoderContract, assert_overload_is_told
from tests.decoders.test_buckets import patterns_of, positions_of

PRIME = 4_294_991_873
N = 17_200_000


class TestContract(SumsDecoderContract):
    easy, overload, overload_trials = 10, (40, 150), 300

    @pytest.fixture
    def decoder(self):
        return HashedSums()

    @pytest.fixture(params=[Hashed.for_errors(200, 10), Hashed(3000, 8 + 2 * 4 * 30, seed=5)])
    def code(self, request):
        return request.param


def assert_repaired(prepared, positions, values):
    order = np.argsort(positions)
    decoding = prepared.decode(prepared.code.sums_of(positions, values))
    assert decoding.verdict is Verdict.CORRECTED
    np.testing.assert_array_equal(decoding.positions, positions[order])
    np.testing.assert_array_equal(decoding.values, values[order])
    return decoding


def never_told_apart(code, count):
    """Pairs of words that share their buckets in all bands, in ``count`` pairs of groups."""
    pairs, seen = [], {}
    for group in range(code.n // 16):
        rows = code.parts[1].column(16 * group)[0]
        starts = rows - code.parts[1].size * np.arange(code.bands)
        differences = tuple(((starts - starts[0]) % code.parts[1].size).tolist())
        for other, start in seen.get(differences, []):
            apart = (starts[0] - start) % code.parts[1].size
            if apart < 16:  # lane l of this group is where lane l + apart of the other is
                here, there = 16 * group, 16 * other + apart
                pairs += [[there + lane, here + lane] for lane in range(16 - apart)]
                count -= 1
                break
        if not count:
            return pairs
        seen.setdefault(differences, []).append((group, starts[0]))
    raise AssertionError("too few")


@pytest.fixture(scope="module")
def crowded():
    """A code with few buckets, and pairs of its words that no bucket tells apart."""
    code = Hashed(200_000, 8 + 2 * 3 * 20, bands=3)
    pairs = np.array(never_told_apart(code, 40))
    for a, b in pairs:
        rows = [code.parts[1].column(i)[0].tolist() for i in (a, b)]
        assert rows[0] == rows[1]
    return HashedSums().prepare(code), pairs


def test_hashed_sums_alone_never_tell_these_pairs_apart(crowded):
    prepared, pairs = crowded
    buckets = prepared.code.parts[1]
    for pair in pairs:
        decoding = Buckets().prepare(buckets).decode(buckets.sums_of(pair, [5, 7]))
        assert decoding.verdict is Verdict.UNCORRECTABLE


@given(st.data())
def test_any_four_words_are_repaired(crowded, data):
    prepared, pairs = crowded
    chosen = [
        i
        for k in data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=2, unique=True))
        for i in pairs[k]
    ]
    more = data.draw(st.lists(st.integers(0, prepared.code.n - 1), max_size=4, unique=True))
    positions = np.unique(np.array([*chosen, *more], np.int64)[:4])
    values = st.integers(1, PRIME - 1) | st.sampled_from([1, 2, PRIME - 1, 1 << 32, 1 << 31])
    same = data.draw(values)
    damage = [data.draw(values | st.just(same)) for _ in positions]
    if positions.size:
        assert_repaired(prepared, positions, np.array(damage))


def test_opposite_damage_in_such_pairs_is_repaired(crowded):
    # It leaves S0 as it is everywhere.
    prepared, pairs = crowded
    for first, second in itertools.pairwise(pairs):
        if np.unique([first, second]).size == 4:
            assert_repaired(
                prepared, np.array([*first, *second]), np.array([3, PRIME - 3, 9, PRIME - 9])
            )


@pytest.mark.parametrize("seed", range(20))
def test_pairs_among_words_that_are_peeled(crowded, seed):
    prepared, pairs = crowded
    rng = np.random.default_rng(seed)
    [pair] = pairs[rng.integers(len(pairs), size=1)]
    others = np.setdiff1d(rng.choice(prepared.code.n, 8, replace=False), pair)
    positions = np.concatenate([pair, others])
    decoding = prepared.decode(
        prepared.code.sums_of(positions, rng.integers(1, PRIME, len(positions)))
    )
    assert decoding.verdict is Verdict.CORRECTED
    np.testing.assert_array_equal(decoding.positions, np.sort(positions))
    assert decoding.steps["power"] >= 2


def test_the_pair_of_the_code_for_210_errors():
    prepared = HashedSums().prepare(Hashed.for_errors(N, 210))
    pair, rng = np.array([5_140_651, 7_534_416]), np.random.default_rng(0)
    for _ in range(200):
        positions = np.union1d(pair, rng.choice(N, 100, replace=False))
        assert_repaired(prepared, positions, rng.integers(1, PRIME, positions.size))
        assert_repaired(prepared, pair, rng.integers(1, PRIME, 2))


@pytest.mark.parametrize(
    ("trials", "least"), [(500, 2), pytest.param(2000, 10, marks=pytest.mark.long)]
)
def test_the_floor_is_gone(trials, least):
    # Two bands of 48 buckets: about one pattern of six words in 150 holds a pair.
    code = Hashed(1_000_000, 8 + 2 * 2 * 48, bands=2)
    both, alone = HashedSums().prepare(code), Buckets().prepare(code.parts[1])
    failed = {both: 0, alone: 0}
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        positions, values = rng.choice(code.n, 6, replace=False), rng.integers(1, PRIME, 6)
        for prepared in failed:
            decoding = prepared.decode(prepared.code.sums_of(positions, values))
            failed[prepared] += decoding.verdict is Verdict.UNCORRECTABLE
            if decoding.verdict is Verdict.CORRECTED:
                np.testing.assert_array_equal(decoding.positions, np.sort(positions))
    assert failed[alone] >= least
    assert failed[both] == 0


@pytest.mark.parametrize("pattern", ["same", "zero", "bits", "random"])
@pytest.mark.parametrize("place", ["scattered", "burst", "lines", "page"])
@pytest.mark.parametrize("t", [2000, 10_000])
def test_thousands_of_words(t, place, pattern):
    rng = np.random.default_rng(t)
    prepared = HashedSums().prepare(Hashed.for_errors(N, t, seed=7))
    positions = positions_of(place, N, t, rng) if place != "page" else pages(N, t, rng)
    original = rng.normal(size=t).astype(np.float32).view(np.uint32)
    received = patterns_of(pattern, original, rng)
    wrong = received != original
    damage = (received.astype(np.int64) - original) % PRIME
    decoding = assert_repaired(prepared, positions[wrong], damage[wrong])
    words = restore(received[wrong], decoding.values, PRIME)
    np.testing.assert_array_equal(words, original[wrong])


def pages(n, t, rng):
    """Half of the words of as many pages of 4 KiB as it takes."""
    chosen = rng.choice(n // 1024, -(-t // 512), replace=False)
    inside = [np.sort(rng.choice(1024, 512, replace=False)) for _ in chosen]
    return np.sort((1024 * chosen[:, None] + inside).ravel()[:t])


@pytest.mark.parametrize("trials", [100, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.parametrize("n", [5000, N, 2**32 - 2**19])
def test_too_much_damage_is_never_called_corrected_wrongly(n, trials):
    prepared = HashedSums().prepare(Hashed.for_errors(n, 20, seed=1))
    assert_overload_is_told(prepared, np.random.default_rng(n), trials)


@pytest.mark.parametrize("which", [0, 7, 8, 135])
def test_what_one_sum_contradicts_is_not_corrected(which):
    code = Hashed(1000, 136)
    prepared = HashedSums().prepare(code)
    for positions in ([5], [5, 77], [5, 77, 200, 300, 400, 500]):
        syndrome = code.sums_of(positions, np.arange(1, 1 + len(positions)))
        assert prepared.decode(syndrome).verdict is Verdict.CORRECTED
        syndrome[which] = (syndrome[which] + np.uint64(1)) % np.uint64(PRIME)
        assert prepared.decode(syndrome).verdict is Verdict.UNCORRECTABLE


def test_errors_and_erasures_up_to_eight_checks(crowded):
    prepared, pairs = crowded
    rng = np.random.default_rng(0)
    for errors, erased in ((0, 8), (1, 6), (2, 4), (3, 2)):
        positions = np.unique(pairs[: errors + erased].ravel())[: errors + erased]
        values = rng.integers(1, PRIME, positions.size)
        syndrome = prepared.code.sums_of(positions, values)
        decoding = prepared.decode(syndrome, erasures=rng.permutation(positions)[:erased])
        assert decoding.verdict is Verdict.CORRECTED
        np.testing.assert_array_equal(decoding.positions, positions)
        np.testing.assert_array_equal(decoding.values, values)


def test_sound_erasures_are_reported_with_zero_damage():
    prepared = HashedSums().prepare(Hashed(500, 136))
    sums = prepared.code.sums_of([3, 100, 200, 300, 400], [9, 1, 1, 1, 1])
    for erasures in ([3, 40], list(range(3, 43))):
        decoding = prepared.decode(sums, erasures=np.array(erasures))
        found = dict(zip(decoding.positions.tolist(), decoding.values.tolist(), strict=True))
        assert found == dict.fromkeys(erasures, 0) | {3: 9, 100: 1, 200: 1, 300: 1, 400: 1}
