"""The stream: what it is, that it stays so, and that it is random."""

from __future__ import annotations

import math
from itertools import chain
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.errors import SpecError
from parimend.rng import Stream, log
from tests.chisquare import assert_uniform


def test_the_generator_is_philox4x64_10() -> None:
    # Known answer of the Random123 library: counter 0, key 0. numpy counts before each block.
    last = np.full(4, 2**64 - 1, dtype=np.uint64)
    philox = np.random.Philox(counter=last, key=np.zeros(2, dtype=np.uint64))
    assert philox.random_raw(4).tolist() == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


def test_recorded_seeds_keep_their_meaning() -> None:
    """Golden values. Never change them: every stored campaign depends on them."""
    stream = Stream(12345, "golden")
    assert stream.raw(2).tolist() == [6850530169231915896, 16602307784658352810]
    assert stream.integers(1000, 6).tolist() == [327, 447, 227, 920, 154, 591]
    assert stream.integers(2**64, 1).tolist() == [9006154986722132891]
    assert stream.distinct(10**10, 4).tolist() == [8059815356, 4074098677, 9643098086, 8421559193]
    assert stream.distinct(6, 5).tolist() == [5, 2, 1, 0, 3]
    assert [batch.tolist() for batch in stream.shuffled(100, 2)][:2] == [[35, 45], [67, 69, 74, 95]]
    assert [x.hex() for x in stream.normals(5).tolist()] == [
        "0x1.ddb8e5665d29ep-1",
        "-0x1.3bcc1e97e31b7p-1",
        "0x1.0db0d8799ba9dp+0",
        "-0x1.570d673ab2bbep-8",
        "0x1.9a5190390f1b8p+0",
    ]
    assert stream.raw(1).tolist() == [7309617653442498561]  # what came before used up this much


@pytest.mark.parametrize("bound", [1, 2, 5, 1000, 2**40 + 1, 2**64])
def test_sampling_is_what_the_documentation_says(bound: int) -> None:
    raw = Stream(6, "").raw(400).tolist()
    width = (bound - 1).bit_length()
    expected = [value for value in (r >> (64 - width) for r in raw) if value < bound]
    assert Stream(6, "").integers(bound, 100).tolist() == (expected if width else [0] * 100)[:100]
    if bound >= 1000:
        bound = min(bound, 2**62)
        expected = Stream(6, "").integers(bound, 200).tolist()
        assert Stream(6, "").distinct(bound, 90).tolist() == list(dict.fromkeys(expected))[:90]


def test_seeds_and_purposes_separate_streams() -> None:
    heads = {Stream(seed, text).raw(1)[0] for seed in (0, 1, 2**64 - 1) for text in ("", "a", "b")}
    assert len(heads) == 9


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(SpecError, match=f"seed must be from 0 to 2.64 - 1, not {seed}"):
        Stream(seed, "")


@given(st.integers(1, 2**64), st.integers(0, 200), st.integers(0, 2**64 - 1))
def test_integers_stay_below_the_bound(bound: int, count: int, seed: int) -> None:
    drawn = Stream(seed, "").integers(bound, count)
    assert drawn.shape == (count,)
    assert all(0 <= value < bound for value in drawn.tolist())


@given(st.integers(1, 2**63), st.lists(st.integers(0, 9)), st.integers(0, 2**64 - 1))
def test_integers_do_not_depend_on_batches(bound: int, batches: list[int], seed: int) -> None:
    one, many = Stream(seed, ""), Stream(seed, "")
    pieces = [many.integers(bound, size).tolist() for size in batches]
    assert one.integers(bound, sum(batches)).tolist() == list(chain(*pieces))


@given(st.data(), st.integers(0, 300) | st.integers(0, 10**10), st.integers(0, 2**64 - 1))
def test_distinct_integers_are_distinct(data: st.DataObject, bound: int, seed: int) -> None:
    count = data.draw(st.integers(0, min(bound, 500)))
    drawn = Stream(seed, "").distinct(bound, count).tolist()
    assert len(drawn) == len(set(drawn)) == count
    assert all(0 <= value < bound for value in drawn)


@given(st.integers(0, 2000), st.integers(1, 50), st.integers(0, 2**64 - 1))
def test_shuffled_visits_everything_once(bound: int, batch: int, seed: int) -> None:
    batches = [part.tolist() for part in Stream(seed, "").shuffled(bound, batch)]
    assert sorted(chain(*batches)) == list(range(bound))
    assert not batches or len(batches[0]) == min(batch, bound)


@pytest.mark.parametrize("bound", [2, 3, 100, 129])
def test_integers_are_uniform(bound: int) -> None:
    drawn = Stream(1, "uniform").integers(bound, 100 * bound).astype(np.int64)
    assert_uniform(np.bincount(drawn, minlength=bound))


@pytest.mark.parametrize(("bound", "count"), [(64, 3), (64, 40), (5, 2)])
def test_distinct_integers_are_uniform_at_every_place(bound: int, count: int) -> None:
    stream = Stream(2, "uniform")
    drawn = np.array([stream.distinct(bound, count) for _ in range(40 * bound)])
    for place in (0, count // 2, count - 1):
        assert_uniform(np.bincount(drawn[:, place], minlength=bound))


def test_later_batches_of_a_shuffle_are_uniform() -> None:
    stream = Stream(3, "uniform")
    thirds = [np.concatenate(list(stream.shuffled(64, 1)))[2] for _ in range(3000)]
    assert_uniform(np.bincount(thirds, minlength=64))


def test_normals_are_normal() -> None:
    drawn = Stream(4, "normal").normals(100_001)
    cells = np.floor([NormalDist().cdf(x) * 100 for x in drawn.tolist()]).astype(np.int64)
    assert_uniform(np.bincount(cells, minlength=100))
    assert abs(np.corrcoef(drawn[:-1:2], drawn[1::2])[0, 1]) < 0.02
    assert np.abs(drawn).max() > 4  # the tails are there


def test_logarithm_is_accurate() -> None:
    x = np.concatenate([2.0 ** -np.arange(110.0), Stream(5, "").raw(5000) * 2.0**-64])
    x = np.append(x, np.nextafter(1.0, [0.0, 2.0]))
    exact = np.array([math.log(value) for value in x.tolist()])
    np.testing.assert_allclose(log(x), exact, rtol=1e-14, atol=0)
