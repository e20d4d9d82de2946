import copy

import pytest
import torch

import parimend as pm
from parimend.errors import MismatchError, SpecError, WordError
from parimend.records import Verdict


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(20, 60)
        self.norm = torch.nn.BatchNorm1d(60)
        self.head = torch.nn.Linear(60, 10)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.hidden(x))))


def start(seed=0, optimizer="Adam", **options):
    torch.manual_seed(seed)
    model = Net()
    steps = getattr(torch.optim, optimizer)(model.parameters(), lr=0.01)
    return model, steps, pm.constrain_(model, steps, **{"errors": 8, **options})


def train(model, optimizer, steps, seed=1):
    data = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        x = torch.randn(32, 20, generator=data)
        y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("only", [["head.*"], None])
def test_weights_stay_inside_and_the_network_learns(optimizer, only):
    model, steps, constraint = start(optimizer=optimizer, only=only)
    keys = list(model.state_dict())
    losses = train(model, steps, 60)
    assert constraint.steps == 60
    assert constraint.residual() < 1e-6
    assert list(model.state_dict()) == keys
    if optimizer != "SGD":
        assert losses[-1] < 0.7 * losses[0]


def test_sealing_moves_the_weights_by_no_more_than_rounding_and_seals_them():
    model, steps, constraint = start()
    train(model, steps, 30)
    before = copy.deepcopy(model.state_dict())
    seal = constraint.seal_()
    assert seal.carrier == "real"
    assert max(seal.notes["moved"]) < 2e-3
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor.float(), before[name].float(), atol=5e-3, rtol=1e-3)
    intact = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.hidden.weight.view(-1)[100:108] = 0.25
    assert pm.repair_(model, seal).verdict is Verdict.CORRECTED
    assert all(torch.equal(t, intact[k]) for k, t in model.state_dict().items())


def test_after_sealing_the_optimizer_is_free_again():
    model, steps, constraint = start()
    constraint.seal_()
    train(model, steps, 3)
    assert constraint.steps == 0
    assert constraint.residual() > 1e-6


def test_leaving_the_context_removes_the_hook():
    model, steps, constraint = start()
    with constraint:
        train(model, steps, 2)
    train(model, steps, 2)
    assert constraint.steps == 2


def test_projecting_every_few_steps():
    model, steps, constraint = start(every=5)
    train(model, steps, 4)
    assert constraint.residual() > 1e-5
    train(model, steps, 1)
    assert constraint.residual() < 1e-6


def test_a_resumed_run_is_the_same_run():
    model, steps, constraint = start(every=3)
    train(model, steps, 10, seed=1)
    state = copy.deepcopy((model.state_dict(), steps.state_dict(), constraint.state_dict()))
    train(model, steps, 10, seed=2)
    end = constraint.seal_().to_bytes()

    model, steps, constraint = start(seed=99, every=3)
    model.load_state_dict(state[0])
    steps.load_state_dict(state[1])
    constraint.load_state_dict(state[2])
    train(model, steps, 10, seed=2)
    assert constraint.seal_().to_bytes() == end


def test_resuming_with_another_code_is_refused():
    _, _, first = start()
    _, _, second = start(errors=9)
    with pytest.raises(MismatchError, match="arguments of the saved run"):
        second.load_state_dict(first.state_dict())


def test_frozen_and_foreign_parameters_are_refused_by_name():
    model = Net()
    model.head.bias.requires_grad_(False)
    with pytest.raises(SpecError, match=r"head\.bias is frozen"):
        pm.constrain_(model, torch.optim.SGD(model.parameters(), lr=0.1), 5)
    model = Net()
    with pytest.raises(SpecError, match=r"does not step head\.weight"):
        pm.constrain_(model, torch.optim.SGD(model.hidden.parameters(), lr=0.1), 5, only=["head.*"])


def test_half_precision_is_refused_by_name():
    model = Net().half()
    with pytest.raises(WordError, match=r"hidden\.weight.*F16"):
        pm.constrain_(model, torch.optim.SGD(model.parameters(), lr=0.1), 5)


def test_divergence_is_named():
    model, steps, _ = start(optimizer="SGD")
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")
    with pytest.raises(WordError, match=r"head\.weight has non-finite values"):
        steps.step()


def test_per_row():
    model, steps, constraint = start(only=["head.*"], errors=1, per="row", rows=10)
    assert [code.n for code in constraint.codes] == [61] * 10
    train(model, steps, 5)
    assert constraint.residual() < 1e-6


def test_too_few_weights_and_bad_intervals():
    with pytest.raises(SpecError, match="too few to repair 500 errors"):
        start(errors=500, only=["head.*"])
    with pytest.raises(SpecError, match="every must be at least 1"):
        start(every=0)
