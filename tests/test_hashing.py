"""SplitMix64 against its definition, and the compiled path against the NumPy path."""

import numba as nb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.hashing import mix64, stream_key, words
from parimend.kernels.hashing_numba import below, word

U64 = st.integers(0, 2**64 - 1)

# Of the authors' splitmix64.c, seed 1234567.
VECTORS = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def splitmix64(state):
    """The generator as published: a state that grows by a constant."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        yield mix(state)


@nb.njit
def compiled(key, start, count):
    out = np.empty(count, np.uint64)
    for i in range(count):
        out[i] = word(key, np.uint64(start) + np.uint64(i))
    return out


@nb.njit
def compiled_below(x, bound):
    return below(x, bound)


def test_published_vectors():
    stream = splitmix64(1234567)
    assert [next(stream) for _ in VECTORS] == VECTORS
    assert words(np.uint64(1234567), 0, len(VECTORS)).tolist() == VECTORS


@given(U64, st.integers(0, 1000), st.integers(0, 50))
def test_a_stream_is_splitmix64_seeded_with_its_key(key, start, count):
    stream = splitmix64(key)
    expected = [next(stream) for _ in range(start + count)][start:]
    got = words(np.uint64(key), start, count)
    assert got.dtype == np.uint64
    assert got.tolist() == expected
    assert compiled(np.uint64(key), start, count).tolist() == expected


@given(U64, U64)
def test_words_far_along_a_stream(key, i):
    expected = mix((key + (i + 1) * 0x9E3779B97F4A7C15) % 2**64)
    assert compiled(np.uint64(key), np.uint64(i), 1).tolist() == [expected]


@given(U64, st.integers(1, 2**32 - 1))
def test_below_scales_the_upper_half(x, bound):
    got = int(compiled_below(np.uint64(x), bound))
    assert got == (x >> 32) * bound >> 32
    assert 0 <= got < bound


def test_below_reaches_every_value_about_equally():
    draws = [int(compiled_below(x, 10)) for x in words(np.uint64(1), 0, 10_000)]
    assert np.bincount(draws, minlength=10).min() > 850


def test_mix64_is_injective_where_tried():
    with np.errstate(over="ignore"):
        mixed = mix64(np.arange(100_000, dtype=np.uint64))
    assert np.unique(mixed).size == mixed.size


@given(U64, st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_stream_key_follows_its_path(seed, tags):
    key = seed
    for tag in [len(tags), *tags]:
        key = mix((key + (tag + 1) * 0x9E3779B97F4A7C15) % 2**64)
    assert stream_key(seed, *tags) == key
    assert stream_key(seed, *tags).dtype == np.uint64


def test_stream_keys_differ():
    paths = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (12,), (1, 2), (-1,)]
    keys = {int(stream_key(seed, *path)) for seed in (0, 1, 2**64 - 1) for path in paths}
    assert len(keys) == 3 * len(paths)


@pytest.mark.parametrize(
    ("path", "key"),
    [((0,), 0xE220A8397B1DCDAF), ((0, 1), 0x374327C63D0CC8A6), ((7, 1, 2), 0x1148C230BEF40DDF)],
)
def test_stream_keys_stay_as_they_are(path, key):
    assert int(stream_key(*path)) == key
