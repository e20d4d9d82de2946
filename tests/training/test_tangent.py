from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations

import parimend as pm
from parimend.carriers import Chosen
from parimend.codes import Sparse
from parimend.codes import gram as grams
from parimend.errors import MismatchError, SpecError
from parimend.stores.shards import Shards
from parimend.training.tangent import Tangent
from parimend.words.grid import Grid
from parimend.words.layout import Word, whole


@pytest.mark.parametrize("largest", [4096, 0])
def test_gradients_lose_what_leads_out_of_the_code_and_nothing_else(monkeypatch, largest):
    monkeypatch.setattr(grams, "_LARGEST", largest)  # factorized, or step by step
    torch.manual_seed(0)
    weights = {
        "a": torch.nn.Parameter(torch.ones(40, 20)),
        "b": torch.nn.Parameter(torch.ones(100)),
    }
    code = Sparse(n=900, m=40)
    parts = whole("a", "F32", (40, 20)), whole("b", "F32", (100,))
    word = Word(tuple(replace(p, exponent=e) for p, e in zip(parts, (-16, -18), strict=True)))
    tangent = Tangent(
        weights, [Chosen(code, word)], Shards(weights), torch.optim.LBFGS(weights.values())
    )
    weights["a"].grad = torch.randn(20, 40).T  # in another order
    before = np.concatenate([weights["a"].grad.numpy().ravel(), np.zeros(100)])
    tangent.project_()
    after = np.concatenate([each.grad.numpy().ravel() for each in weights.values()])
    steps = [np.full(p.count, Grid(code.word_bits, p.exponent).step) for p in word]
    across = code.dense() / code.unit / np.concatenate(steps)
    expected = before - across.T @ np.linalg.solve(across @ across.T, across @ before)
    assert np.allclose(after, expected, atol=1e-5)
    assert np.abs(expected[800:]).max() > 0.01  # what had no gradient has a part in it


def test_gradients_that_are_no_numbers_are_left_to_the_optimizer():
    weight = torch.nn.Parameter(torch.ones(20, 100))
    word = Chosen(Sparse(n=2000, m=64), Word((whole("w", "F32", (20, 100)),)))
    tangent = Tangent({"w": weight}, [word], Shards({"w": weight}), torch.optim.LBFGS([weight]))
    weight.grad = torch.full((20, 100), float("nan"))
    weight.grad[0] = 1.0
    tangent.project_()
    assert weight.grad[0].eq(1.0).all()


def net(parametrization, seed):
    torch.manual_seed(seed)
    around = {
        "none": lambda layer: layer,
        "weight": parametrizations.weight_norm,
        "cayley": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
    }[parametrization]
    return torch.nn.Sequential(
        around(torch.nn.Linear(8, 24)), torch.nn.Tanh(), around(torch.nn.Linear(24, 4))
    )


def fit(model, optimizer, steps, given):
    data = torch.Generator().manual_seed(1)
    x = torch.randn(64, 8, generator=data)
    y = x[:, :4].sin() + 0.1 * torch.randn(64, 4, generator=data)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        if given == "closure":
            optimizer.step(closure)
        elif given == "by name":
            optimizer.step(closure=closure)
        else:
            closure()
            optimizer.step()
    return closure().item()


@pytest.mark.parametrize(
    "parametrization", ["none", pytest.param("weight", marks=pytest.mark.long), "cayley"]
)
@pytest.mark.parametrize(
    ("make", "steps", "given"),
    [
        (lambda p: torch.optim.LBFGS(p), 10, "closure"),
        pytest.param(
            lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"),
            20,
            "by name",
            marks=pytest.mark.long,
        ),
        pytest.param(
            lambda p: torch.optim.Rprop(p, lr=0.01), 100, "nothing", marks=pytest.mark.long
        ),
        (lambda p: torch.optim.Rprop(p, lr=0.01), 100, "closure"),
    ],
    ids=["lbfgs", "searching", "rprop", "rprop-closure"],
)
def test_optimizers_that_infer_get_as_far_inside_the_code(parametrization, make, steps, given):
    free, inside = net(parametrization, 3), net(parametrization, 3)
    reached = fit(free, make(free.parameters()), steps, given)
    optimizer = make(inside.parameters())
    constraint = pm.constrain_(inside, optimizer, 4, every=1)
    assert fit(inside, optimizer, steps, given) < 1.5 * reached + 1e-3
    assert constraint.residual() < 1e-6
    assert constraint.events == []
    assert pm.check(inside, constraint.seal_()).ok


def test_steps_of_lbfgs_stay_inside_by_themselves():
    model = net("none", 0)
    optimizer = torch.optim.LBFGS(model.parameters())
    constraint = pm.constrain_(model, optimizer, 4, every=1000)
    fit(model, optimizer, 5, "closure")
    assert constraint.residual() < 1e-5
    constraint.remove()
    fit(model, optimizer, 1, "closure")
    assert constraint.residual() > 1e-5


def test_an_inferring_optimizer_of_a_part_of_a_word_is_refused_by_name():
    model = net("none", 0)
    first = torch.optim.LBFGS(model[0].parameters())
    second = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with pytest.raises(SpecError, match=r"LBFGS steps a part of a word only: 2\.bias, 2\.weight"):
        pm.constrain_(model, [first, second], 4)
    pm.constrain_(model, [first, second], 4, only=["0.*"])
    pm.constrain_(model, [first, second], 2, only=["2.*"])


def test_a_gradient_of_another_shape_is_named_and_nothing_beside_it_is_touched():
    model = torch.nn.Linear(40, 30)
    optimizer = torch.optim.Rprop(model.parameters())
    pm.constrain_(model, optimizer, 5)
    memory = torch.full((2000,), 7.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.weight.grad.data = memory[:320].view(8, 40)
    with pytest.raises(MismatchError, match=r"the gradient of weight has shape \[8, 40\]"):
        optimizer.step()
    assert bool((memory == 7).all())
