"""Dense real codes: the bits of their entries, their statistics, their algebra."""

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from parimend.codes import Gaussian, from_spec
from parimend.codes.gaussian import normal_quantile, normals
from parimend.errors import SpecError
from parimend.hashing import stream_key
from tests.codes.contract import RealCodeContract


class TestGaussian(RealCodeContract):
    @pytest.fixture(params=[(2, 1, 0), (40, 12, 3), (150, 75, (1 << 64) - 2)], ids=str)
    def code(self, request):
        n, m, seed = request.param
        return Gaussian(n, m, seed)


def test_entries_are_fixed_to_the_last_bit():
    assert [x.hex() for x in Gaussian(n=5, m=2, seed=7).matrix.T.flatten().tolist()] == [
        "0x1.42da852695d29p-2", "0x1.f3fc63b8d8e11p-1", "0x1.2eece9148723dp+0",
        "0x1.d4afdc44aaf0ap-2", "0x1.f9e35b272fbdfp-3", "0x1.de0f54b74d598p-2",
        "0x1.6d58d81163f6ep-2", "0x1.c25481c6a155fp-2", "-0x1.30b0bdc457da8p+0",
        "-0x1.13f19a9ef6e19p+0",
    ]  # fmt: skip
    H = Gaussian(n=1000, m=300, seed=8).matrix
    digest = hashlib.sha256(H.T.astype("<f8").tobytes()).hexdigest()
    assert digest == "0a37d47cccc49596c4d7824c3332779b52b14d4bba72e0f2c9581e4d7834b96b"


@pytest.mark.parametrize(
    ("tail", "x"),
    [  # in all three ranges and next to their limits
        ("0x1p-54", "0x1.095b059d67c4cp+3"),
        ("0x1.8p-40", "0x1.bf6d4348f688ap+2"),
        ("0x1p-30", "0x1.80993fb2838ddp+2"),
        ("0x1p-10", "0x1.8c73502ae34eep+1"),
        ("0x1.333333333332p-4", "0x1.7085226d3e52bp+0"),
        ("0x1.333333333334p-4", "0x1.7085226d3e51dp+0"),
        ("0x1p-3", "0x1.267d4c07b0566p+0"),
        ("0x1p-2", "0x1.5956b87528a49p-1"),
        ("0x1.ffffffffffffep-2", "0x1.40d931ff62707p-52"),
    ],
)
def test_quantiles_are_fixed_to_the_last_bit(tail, x):
    assert normal_quantile(np.array([float.fromhex(tail)]))[0].hex() == x


def test_quantile_is_accurate(rng):
    tails = np.concatenate(
        [rng.random(100_000) / 2, rng.random(100_000) * 2.0 ** -rng.integers(2, 40, 100_000)]
    )
    tails = np.round(tails * 2.0**54)
    tails = tails[(tails > 0) & (tails < 2.0**53)] * 2.0**-54
    np.testing.assert_allclose(normal_quantile(tails), stats.norm.isf(tails), rtol=2e-15, atol=0)


def test_entries_are_standard_normal():
    x = normals(stream_key(1), 0, 1_000_000)
    assert stats.kstest(x, "norm").pvalue > 0.01
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.004
    # As many in the tails as there should be: 3.17e-5 and 5.7e-7 of them.
    assert 20 < np.count_nonzero(np.abs(x) > 4) < 110
    assert np.count_nonzero(np.abs(x) > 5) < 6


@given(start=st.integers(0, 10**9), count=st.integers(0, 50), skip=st.integers(0, 50))
def test_entries_are_addressed_by_a_counter(start, count, skip):
    whole = normals(stream_key(3), start, skip + count)
    np.testing.assert_array_equal(normals(stream_key(3), start + skip, count), whole[skip:])


codes = st.tuples(st.integers(2, 60), st.integers(1, 59), st.integers(0, (1 << 64) - 1)).map(
    lambda c: Gaussian(c[0], min(c[0] - 1, c[1]), c[2])
)


@given(codes)
def test_matrix_is_made_of_its_columns(code):
    np.testing.assert_array_equal(code.matrix, code.dense())
    assert not code.matrix.flags.writeable
    np.testing.assert_array_equal(from_spec(code.spec()).matrix, code.matrix)


def test_matrix_is_made_in_blocks_that_join():
    code = Gaussian(n=300, m=250)  # more than one block
    np.testing.assert_array_equal(code.matrix, code.dense())


@given(codes, st.integers(0, 2**32 - 1), st.floats(-10, 10))
def test_syndrome_is_linear(code, seed, factor):
    a, b = np.random.default_rng(seed).normal(size=(2, code.n))
    both = code.syndrome(a) + factor * code.syndrome(b)
    np.testing.assert_allclose(code.syndrome(a + factor * b), both, rtol=0, atol=1e-10)


@given(st.integers(4, 80), st.integers(0, 1000))
def test_projection(n, seed):
    code = Gaussian(n, n // 2, seed)
    x, y = np.random.default_rng(seed).normal(size=(2, n))
    p = code.project(x)
    tolerance = 1e-8  # the smallest singular value of H may be small
    assert np.abs(code.matvec(p)).max() < tolerance
    assert np.abs(code.project(p) - p).max() < tolerance
    assert abs((x - p) @ code.project(y)) < tolerance


def test_cholesky_agrees_with_conjugate_gradients(rng):
    code = Gaussian(n=200, m=60)
    residual = rng.normal(size=60)
    np.testing.assert_allclose(
        code.solve_gram(residual), super(Gaussian, code).solve_gram(residual), rtol=1e-10
    )


def test_needs_fewer_checks_than_words():
    with pytest.raises(SpecError, match="m < n"):
        Gaussian(n=5, m=5)


def test_pickles_without_its_matrix():
    code = Gaussian(n=300, m=200)
    assert code.matrix.nbytes == 480_000
    assert len(pickle.dumps(code)) < 1000
