"""Trials of a protected network: each depends on its own faults alone, and says what came of it."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend.campaign.damage import damage_of
from parimend.campaign.facts import Fact, Prepared
from parimend.campaign.protections import Network, protection_of
from parimend.campaign.rounds import units
from parimend.campaign.spec import Source, Spec
from parimend.campaign.stats import Row
from parimend.campaign.subject import Subject
from parimend.campaign.task import Setting, Stratum, Task
from parimend.errors import CampaignError
from parimend.outcomes import Verdict
from tests.campaign.conftest import tables

FAULTS = {
    "stuck": {"kind": "bitflip", "count": 2, "stays": True},
    "upset": {"kind": "upset", "pattern": "offset", "size": 3.0},
    "flips": {"kind": "bitflip", "count": 3},
    "everything": {"kind": "bitflip", "count": 3, "strikes": "everything"},
}
PROTECTIONS = {
    "none": {"kind": "none"},
    "sidecar": {"kind": "sidecar", "errors": 2},
    "abft": {"kind": "abft"},
    "guards": {"kind": "guards", "k": 4},
    "both": {"kind": "guards", "k": 4, "errors": 2},
}
TRIALS = 3


def score(model, dtype=torch.float32):
    """How large the answers are, computed in a dtype: every wrong output changes it."""
    inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return float(model(inputs).double().nan_to_num(9.0).clamp(-9.0, 9.0).square().mean())


def in_half(model):
    return score(model, torch.bfloat16)


def subject(protection, metric=score, tolerance=None):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 12)
    ).eval()
    tensors = {name: each.detach() for name, each in model.named_parameters()}
    rule = protection_of(Setting.of("p", PROTECTIONS[protection]))
    kept = rule.protect_(Network(model, tensors, lambda: metric(model)))
    intact = {name: each.clone() for name, each in model.state_dict().items()}
    right = metric(model)
    slack = 0.0 if tolerance is None else Source(tolerance=tolerance).slack(right)
    return Subject(model, intact, rule, kept, metric, right, slack)


def task(protection, fault, start=0, stop=TRIALS):
    settings = Setting.of(protection, PROTECTIONS[protection]), Setting.of(fault, FAULTS[fault])
    return Task("n", "0", "m:f", *settings, Stratum(), 0, start, stop)


@cache
def alone(protection, metric, fault, number):
    """The row of one trial, of a subject that has seen no other."""
    return subject(protection, metric).work(task(protection, fault, number, number + 1))


PLACES = st.tuples(st.sampled_from([*FAULTS]), st.integers(0, TRIALS - 1))


@pytest.mark.parametrize(
    ("protection", "metric"), [*((each, score) for each in PROTECTIONS), ("guards", in_half)]
)
@settings(max_examples=8)
@given(places=st.lists(PLACES, min_size=2, max_size=8))
def test_a_trial_depends_on_its_own_faults_alone(protection, metric, places):
    """Whatever a worker was given before it, and in which order."""
    worker = subject(protection, metric)
    for fault, number in places:
        row = worker.work(task(protection, fault, number, number + 1))
        assert row == alone(protection, metric, fault, number)


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_a_task_is_its_trials(protection):
    for fault in FAULTS:
        row = subject(protection).work(task(protection, fault))
        each = [alone(protection, score, fault, number) for number in range(TRIALS)]
        assert row.outcomes == "".join(one.outcomes for one in each)
        assert row.found == tuple(one.found[0] for one in each)
        assert row.scores == tuple(one.scores[0] for one in each)


def test_a_stuck_bit_is_wrong_again_and_the_rest_of_the_word_is_as_the_repair_left_it():
    """Radar clears groups of weights: of a weight that was struck the bit alone comes back."""
    rule = protection_of(Setting.of("radar", {"kind": "radar"}))
    model = {"w": torch.full((64,), 0.5)}
    kept = rule.protect_(Network(model, model))
    worker = Subject(model, {"w": model["w"].clone()}, rule, kept)
    stuck = {"kind": "stuck-bit", "count": 1}
    damage = damage_of(Setting.of("stuck", stuck), Stratum(bits=(30, 30)))
    assert worker.repair_(worker.damaged(damage, 0)).verdict is Verdict.UNCORRECTABLE
    assert sorted(set(model["w"].tolist())) == [0.0, 0.5, 2.0]
    assert model["w"].tolist().count(2.0) == 1


def test_a_trial_that_cannot_be_names_itself():
    """Of the first seed there are as many words that are not zero as are struck, later not."""
    model = {"w": torch.zeros(200)}
    model["w"][:5] = 1.0
    rule = protection_of(Setting.of("none", {"kind": "none"}))
    worker = Subject(model, {"w": model["w"].clone()}, rule, None)
    zeros = Setting.of("zeros", {"kind": "zero", "rate": 5e-4})
    given = Task("n", "0", "", Setting.of("none", {"kind": "none"}), zeros, Stratum(), 0, 0, 200)
    with pytest.raises(
        CampaignError, match=r"n, none, zeros, trial \d+: zero .* can change only 5"
    ):
        worker.work(given)


def test_what_is_right_to_within_rounding_is_right():
    """Guards compute wrong outputs again in another order than the layer did."""
    exact = subject("guards").work(task("guards", "upset"))
    rounded = subject("guards", tolerance=0.0).work(task("guards", "upset"))
    assert exact.outcomes == "xxx"
    assert rounded.outcomes == "rrr"
    assert exact.scores == rounded.scores
    right = subject("guards").score_intact
    assert all(0.0 < abs(each - right) < 1e-7 * right for each in exact.scores)


def test_a_difference_within_the_tolerance_is_none():
    worker = subject("none", tolerance=0.0)
    row = worker.work(task("none", "upset"))
    assert row.outcomes == "sss"
    off = sorted(abs(each - worker.score_intact) for each in row.scores)
    assert off[0] > 1e-3
    between = subject("none", tolerance=(off[1] + off[2]) / 2.0).work(task("none", "upset"))
    assert sorted(between.outcomes) == ["m", "m", "s"]
    assert between.scores == row.scores


def test_rounding_harms_nobody():
    spec = tables(protections={"none": {}}, faults={"upset": FAULTS["upset"]})
    for tolerance, harmed in ((0.0, [0.0, 0.0, 1.0, 1.0]), (0.01, [0.0, 0.0, 0.0, 1.0])):
        spec["networks"]["digits"]["tolerance"] = tolerance
        fact = Fact("digits", "none", "w", 0.5, 0.5, 0, 0.0)
        (unit,) = units(Spec.of(spec), Prepared((fact,), {"digits": (Stratum(),)}))
        (first,) = unit.tasks_of(unit.spec.protections[0], Stratum(), range(4))
        scores = (0.6, 0.5 - 1e-8, 0.495, 0.4)
        assert unit.harmed(Row(first, "ssss", (0,) * 4, scores, (0.0,) * 4)) == harmed
