"""What codes promise, and that what is called certain is."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.guarantees import Misleading
from parimend.codes import (
    Chance,
    Gaussian,
    LowBits,
    Modular,
    PowerSums,
    Promise,
    Screened,
    Sparse,
    sums_for,
)
from parimend.codes.certificate import promised
from parimend.codes.promise import weakest
from parimend.decoders import certified
from parimend.words.layout import Part, Word, whole

N = 4096
SUMS = [PowerSums(N, 6), Screened(N, 24), Modular(N, 80, bands=5)]


def word(dtype="F32", n=5120):
    return Word((whole("w", dtype, (n,)),))


chances = st.none() | st.builds(
    Chance, st.integers(1, 20), st.sampled_from([1e-9, 1e-3, 0.5]), st.just("x")
)
promises = st.builds(
    Promise,
    st.integers(0, 20),
    chances,
    chances,
    st.integers(0, 9),
    st.sampled_from([0.0, 1e-9, 1.0]),
)


@given(st.lists(promises, min_size=1, max_size=4))
def test_the_weakest_holds_of_each(every):
    common = weakest(every)
    for each in every:
        assert common.guaranteed <= each.guaranteed
        assert common.noticed <= each.noticed
        assert common.missed >= each.missed
        shared = min(common.errors, each.errors)
        assert (common.failing(shared) >= each.failing(shared)).all()
        assert common.errors <= each.errors
    assert weakest(every * 2) == common


def test_of_no_words_nothing_is_promised():
    assert weakest([]) == Promise(0)
    assert weakest([]).failing(9).tolist() == [0.0]


@pytest.mark.parametrize("code", SUMS, ids=lambda code: code.family)
@given(data=st.data())
def test_sums_notice_as_many_wrong_words_as_they_say(code, data):
    places = st.lists(st.integers(0, N - 1), min_size=1, max_size=code.noticed, unique=True)
    positions = data.draw(places)
    sizes = st.integers(1 - (1 << 32), (1 << 32) - 1).filter(bool)
    values = data.draw(st.lists(sizes, min_size=len(positions), max_size=len(positions)))
    assert code.few(code.sums_of(positions, values)).any()


def test_two_words_never_cancel_in_the_band_of_hashed_sums_that_is_looked_at():
    """All pairs in a bucket, with the only damage that cancels in the plain sum."""
    code = Modular(N, 64, bands=4)
    members = {}
    for i in range(N):
        buckets, factors = code.column(i)
        members.setdefault(int(buckets[0]), []).append((i, int(factors[0])))
    pairs = [pair for each in members.values() for pair in itertools.combinations(each, 2)]
    assert len(pairs) > 100_000
    assert all(a != b for (_, a), (_, b) in pairs)  # so a x + b y = 0 and x + y = 0 have no x, y
    (i, a), (k, b), (j, c) = members[0][:3]
    # Three words can: damage in proportion to b - c, c - a, a - b.
    code_sums = code.sums_of([i, k, j], [b - c, c - a, a - b])
    assert not code.few(code_sums).any()
    assert code_sums.any()


@pytest.mark.parametrize("code", SUMS, ids=lambda code: code.family)
def test_what_is_missed_is_a_share_of_all_that_words_can_hold(code):
    promise = code.promise(2, word(n=N))
    assert promise.noticed == code.noticed
    assert promise.missed == 2.0 ** (-32 * code.noticed)


@pytest.mark.parametrize(
    ("parts", "bits"),
    [
        ([whole("w", "F32", (99,))], 128),
        ([whole("w", "F32", (99,)), whole("a", "F16", (3,))], 128),  # one word of 16 bits
        ([whole("w", "F32", (99,)), *(whole(name, "F16", ()) for name in "abc")], 96),
        ([whole(str(i), "U8", ()) for i in range(99)], 32),
        ([Part("w", "F32", (99,), 0, 99, mask=1 << 30)], 4),
        ([Part("w", "F16", (99,), 0, 99, mask=0x7C00)], 40),
        ([Part("w", "F64", (99,), 0, 99, mask=0x7FF << 52)], 44),
        ([Part("w", "BF16", (9, 5), 5, 5)], 64),  # a row that begins within a word
    ],
)
def test_words_with_few_bits_of_their_own_are_missed_more_easily(parts, bits):
    n = Word(tuple(parts)).padded
    assert Screened(n, 12).promise(4, Word(tuple(parts))).missed == 2.0**-bits


def test_no_probability_is_rounded_to_zero():
    assert 0 < PowerSums(N, 2000).promise(1000, word(n=N)).missed < 1e-300


@pytest.mark.parametrize(
    ("n", "errors", "guaranteed", "measured"),
    [
        (N, 210, 210, None),
        (10**6, 1000, 1000, None),
        (10**6, 1001, 4, 1001),
        (16, 5000, 5000, None),
    ],
)
def test_budgets_of_sums(n, errors, guaranteed, measured):
    promise = sums_for(n, errors).promise(errors, word(n=n))
    assert promise.guaranteed == guaranteed
    assert (promise.bound is None) == (measured is None)
    assert promise.bound is None or (promise.bound.errors, promise.bound.probability < 1e-9) == (
        750,
        True,
    )
    assert (promise.measured and promise.measured.errors) == measured
    assert promise.errors == errors
    assert promise.failing(n)[-1] == (1e-3 if measured else 0.0)


def test_a_code_for_less_than_was_asked_for_promises_what_it_can():
    promise = Screened(N, 24).promise(50, word(n=N))
    assert (promise.guaranteed, promise.measured, promise.errors) == (10, None, 10)
    small = Modular.for_errors(10**6, 1500).promise(5000, word(n=10**6))
    assert (small.guaranteed, small.measured) == (1, None)


@pytest.mark.parametrize("family", [Sparse, LowBits])
def test_budgets_that_are_measured(family):
    promise = family.for_errors(5120, 210).promise(210, word())
    assert (promise.guaranteed, promise.bound) == (0, None)
    assert promise.measured == Chance(210, 1e-3, "random damage")
    assert (promise.noticed, promise.missed) == (1, 2.0**-256)
    # Fewer checks than were measured, as Real(rows=100) takes.
    few = family.for_errors(5120, 210, m=100).promise(210, word())
    assert (few.measured, few.errors) == (None, 0)
    # The word is too short for so many.
    assert family.for_errors(5120, 210).promise(5120, word()).measured is None


@pytest.mark.parametrize(("family", "n"), [(Sparse, 5120), (LowBits, 1600)])
def test_where_many_of_the_weights_may_be_wrong_less_is_promised(family, n):
    for errors, most in ((n // 8, 1e-3), (n // 8 + 1, 1e-2), (n * 3 // 20, 1e-2)):
        promise = family.for_errors(n, errors).promise(errors, word(n=n))
        assert promise.measured == Chance(errors, most, "random damage")


def test_coefficients_of_weights_of_16_bits_were_too_short():
    """Seals of then are read as ever, and what was promised of them is not so."""
    code = Sparse.for_errors(5120, 420, word_bits=16)
    assert code.coefficient_bits == 46
    assert code.promise(210, word("I16")).measured.probability == 1e-3
    assert replace(code, coefficient_bits=36).promise(210, word("I16")).measured is None
    more = Sparse.for_errors(5120, 420, m=700, word_bits=16)
    assert more.promise(210, word("I16")).measured.probability == 1e-3


def test_words_of_32_bits_are_several_narrow_weights():
    code = Sparse.for_errors(5120, 40, word_bits=8)
    assert code.promise(10, word("I8")).measured.errors == 10
    assert code.promise(20, word("I8")).measured is None
    assert code.promise(10, word("I8")).noticed == 0  # the four weights of a word may cancel


def test_codes_that_are_not_sealed_promise_nothing():
    assert Gaussian(60, 20).promise(5, word(n=60)) == Promise(0)


@pytest.fixture(scope="module")
def proof():
    return certified(Sparse.for_errors(5120, 210, m=320))


@pytest.mark.parametrize(
    ("dtype", "errors", "guaranteed", "noticed"),
    [("F32", 210, 3, 6), ("F64", 210, 3, 6), ("F32", 2, 2, 6), ("I16", 100, 1, 3), ("I8", 9, 0, 1)],
)
def test_a_certificate_counts_weights(proof, dtype, errors, guaranteed, noticed):
    promise = promised(proof.code, word(dtype), errors, proof)
    assert (promise.guaranteed, promise.noticed) == (guaranteed, noticed)
    bare = promised(proof.code, word(dtype), errors, None)
    assert (bare.guaranteed, bare.measured) == (0, promise.measured)


def test_six_wrong_words_of_a_certified_code_change_a_check(proof):
    code, misleading = proof.code, Misleading(proof.code)
    assert proof.noticed == 6
    assert replace(proof, errors=2, sets=()).noticed == 5
    for words in range(1, 7):
        for damage in itertools.islice(misleading.crowded(words), 100):
            wrong = np.zeros(code.n, np.int64)
            wrong[list(damage)] = list(damage.values())
            assert code.syndrome(wrong).any()


def test_promises_in_tables():
    promise = Promise(3, Chance(40, 1e-9, "any"), Chance(1210, 0.001, "random damage"))
    assert promise.cells == ("3", "40, failing <= 1e-09", "1,210, failing <= 0.001")
    assert Promise(2100).cells == ("2,100", "-", "-")
    assert str(promise) == "3 guaranteed, 40 bound, 1,210 measured"
    assert promise.as_dict()["bound"] == {"errors": 40, "probability": 1e-9, "what": "any"}


@pytest.mark.parametrize(
    ("n", "errors", "words"),
    [(1232, 3000, 77), (1500, 1200, 94), (10**6, 1001, 750), (10**6, 3000, 2250)],
)
def test_a_bound_that_is_told_says_something(n, errors, words):
    bound = sums_for(n, errors).promise(errors, word(n=n)).bound
    assert bound.errors == words  # in groups of 16, of which there are no more
    assert bound.probability < 1e-9
