"""Guards and codes on the weights together: one catches wrong computations, one wrong memory."""

import copy

import pytest
import torch
from torch import nn

import parimend as pm
from parimend.guards import guard_
from parimend.outcomes import Verdict
from parimend.upsets import Upset, upset_


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(60, 96), nn.ReLU(), nn.Linear(96, 40)).eval()


@pytest.fixture
def x():
    return torch.randn(50, 60, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("impose", [False, True])
def test_a_suspect_layer_has_its_weights_repaired(model, x, impose):
    reports = []
    with guard_(
        model,
        4,
        impose=impose,
        policy=pm.Policy(on_weights=lambda _: reports.append(pm.repair_(model, seal))),
    ) as guards:
        seal = pm.protect_(model, errors=10)
        right, sound = model(x), copy.deepcopy(model.state_dict())
        with torch.no_grad():
            model[0].weight[5, 3:9] += 1.0
        torch.testing.assert_close(model(x), right)
        assert [report.verdict for report in reports] == [Verdict.CORRECTED]
        assert {(e.layer, e.kind) for e in guards.events} == {("0", "repaired")}
        assert all(torch.equal(model.state_dict()[name], sound[name]) for name in sound)


@pytest.mark.parametrize("carrier", ["sidecar", "lowbits", "real"])
def test_imposed_weights_can_be_put_into_a_code_and_stay_guarded(model, x, carrier):
    """`real` and `lowbits` move weights, so P W is kept from then on where it is not zero."""
    guard_(model, 4, impose=True).remove()
    seal = pm.protect_(model, errors=5, carrier=carrier)
    with guard_(model, 4) as guards, torch.no_grad():
        right = model(x)
        assert guards.events == ()
        assert {c.cover for c in guards.coverage()[::2]} <= {"imposed", "kept"}
        assert carrier != "sidecar" or guards.coverage()[0].cover == "imposed"
        with upset_(model, Upset("offset", size=1e-3)):
            torch.testing.assert_close(model(x), right, rtol=0, atol=1e-5)
        assert len(guards.events) == 2 * len(x)
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_training_inside_both(model, x):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    constraint = pm.constrain_(model, optimizer, errors=5, only=["2.*"])
    with guard_(model, 4, only=["0"], impose=True) as guards:
        for _ in range(20):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            guards.project_()
        seal = constraint.seal_()
        model(x)
        assert guards.events == ()
        assert guards.coverage()[0].cover == "imposed"
    with torch.no_grad():
        model[2].weight[3, 2:5] = 0.5
    assert pm.repair_(model, seal).verdict is Verdict.CORRECTED
