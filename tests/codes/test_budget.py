"""A code for any number of errors."""

import pytest

from parimend.codes import Hashed, Screened, from_spec, sums_for
from parimend.codes.budget import MOST_POWER
from parimend.errors import SpecError


@pytest.mark.parametrize("errors", [1, 8, 9, 210, MOST_POWER, MOST_POWER + 1, 10**6])
@pytest.mark.parametrize("n", [16, 5120, 17_200_000])
def test_there_is_a_code_for_any_number_of_errors(n, errors):
    code = sums_for(n, errors, seed=3)
    assert (code.n, code.seed) == (n, 3)
    assert from_spec(code.spec()) == code
    assert len(code.pack(code.zeros())) == code.packed_bytes
    if min(n, errors) <= MOST_POWER:
        assert code.guaranteed == min(errors, n)
    else:
        assert type(code) is Hashed
        assert code.guaranteed == 4


@pytest.mark.parametrize(
    ("errors", "each", "sums"), [(10, 2, 44), (10, 4, 84), (1000, 2, 4004), (512, 4, 4100)]
)
def test_errors_may_make_several_words_wrong(errors, each, sums):
    code = sums_for(10**6, errors, each=each)
    assert (type(code), code.m) == (Screened, sums)
    for too_many in (MOST_POWER + 1, 513 * 4 // each):
        hashed = sums_for(10**6, too_many, each=each)
        assert type(hashed) is Hashed
        assert hashed.measured(each * too_many) is not None
    assert sums_for(16, errors, each=each) == sums_for(16, 16)


def test_sizes():
    assert type(sums_for(17_200_000, 1)) is Screened
    assert sums_for(17_200_000, 210).packed_bytes == 1749
    assert sums_for(17_200_000, 1000).packed_bytes == 8267


def test_no_errors_are_no_budget():
    with pytest.raises(SpecError, match="errors must be at least 1, not 0"):
        sums_for(100, 0)
