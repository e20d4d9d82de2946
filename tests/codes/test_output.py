import numpy as np
import pytest

from parimend.codes.output import Output
from parimend.errors import SpecError
from tests.codes.contract import RealCodeContract


class TestOutput(RealCodeContract):
    @pytest.fixture(params=[Output(n=24, m=3), Output(n=7, m=2, seed=5), Output(n=60, m=8)])
    def code(self, request):
        return request.param


@pytest.mark.parametrize("m", [1, 2, 8])
def test_row_0_is_a_plain_sum_and_no_output_is_seen_worse_than_another(m):
    P = Output(n=100, m=m).matrix
    assert (P[0] == 1).all()
    np.testing.assert_allclose((P**2).sum(0), m, rtol=1e-14)


def test_eight_checks_tell_any_two_outputs_apart():
    P = Output(n=1024, m=8).matrix
    cosine = np.abs(P.T @ P) / 8
    np.fill_diagonal(cosine, 0)
    assert cosine.max() < 0.999


def test_as_many_checks_as_outputs_are_refused():
    with pytest.raises(SpecError, match="m < n"):
        Output(n=4, m=4)
