"""The interval follows what was found, within what the worst case and the target allow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from benchmarks.adaptive import FACTOR, SMALL, Setting, simulate
from parimend.errors import SpecError
from parimend.risk import Environment, Events
from parimend.risk.chance import longest_interval, lost
from parimend.risk.environment import DAYS
from parimend.risk.events import events_in
from parimend.risk.exposed import Exposed
from parimend.risk.pace import Pace

STEP = 2.0 ** (1 / 8)


def storm(rate, events="1:1", **options):
    return Environment("a storm", rate=rate, events=Events.of(events), **options)


def word(bits, errors, failing=0.0):
    chances = np.full(errors + 1, failing)
    chances[0] = 0.0
    return Exposed(bits, chances)


CASES = {
    "one word": ([word(1e9, 8)], storm(2e-8), 1e-3),
    "bursts": ([word(5.5e8, 32)], storm(3.6e-8, "1:0.85,2:0.10,8:0.05"), 1e-3),
    "several sizes": (
        [word(1e9, 8), word(3e8, 8)._replace(times=3), word(2e7, 4)],
        storm(1e-8),
        0.1,
    ),
    "events above the budget": ([word(1e9, 8)], storm(1e-9, "1:0.99999,20:0.00001"), 0.01),
    "a budget that is measured": ([word(1e8, 100, 1e-3)], storm(1e-10), 0.01),
    "long events that reach from one short word into the next": (
        [
            word(3.2e5, 40)._replace(words=10_000),
            word(3200.0, 40)._replace(words=100, times=1_000_000),
            word(1600.0, 40)._replace(words=50, times=2_000_000),
        ],
        storm(1e-7, "1:0.5,32:0.5"),
        0.1,
    ),
    "a loose target": ([word(1e9, 1)], storm(1e-8), 0.5),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    words, worst, target = CASES[request.param]
    return words, worst, target, Pace.of(words, worst, target)


def test_the_shortest_interval_is_what_the_worst_case_needs(case):
    words, worst, target, pace = case
    needed = min(longest_interval(words, worst, target), 1.0)
    assert needed / STEP**2 <= pace.shortest <= needed * (1 + 1e-6)
    assert pace.horizon.intervals[-1] == 1.0


def test_the_table_errs_on_the_safe_side_by_two_steps_at_most(case, rng):
    words, worst, _, pace = case
    rates, intervals, losses, allowed, _ = pace.horizon
    assert (np.diff(losses) >= 0).all()
    for _ in range(200):
        h, i = rng.integers(rates.size), rng.integers(intervals.size)

        def exact(days, rate=rates[h]):
            where = Environment("now", rate=rate, events=worst.events)
            return min(1.0, sum(word.times * lost(word, where, days) for word in words))

        assert losses[h + i] >= exact(intervals[i]) * (1 - 1e-9)
        above = exact(intervals[i] * STEP**2)
        assert losses[h + i] <= max(above, 0.011 * allowed[0]) * (1 + 1e-9) or above > 0.1


def test_what_is_known_is_the_posterior(case):
    """Without jumps: Jeffreys' prior times the likelihood of all that was found together."""
    words, worst, target, _ = case
    pace = Pace.of(words, worst, target, jumps=1e-15)
    found = [(0, 0.5), (3, 0.1), (1, 2.0)]
    rates, bits = pace.horizon.rates, sum(word.times * word.bits for word in words)
    expected = pace.weights.copy()
    for events, days in found:
        expected *= poisson.pmf(events, rates * bits * days)
        pace = pace.after(events, days)
    expected /= expected.sum()
    likely = expected > 1e-6
    np.testing.assert_allclose(pace.weights[likely], expected[likely], rtol=1e-4)
    assert pace.rate == pytest.approx(float(expected @ rates), rel=1e-4)


def test_a_jump_is_believed_and_forgotten():
    pace = Pace.of(*CASES["bursts"])
    for _ in range(200):
        pace = pace.after(0, pace.interval)
    calm = pace
    assert calm.events < 1.0 < calm.interval / calm.shortest / 2
    stormy = calm.after(5, calm.interval)  # not 1 in a billion for the rate before
    assert stormy.events > 5.0
    assert stormy.interval <= 1.1 * stormy.shortest
    for _ in range(200):
        stormy = stormy.after(0, stormy.interval)
    assert stormy.interval == pytest.approx(calm.interval, rel=0.1)


