from hypothesis import given
from hypothesis import strategies as st

from parimend.training.pace import LONG, LONGEST_INTERVAL, cheap_interval, untimed_interval

TIMES = st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=40)


@given(n=st.integers(1, 10**8), projections=TIMES, steps=TIMES)
def test_the_interval_is_a_power_of_two_in_range(n, projections, steps):
    every = cheap_interval(n, projections, steps)
    assert every in {2**i for i in range(9)}
    assert every <= LONGEST_INTERVAL


def test_cheap_projections_are_made_often_and_dear_ones_seldom():
    assert cheap_interval(5_000, [1e-4] * 9, [1e-2] * 9) == 1
    assert cheap_interval(5_000, [1e-3] * 9, [1e-2] * 9) == 4
    assert cheap_interval(500_000, [1e-3] * 9, [1e-2] * 9) == 1
    assert cheap_interval(500_000, [1e-2] * 9, [1e-2] * 9) == 16
    assert cheap_interval(500_000, [100.0] * 9, [1e-2] * 9) == LONGEST_INTERVAL
    assert untimed_interval(LONG) == 1 < untimed_interval(LONG + 1)
