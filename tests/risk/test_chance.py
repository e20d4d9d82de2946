"""What an environment leaves: against formulas, and against drawing a year."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend.errors import SpecError
from parimend.risk import Environment, Events, Service, environment
from parimend.risk.chance import (
    largest_budget,
    longest_interval,
    lost,
    risk,
    smallest_budget,
)
from parimend.risk.environment import DAYS, ENVIRONMENTS
from parimend.risk.exposed import Exposed, seen

BITS = 1e9


def proven(errors, **more):
    return Exposed(BITS, np.zeros(errors + 1), **more)


def test_single_words_are_the_published_formula():
    """About W (n r T)^(t + 1) / (t + 1)! in an interval."""
    where = Environment("x", rate=1e-12)
    for errors in (1, 2, 4):
        chance = lost(proven(errors), where, days=1.0)
        assert chance == pytest.approx(1e-3 ** (errors + 1) / math.factorial(errors + 1), rel=2e-3)


@settings(max_examples=30)
@given(
    rate=st.floats(1e-12, 1e-8),
    errors=st.integers(1, 40),
    interval=st.floats(0.01, 30.0),
    factor=st.floats(1.0, 10.0),
)
def test_more_of_anything_bad_is_worse(rate, errors, interval, factor):
    events = Events.of({1: 0.8, 3: 0.2})

    def left(rate, errors, interval):
        where = Environment("x", rate=rate, events=events)
        return risk([proven(errors)], where, interval).unrepaired

    here = left(rate, errors, interval)
    # What is below 1e-30 is next to impossible, and not resolved.
    assert left(min(rate * factor, 1.0), errors, interval) >= here * (1 - 1e-9) - 1e-30
    assert left(rate, errors, interval * factor) >= here * (1 - 1e-9) - 1e-30
    assert left(rate, errors + 1, interval) <= here * (1 + 1e-9) + 1e-30


def test_large_events_are_left_however_often_it_is_checked():
    where = Environment("x", rate=1e-12, events=Events.of({1: 0.9, 64: 0.1}))
    often, seldom = (risk([proven(8)], where, days) for days in (1e-4, 1.0))
    expected = -math.expm1(-BITS * 1e-12 * 0.1 * DAYS)
    for it in (often, seldom):
        assert it.large == pytest.approx(expected, rel=1e-9)
        assert it.unrepaired >= it.large * (1 - 1e-9)
    assert longest_interval([proven(8)], where, expected / 2) is None
    assert longest_interval([proven(64)], where, expected / 2) is not None


@pytest.mark.parametrize("erasures", [False, True])
def test_hard_faults_are_those_of_a_drawn_year(erasures, rng):
    """Losses of 4,000 drawn years, with the budget counted by hand."""
    errors, checks, fresh, soft = 4, 40, 0.06, 0.2
    where = Environment(
        "x", rate=soft / BITS, hard_rate=fresh / BITS, events=Events.of({1: 0.9, 2: 0.1})
    )
    it = risk([proven(errors, erasures=erasures)], where, 1.0, checks / DAYS)
    known, lost_years = np.zeros(4000, int), np.zeros(4000, bool)
    for _ in range(checks):
        new = rng.poisson(fresh, 4000)
        events = rng.poisson(soft, 4000)
        struck = events + rng.binomial(events, 0.1)  # one in ten strikes two words
        cost = 2 * (new + struck) + (known if erasures else 2 * known)
        lost_years |= cost > 2 * errors
        known += new
    share, error = lost_years.mean(), math.sqrt(it.unrepaired / 4000)
    assert abs(share - it.unrepaired) < 4 * error
    assert it.hard > 0.5 * it.unrepaired


def test_what_is_measured_counts_as_measured():
    failing = np.array([0.0, 0.0, 1e-3])
    where = Environment("x", rate=1e-10)
    expected = where.expected(BITS, 1.0)
    exactly = math.exp(-expected) * expected**2 / 2
    beyond = 1 - math.exp(-expected) * (1 + expected + expected**2 / 2)
    assert lost(Exposed(BITS, failing), where, 1.0) == pytest.approx(
        1e-3 * exactly + beyond, rel=1e-9
    )


def test_equal_words_count_as_often_as_they_are_there():
    where = environment("leo")
    one = Exposed(1e5, np.zeros(3))
    assert risk([one] * 7, where, 0.5).unrepaired == pytest.approx(
        risk([one._replace(times=7)], where, 0.5).unrepaired, rel=1e-9
    )


def test_reads_cost_what_they_cost_whatever_the_interval():
    where = environment("disk")
    assert where.expected(1e12, 1.0) == where.expected(1e12, 30.0) == 0.01
    assert risk([proven(2000)], where, 7.0).events == pytest.approx(BITS * 1e-14 * DAYS / 7)


@pytest.mark.parametrize("hard_rate", [0.0, 1e-14])
def test_what_is_told_takes_half_of_the_budget(hard_rate):
    """As does memory that is known to fail, where words are erasures at all."""
    events = Events.of({1: 0.9, 5: 0.1})
    told = Environment("x", 1e-10, events, hard_rate, told=True)
    blind = replace(told, told=False)
    here = risk([proven(4, erasures=True)], told, 1.0)
    twice = risk([proven(8)], blind, 1.0)
    assert here == replace(twice, wrong=here.wrong, coverage=here.coverage)
    assert risk([proven(4)], told, 1.0).unrepaired == risk([proven(4)], blind, 1.0).unrepaired
    sure = proven(4, noticed=2, missed=0.5)
    assert risk([sure], blind, 1.0).wrong > risk([sure], told, 1.0).wrong == 0.0


def test_a_budget_that_is_measured_is_no_better_for_what_is_told():
    failing = np.array([0.0, 0.0, 0.25])
    told = Environment("x", 1e-10, told=True)
    word = seen(Exposed(BITS, failing, erasures=True), told)
    assert word.failing.tolist() == [0.0, 0.0, 0.0, 0.25, 0.25]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_inverse_is_the_inverse(name):
    where = environment(name)
    budget = 5000
    days = longest_interval([proven(budget)], where, 1e-6)
    if days is None:
        assert risk([proven(budget)], where, 1e-6).yearly > 1e-6
        return
    assert risk([proven(budget)], where, days).yearly <= 1e-6
    assert days == DAYS or risk([proven(budget)], where, days * 1.01).yearly > 1e-6
    least = smallest_budget(lambda t: [proven(t)], where, days, 1e-6)
    assert risk([proven(least)], where, days).yearly <= 1e-6
    assert least == 1 or risk([proven(least - 1)], where, days).yearly > 1e-6


def test_budgets_that_no_code_has_are_passed_over():
    def words(errors):
        if errors > 3:
            raise SpecError("too few weights")
        return [proven(errors)]

    where = Environment("x", rate=1e-9)
    assert smallest_budget(words, where, 1.0, 1e-12) is None
    assert smallest_budget(words, where, 1e-4, 1e-4) == 2


def test_coverage_counts_what_is_not_noticed():
    where = Environment("x", rate=1e-9)
    it = risk([proven(4, noticed=4, missed=1e-3)], where, 1.0)
    more = where.events.tails(1.0, 4).more[-1]
    assert it.coverage == pytest.approx(1 - 1e-3 * more)
    assert it.wrong == pytest.approx(-math.expm1(-1e-3 * more * DAYS))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Environment("x", rate=-1e-9), r"rate .* from 0 to 1, not -1e-09"),
        (lambda: Environment("x", hard_rate=1.5), r"hard_rate .* not 1.5"),
        (lambda: Environment("x", rate=float("nan")), "not nan"),
        (lambda: environment("sea-level-drum"), "sea-level-dram, .* did you mean sea-level-dram"),
        (lambda: environment("moon"), "unknown environment 'moon': there are sea-level-dram"),
        (lambda: Service("leo", years=1e306), r"years .* to 1000000000, not 1e\+306"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(SpecError, match=says):
        make()


def test_every_environment_says_where_its_figures_are_from():
    for where in ENVIRONMENTS.values():
        assert len(where.source) > 40
        assert where.rate or where.read_rate


def test_the_longest_interval_of_reads_is_found_from_above():
    """Each read of a disk may strike: checking too often misses a target that rare checks meet."""
    where = environment("disk")
    target = risk([proven(4)], where, 30.0).yearly
    assert risk([proven(4)], where, 1.0).yearly > target
    days = longest_interval([proven(4)], where, target)
    assert days == DAYS
    both = Environment("both", rate=1e-12, read_rate=1e-14, events=Events.of({1: 0.99, 9: 0.01}))
    middle = risk([proven(2)], both, 5.0).yearly
    days = longest_interval([proven(2)], both, middle * 1.001)
    assert 5.0 <= days < DAYS
    assert risk([proven(2)], both, days).yearly <= middle * 1.001


@pytest.mark.parametrize("needed", [513, 900, 1000])
def test_the_largest_proven_budget_is_looked_at(needed):
    """Beyond it budgets are measured, and may leave more than it does."""

    def words(errors):
        failing = np.zeros(errors + 1)
        failing[5:] = 1e-3 if errors > 1000 else 0.0
        return [Exposed(BITS, failing)]

    where = Environment("x", rate=4e-7)  # 400 events a day
    target = risk(words(needed), where, 1.0).yearly if needed < 900 else 1e-30
    best = smallest_budget(words, where, 1.0, target, proven=1000)
    assert best is not None
    assert best <= 1000
    assert risk(words(best), where, 1.0).yearly <= target
    assert risk(words(best - 1), where, 1.0).yearly > target


def test_an_interval_beyond_the_service_ends_with_it():
    where = Environment("x", rate=1e-10)  # 36.5 events a year
    at_the_end = risk([proven(30)], where, DAYS)
    for interval in (2 * DAYS, 1e4 * DAYS):
        beyond = risk([proven(30)], where, interval)
        assert beyond.interval == interval
        assert beyond.unrepaired == at_the_end.unrepaired
    assert risk([proven(1)], where, 1e9).unrepaired == pytest.approx(1.0)


def test_a_rate_of_losses_has_no_ceiling():
    """What is lost for certain in the years of service is lost at some rate."""
    few = risk([proven(0)], Environment("x", rate=1e-9), 1e-3, years=1.0)  # one event a day
    assert few.fit == pytest.approx(1e9 / 24, rel=1e-3)
    assert few.yearly == pytest.approx(1.0)
    years = risk([proven(0)], Environment("x", rate=1e-13), 1.0, years=1e4)  # one in 27 years
    assert years.unrepaired == pytest.approx(1.0)
    assert years.yearly == pytest.approx(-math.expm1(-1e-4 * DAYS), rel=1e-3)


@pytest.mark.parametrize("years", [1, 10, 1000, 1e6])
def test_a_loss_that_is_certain_is_no_small_one_over_many_years(years):
    """Of two events a day, four and more are wrong long before the first check."""
    where = Environment("x", rate=2e-9)
    it = risk([proven(4)], where, years * DAYS, years)
    assert (it.unrepaired, it.yearly) == (1.0, 1.0)
    days = longest_interval([proven(4)], where, 0.4, years)
    assert 0 < days < 1
    assert risk([proven(4)], where, days, years).yearly <= 0.4


def test_no_more_is_lost_than_every_word_at_every_check():
    burning = Environment("x", rate=1.0)
    monthly = risk([proven(4, times=3)], burning, 30.0)
    assert monthly.fit == pytest.approx(3 * 1e9 / (30 * 24))
    worn = Environment("x", hard_rate=1e-3)
    assert risk([proven(4)], worn, 30.0).fit == pytest.approx(1e9 / (30 * 24))


@pytest.mark.parametrize("erasures", [False, True])
def test_a_year_is_the_worst_one(erasures):
    """Cells that fail add up, so that the last year is the worst."""
    worn, word = Environment("x", hard_rate=3e-13), proven(4, erasures=erasures)
    left = [risk([word], worn, 1.0, years) for years in (1, 9, 10)]
    assert left[0].yearly == left[0].unrepaired
    last = (left[2].unrepaired - left[1].unrepaired) / (1 - left[1].unrepaired)
    assert left[2].yearly == pytest.approx(last, rel=0.02)
    assert left[2].yearly > 2 * left[2].unrepaired / 10
    target = 1.01 * left[2].yearly
    assert longest_interval([word], worn, target, 10) >= 1.0
    assert longest_interval([word], worn, left[2].unrepaired / 10, 10) is None


def test_nothing_is_not_less_than_nothing():
    none = risk([], environment("leo"), 1.0)
    assert [math.copysign(1.0, x) for x in (none.unrepaired, none.fit, none.wrong)] == [1.0] * 3


@pytest.mark.parametrize("errors", [16, 64, 210, 1000])
def test_what_is_next_to_impossible_is_an_upper_bound(errors):
    it = risk([proven(errors, times=3)], Environment("x", rate=1e-12), 1.0)
    assert 0 <= it.unrepaired <= it.resolved == pytest.approx(3e-40 * DAYS)
    likely = risk([proven(4)], Environment("x", rate=1e-12), 1.0)
    assert likely.unrepaired > 1e10 * likely.resolved


def test_no_more_words_are_wrong_than_there_are():
    """A budget for all of a small word is enough for any event, any rate and all cells."""
    where = Environment("x", rate=1e-9, hard_rate=1e-9, events=Events.of({1: 0.5, 4096: 0.5}))
    for errors in (420, 1000):
        it = risk([proven(errors, words=420, noticed=1000, missed=1e-9)], where, 1.0, 10)
        assert (it.unrepaired, it.yearly, it.large, it.hard, it.fit, it.wrong) == (0.0,) * 6
        assert it.repairs == pytest.approx(DAYS * -math.expm1(-1.0), rel=1e-9)
    almost = risk([proven(419, words=420)], where, 1.0, 10)
    assert almost.large == pytest.approx(1.0)


def test_a_measured_budget_for_all_of_a_word_counts_as_measured():
    failing = np.full(1001, 1e-3)
    failing[:5] = 0.0
    where = Environment("x", rate=1e-10, events=Events.of({4096: 1.0}))
    damaged = -math.expm1(-0.1)
    chance = lost(Exposed(BITS, failing, words=420), where, 1.0)
    assert chance == pytest.approx(1e-3 * damaged, rel=1e-9)
    assert lost(Exposed(BITS, failing), where, 1.0) == pytest.approx(damaged, rel=1e-9)
    worn = Environment("x", rate=1e-10, hard_rate=1e-9, events=Events.of({4096: 1.0}))
    assert risk([Exposed(BITS, failing, words=420)], worn, 1.0, 0.1).yearly < 0.5


@settings(max_examples=30, deadline=None)
@given(st.floats(0.7, DAYS), st.sampled_from([0.3, 1.0, 1.5, 7.0]), st.booleans())
def test_cells_that_never_fail_change_nothing(interval, years, erasures):
    """Checks need be no whole number, with them as without."""
    word = proven(4, erasures=erasures)
    without = risk([word], Environment("x", rate=1e-11), interval, years)
    never = risk([word], Environment("x", rate=1e-11, hard_rate=1e-28), interval, years)
    assert never.unrepaired == pytest.approx(without.unrepaired, rel=1e-6)
    assert never.yearly == pytest.approx(without.yearly, rel=1e-6)
    assert never.fit == pytest.approx(without.fit, rel=1e-6)
    assert never.hard <= 1e-6 * never.unrepaired


def test_the_last_budget_that_there_is_is_looked_at():
    """It is no power of two, and larger ones that no code has do not end the search."""

    def words(errors):
        if not 3 <= errors <= 440:
            raise SpecError("no such code")
        return [proven(errors)]

    assert (largest_budget(words), largest_budget(words, least=500)) == (440, None)
    where = Environment("x", rate=1e-9, events=Events.of({300: 1.0}))
    once = risk([proven(300)], where, 1e-3).yearly  # two events meet
    assert smallest_budget(words, where, 1e-3, once * 1.01) == 300
    assert smallest_budget(words, where, 1e-3, once * 1.01, least=310) == 310
    rows = Environment("x", rate=1e-9, events=Events.of({441: 1.0}))
    assert smallest_budget(words, rows, 1e-3, once * 1.01) is None


def test_the_longest_service_there_is_has_its_numbers():
    """Of a billion years, checked ten times a second."""
    service = Service("sea-level-dram", interval=1e-6, years=1e9)
    it = risk([proven(4)], service.environment, service.interval, service.years)
    assert all(map(math.isfinite, it.as_dict().values()))
    assert it.unrepaired == it.large == 1.0


def test_no_more_is_repaired_than_there_are_events():
    """Before a word that is alone nothing begins."""
    where = Environment("x", rate=1e-9, events=Events.of({5130: 1.0}))
    it = risk([Exposed(32.0 * 5130, np.zeros(5131), words=5130)], where, 1.0)
    assert 0.9 * it.events < it.repairs <= it.events


def small_and_large(small, large, count, budget):
    """Words as `risk` sees them: most may be lost altogether, one of them not."""
    few = Exposed(32.0 * small, np.zeros(budget + 1), times=2 * count, words=small)
    return [few, Exposed(32.0 * large, np.zeros(budget + 1), words=large)]


@pytest.mark.parametrize(
    ("small", "large", "count", "size"), [(16, 33, 10, 200), (16, 33, 100, 200), (8, 40, 50, 20)]
)
def test_what_is_not_lost_where_it_begins_is_counted_where_it_ends(small, large, count, size):
    """Every place of an event, in memory with small words on both sides of a large one."""
    words, budget = small_and_large(small, large, count, 16), 16
    total = 2 * count * small + large
    begins = np.arange(total)
    struck = np.minimum(begins + size, count * small + large) - np.maximum(begins, count * small)
    truth = float((struck > budget).mean())
    where = Environment("x", rate=1e-7, events=Events.of({size: 1.0}))
    for left in (risk(words, where, 1.0).large, risk(words, where, 1.0).unrepaired):
        share = -math.log1p(-left) / risk(words, where, 1.0).events
        assert truth - 1e-9 <= share <= 1.0 + 1e-9
    # Where all words may be lost, an event counts once.
    hard = [word._replace(words=max(word.words, budget + 1)) for word in words]
    assert -math.log1p(-risk(hard, where, 1.0).large) == pytest.approx(
        risk(hard, where, 1.0).events
    )
    beside = sum(word.times * lost(word, where, 1e-3, words) for word in words)
    assert beside >= truth * where.expected(32.0 * total, 1e-3) * (1 - 1e-3)


def test_a_word_that_nothing_is_claimed_of_is_lost_by_whatever_strikes_it():
    """Also beside one that no event is too large for."""
    where = Environment("x", rate=1e-12, events=Events.of({1: 0.5, 4: 0.5}))
    words = [proven(0, words=BITS / 32), proven(8, words=BITS / 32)]
    struck = -math.expm1(-BITS * 1e-12 * DAYS)
    assert risk(words, where, 1.0).unrepaired == pytest.approx(struck, rel=1e-6)