histories = st.lists(st.tuples(st.integers(0, 40), st.floats(0.0, 3.0)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(history=histories, name=st.sampled_from(sorted(CASES)), more=st.integers(1, 30))
def test_whatever_was_found_the_target_or_the_worst_case_holds(history, name, more):
    words, worst, target = CASES[name]
    pace = Pace.of(words, worst, target)
    for events, days in history:
        before = pace.weights.copy()
        after = pace.after(events, days)
        assert (pace.weights == before).all()  # it is a value
        assert after.weights.sum() == pytest.approx(1.0)
        assert (after.weights >= 0).all()
        assert pace.shortest <= after.interval <= 1.0
        yearly = -math.log1p(-target)
        assert after.left <= target * 1.01 or after.interval == after.shortest
        assert after.left <= yearly * (1 + 1e-9) or after.interval == after.shortest
        assert pace.after(events + more, days).interval <= after.interval
        pace = after


@given(st.sets(st.integers(0, 60)))
def test_runs_of_words_are_events(words):
    runs = "".join("x" if i in words else " " for i in range(61)).split()
    assert events_in(np.array(sorted(words), np.int64)) == len(runs)


def held(setting: Setting, seeds: range):
    pace = Pace.of(setting.exposed, setting.environment(FACTOR), setting.target)
    fixed = longest_interval(setting.exposed, setting.environment(FACTOR), setting.target)
    paths = [simulate(setting, pace, seed) for seed in seeds]
    sweeps = np.mean([path.sweeps for path in paths]) * fixed / setting.days
    expected = np.mean([sum(path.expected) for path in paths]) / setting.allowed
    return paths, sweeps, expected


def test_in_a_storm_the_target_is_held_with_a_third_of_the_sweeps():
    """As in docs/measurements/planning.md, with few seeds; all damage is decoded."""
    paths, sweeps, expected = held(SMALL, range(4))
    assert sweeps <= 1 / 3
    assert expected <= 1.0
    assert sum(path.observed + path.wrong for path in paths) == 0
    assert sum(path.decoded for path in paths) > 1000


def test_an_interval_for_quiet_days_does_not_hold_it():
    calm = longest_interval(SMALL.exposed, SMALL.environment(1.0), SMALL.target)
    path = simulate(SMALL, calm, 0)
    assert sum(path.expected) > 10 * SMALL.allowed
    assert path.observed > 0
    assert path.wrong == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 0.0}, "target must be a probability per year between 0 and 1, not 0.0"),
        ({"target": 1.5}, "target must be a probability"),
        ({"target": math.nan}, "target must be a probability"),
        *[
            (
                {"worst": Environment("x", rate)},
                "the worst rate must be events per .* above 1e-300 and at most 1",
            )
            for rate in (0.0, 5e-324)
        ],
        ({"words": []}, "no protected word"),
        *[
            ({"longest": days}, "longest must be a number of days of at least 1e-06")
            for days in (0.0, math.inf)
        ],
        ({"jumps": math.nan}, "jumps must be a rate per day of at least 0, not nan"),
        (
            {"worst": storm(1e-9, "1:0.9,64:0.1")},
            "met at no interval.*up to 64 words.*budget of 8, and no scrubbing removes their 1 a y",
        ),
        ({"words": [word(1e9, 8, 1e-3)]}, "met at no interval.*0.001.*take a budget that is guar"),
        ({"worst": storm(1.0)}, "even checks every 0.086 s leave"),
    ],
)
def test_misuse(changes, message):
    arguments = {"words": [word(1e9, 8)], "worst": storm(1e-9), "target": 1e-3} | changes
    with pytest.raises(SpecError, match=message):
        Pace.of(**arguments)


def test_what_no_interval_changes_is_left_out():
    words, _, target = CASES["one word"]
    plain = Pace.of(words, storm(2e-8), target)
    other = Pace.of(words, storm(2e-8, hard_rate=1e-9, read_rate=1e-9), target)
    assert (plain.horizon.losses == other.horizon.losses).all()
    assert plain.shortest * DAYS > 0
