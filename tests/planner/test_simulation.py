"""Formulas against years that are simulated with the real decoders."""

from dataclasses import replace

import pytest
import torch

import parimend as pm
from parimend.errors import SpecError
from parimend.planner import simulate
from parimend.planner.simulation import CHECKS

MODEL = torch.nn.Linear(512, 10)


def environment(**more):
    return pm.Environment("x", **{"rate": 1e-9, **more})


@pytest.mark.parametrize(
    ("errors", "where", "options"),
    [
        (4, environment(), {}),
        (16, environment(events=pm.Events.of("1:0.7,2:0.2,8:0.08,16:0.02")), {}),
        (6, environment(hard_rate=1e-9), {}),
        pytest.param(5, environment(), {"per": "tensor"}, marks=pytest.mark.long),
        pytest.param(3, environment(rate=0.0, read_rate=1e-12), {}, marks=pytest.mark.long),
        (5, environment(rate=0.0, read_rate=1e-12, events=pm.Events.of("4:1"), told=True), {}),
        (4, environment(events=pm.Events.of("1:0.9,9:0.1"), hard_rate=1e-9, told=True), {}),
    ],
)
@pytest.mark.parametrize("years", [100, pytest.param(400, marks=pytest.mark.long)])
def test_the_formula_is_what_comes_out(errors, where, options, years):
    it = simulate(
        pm.plan(MODEL, errors, service=where, measure=False, **options), years=years, seed=1
    )
    assert it.wrong == 0
    assert not it.bounded
    error = (it.formula * (1 - it.formula) / it.years) ** 0.5
    assert abs(it.lost / it.years - it.formula) < 4 * error
    assert 0.2 < it.formula < 0.31


def test_a_measured_budget_is_bounded_from_above():
    it = simulate(pm.plan(MODEL, 40, "real", service=environment(), measure=False), years=60)
    assert it.bounded
    assert it.lost / it.years <= it.formula + 0.1


def test_errors_that_meet_in_a_small_word_are_bounded_from_above():
    it = simulate(pm.plan(torch.nn.Linear(30, 10), errors=100, service="leo"), years=20)
    assert it.bounded
    assert it.high < it.formula
    roomy = simulate(pm.plan(torch.nn.Linear(512, 10), errors=4, service="leo"), years=10)
    assert not roomy.bounded


@pytest.mark.parametrize(
    "where",
    [
        environment(events=pm.Events.of("8:1")),
        environment(rate=0.0, hard_rate=1e-12),
        environment(rate=0.0, hard_rate=1e-12, events=pm.Events.of("2:1")),
    ],
)
def test_large_events_and_cells_that_fail_for_good_meet_too(where):
    small = {"w": torch.zeros(100)}
    it = simulate(pm.plan(small, 30, service=where, measure=False), years=40)
    assert it.high < it.formula
    assert it.bounded


def test_a_word_whose_budget_is_all_of_it_is_never_lost():
    plan = pm.plan(torch.nn.Linear(12, 12), 1000, service="sea-level-dram", measure=False)
    assert plan.guaranteed == 1000
    assert plan.risk.unrepaired == 0.0
    it = simulate(plan, years=5)
    assert (it.formula, it.lost, it.inside) == (0.0, 0, True)


def test_seeds_repeat():
    plan = pm.plan(MODEL, 3, service=environment(), measure=False)
    told = []
    assert simulate(plan, 50, seed=3, progress=told.append) == simulate(plan, 50, seed=3)
    assert sum(told) == 50
    assert simulate(plan, 50, seed=3).checks == CHECKS


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match="needs an environment: plan with service="):
        simulate(pm.plan(MODEL, 3, measure=False), 10)
    with pytest.raises(SpecError, match="years must be at least 1, not 0"):
        simulate(pm.plan(MODEL, 3, service="leo", measure=False), 0)
    empty = replace(pm.plan(MODEL, 3, service="leo", measure=False), files=())
    with pytest.raises(SpecError, match="needs a protected word, and the plan has none"):
        simulate(empty, 10)
    quiet = pm.Environment("quiet")
    with pytest.raises(SpecError, match="nothing happens in the environment quiet"):
        simulate(pm.plan(MODEL, 3, service=quiet, measure=False), 10)
