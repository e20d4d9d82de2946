import contextlib
import copy
import gc
import io
import math
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from unittest import mock

import numpy as np
import pytest
import torch

import parimend as pm
from parimend import kernels
from parimend.errors import DamageError, SpecError, WordError
from parimend.kernels import power_torch
from parimend.stores.model import ModelTensors
from parimend.training.kept import Kept
from tests.stores.test_naming import Flattened, Opaque


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.LayerNorm(40), torch.nn.Linear(40, 5)
    )


def optimizer_for(name, model):
    if name == "SGD":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return getattr(torch.optim, name)(model.parameters(), lr=1e-3)


def flip(tensor, rng):
    """Flip one bit of one element."""
    bits = tensor.detach().view(-1).view(torch.int32)
    bits[int(rng.integers(bits.numel()))] ^= int(np.int32(np.uint32(1) << rng.integers(32)))


def train(model, optimizer, steps, between=None, within=None, closure=False, first=0):
    for step in range(first, first + steps):
        if between:
            between(step)
        data = torch.Generator().manual_seed(step)
        x = torch.randn(32, model[0].in_features, generator=data)
        y = torch.randint(0, model[-1].out_features, (32,), generator=data)

        def compute(x=x, y=y):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        compute()
        if within:
            within(step)
        optimizer.step(compute) if closure else optimizer.step()


def same(a, b):
    return all(torch.equal(t, b[k]) for k, t in a.items())


def harmless(run, watch=pm.heal_):
    """What watched a healthy run, which ends as without it: of `run`, which trains a model."""
    alone, _ = run(lambda *_: None)
    model, healing = run(watch)
    assert healing.events == []
    assert same(model.state_dict(), alone.state_dict())
    return healing


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_a_run_with_flipped_bits_between_steps_is_the_undamaged_run(name, rng):
    model = network()
    train(model, optimizer_for(name, model), 25)
    undamaged = model.state_dict()

    model = network()
    optimizer = optimizer_for(name, model)
    healing = pm.heal_(model, optimizer)

    def strike(step):
        state = [t for s in optimizer.state.values() for t in s.values() if t.dim()]
        for _ in range(step % 3):
            pool = [*model.parameters(), *state]
            flip(pool[rng.integers(len(pool))], rng)

    train(model, optimizer, 25, strike)
    assert {event.kind for event in healing.events} == {"repaired"}
    assert same(model.state_dict(), undamaged)


def test_damage_before_the_step_costs_the_step_or_its_gradient_again(rng):
    model = network()
    train(model, torch.optim.Adam(model.parameters(), lr=1e-3), 10)
    undamaged = copy.deepcopy(model.state_dict())
    for closure in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        healing = pm.heal_(model, optimizer)

        def strike(step, model=model):
            if step == 4:
                with torch.no_grad():
                    model[0].weight[3, 2] = 1e20

        before = {}

        def note(step, model=model, before=before):
            before[step] = copy.deepcopy(model.state_dict())

        # Also for a closure the result is the same: gradients of the same pictures.
        train(model, optimizer, 10, note, strike, closure)
        kinds = [event.kind for event in healing.events]
        assert kinds == ["repaired", "redone" if closure else "skipped"]
        assert [event.where for event in healing.events] == [4, 4]
        if closure:
            assert same(model.state_dict(), undamaged)
        else:
            assert same(before[5], before[4])
            assert not same(before[6], before[5])


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("when", ["between", "within"])
@pytest.mark.parametrize("errors", [3, None])
def test_damage_of_what_the_optimizer_keeps_costs_no_step(errors, when, closure, rng):
    model = network()
    train(model, torch.optim.Adam(model.parameters(), lr=1e-3), 6)
    undamaged = model.state_dict()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer, errors)

    def strike(step):
        if step == 4:
            flip(optimizer.state[model[0].weight]["exp_avg_sq"], rng)

    train(model, optimizer, 6, **{when: strike}, closure=closure)
    assert [(event.kind, event.where) for event in healing.events] == [("repaired", 4)]
    assert same(model.state_dict(), undamaged)


@pytest.mark.parametrize("what", ["weights", "state"])
def test_as_many_errors_are_repaired_in_weights_alone_and_in_state_alone(what):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer, errors=5)
    train(model, optimizer, 2)
    weight = model[0].weight
    struck = weight if what == "weights" else optimizer.state[weight]["exp_avg"]
    right = struck.detach().clone()
    with torch.no_grad():
        struck.view(-1)[:5] += 1.0
    assert healing.check_()
    assert torch.equal(struck, right)


@pytest.mark.parametrize("factor", [1e8, float("nan"), float("inf")])
def test_a_wrong_gradient_is_not_used(factor):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seen = []
    healing = pm.heal_(model, optimizer, on_event=seen.append)
    kept = {}

    def spoil(step):
        if step == 30:
            kept.update(copy.deepcopy(model.state_dict()))
            model[3].weight.grad[0, 0] = factor

    train(model, optimizer, 31, within=spoil)
    [event] = healing.events
    assert (event.kind, event.where, seen) == ("skipped", 30, [event])
    assert "gradient" in event.reason
    assert same(model.state_dict(), kept)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_weights_in_any_order_of_memory_are_read_where_they_are(monkeypatch, elsewhere):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    model = model.to(memory_format=torch.channels_last)
    model[2].weight.data = torch.randn(8, 2).T  # not in rows either
    calls = []
    if elsewhere:  # as on another device, with its operations
        monkeypatch.setattr(
            ModelTensors, "is_elsewhere", lambda self, part: self.held[part.name].numel() > 1
        )
        kernel = mock.Mock(wraps=power_torch)
        calls = kernel.sums_of.mock_calls
        loops = kernels.on
        monkeypatch.setattr(
            kernels, "on", lambda *where: kernel if len(where) == 2 else loops(*where)
        )
    optimizer = torch.optim.Adam(model.parameters())
    healing = pm.heal_(model, optimizer, errors=4)
    with torch.no_grad():
        model[0].weight[5, 1, 2, 0] = 7.0
        model[2].weight[1, 6] = 8.0
    x = torch.randn(4, 3, 3, 3)
    model(x).sum().backward()
    [event] = healing.events
    assert {(c.tensor, c.index) for c in event.changes} == {
        ("0.weight", (5, 1, 2, 0)),
        ("2.weight", (1, 6)),
    }
    assert model[0].weight.abs().max() < 1 > model[0].bias.abs().max()
    optimizer.step()
    calls.clear()
    model(x)
    assert len(healing.events) == 1
    assert len(calls) == elsewhere  # once, for all weights and the optimizer's state


def test_with_a_constraint_in_either_order(rng):
    for first in ("constraint", "healing"):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        if first == "healing":
            healing = pm.heal_(model, optimizer)
        constraint = pm.constrain_(model, optimizer, 5, every=2)
        if first == "constraint":
            healing = pm.heal_(model, optimizer)
        else:
            healing.refresh()
        train(model, optimizer, 20, lambda step, model=model: flip(model[0].weight, rng))
        assert [event.kind for event in healing.events] == ["repaired"] * 20
        assert constraint.events == []
        assert constraint.residual() < 1e-6


def test_sharpness_aware_minimization_moves_weights_within_a_step():
    from pytorch_optimizer import SAM

    model = network()
    options = {"base_optimizer": torch.optim.SGD, "rho": 0.05, "lr": 0.1}
    train(model, SAM(model.parameters(), **options), 5, closure=True)
    expected = model.state_dict()
    model = network()
    optimizer = SAM(model.parameters(), **options)
    healing = pm.heal_(model, optimizer)

    def strike(step):
        with torch.no_grad():
            model[0].weight[1, 1] = -0.0

    train(model, optimizer, 5, strike, closure=True)
    assert [event.kind for event in healing.events] == ["repaired"] * 5
    assert same(model.state_dict(), expected)


def test_loading_is_no_damage_and_too_much_damage_is_an_error():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer, errors=3)
    train(model, optimizer, 2)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 2, first=2)
    model.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    train(model, optimizer, 2, first=2)
    assert healing.events == []
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    changed = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(DamageError, match=r"more than 3 words have changed.*refresh"):
        model(torch.ones(1, 20))
    with pytest.raises(DamageError, match=r"more than 3 words have changed.*refresh"):
        model.state_dict()
    assert same(dict(model.named_parameters()), changed)
    healing.refresh()
    train(model, optimizer, 1)


def test_leaving_removes_all_hooks():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pm.heal_(model, optimizer) as healing:
        train(model, optimizer, 2)
    with torch.no_grad():
        model[0].weight[0, 0] = 9.0
    train(model, optimizer, 2)
    assert (healing.steps, healing.events) == (2, [])


def test_without_a_limit_every_finite_gradient_is_used():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer, gradient_factor=math.inf)

    def spoil(step):
        if step >= 30:
            model[3].weight.grad[0, 0] = 1e8 if step == 30 else math.inf

    train(model, optimizer, 32, within=spoil)
    assert [(event.kind, event.where) for event in healing.events] == [("skipped", 31)]


def test_a_gradient_that_stays_large_is_learned():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer)

    def weigh(step):
        if step >= 30:
            for parameter in model.parameters():
                parameter.grad.mul_(1e4)

    train(model, optimizer, 60, within=weigh)
    assert [(e.kind, e.where) for e in healing.events] == [
        *(("skipped", step) for step in range(30, 34)),
        ("accepted", 34),
    ]


def test_gradients_that_are_wrong_in_every_step_are_warned_of():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer)

    def spoil(step):
        if step >= 25:
            model[3].weight.grad[0, 0] = 10.0 ** (8 + 3 * (step % 8))

    with pytest.warns(UserWarning, match="skipped 20 steps in a row"):
        train(model, optimizer, 50, within=spoil)
    assert [event.kind for event in healing.events] == ["skipped"] * 25


def test_gradients_that_are_large_again_and_again_are_warned_of():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer)

    def raise_sometimes(step):
        if step >= 25 and step % 2:
            for parameter in model.parameters():
                parameter.grad *= 1e6

    with pytest.warns(UserWarning, match=r"skipped 20 steps, .* another gradient_factor"):
        train(model, optimizer, 70, within=raise_sometimes)
    assert len(healing.events) > 20


def test_what_another_optimizer_steps_is_left_to_it():
    def run(heal):
        model = network()
        one = torch.optim.Adam([p for n, p in model.named_parameters() if n != "3.bias"], lr=1e-3)
        other = torch.optim.SGD([model[3].bias], lr=0.1)
        healing = heal(model, one, other)
        train(model, one, 5, within=lambda step: other.step())
        other.zero_grad()
        return model, healing

    alone, _ = run(lambda model, one, other: None)
    with pytest.warns(UserWarning, match=r"3\.bias: another optimizer steps it"):
        model, healing = run(lambda model, one, other: pm.heal_(model, one))
    assert same(model.state_dict(), alone.state_dict())
    assert [event.kind for event in healing.events] == ["unwatched"]
    with torch.no_grad():
        model[3].weight[0, 0] = 5.0
    model(torch.ones(1, 20))
    assert [event.kind for event in healing.events] == ["unwatched", "repaired"]
    model, healing = run(lambda model, one, other: pm.heal_(model, [one, other]))
    assert same(model.state_dict(), alone.state_dict())
    assert healing.events == []
    with torch.no_grad():
        model[3].bias[0] = 5.0
    model(torch.ones(1, 20))
    assert same(model.state_dict(), alone.state_dict())


@pytest.mark.parametrize("order", ["heal_ first", "constrain_ first"])
def test_what_a_constraint_does_is_no_damage(order):
    """Setting up, projecting, and sealing, after which training goes on."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if order == "heal_ first":
        healing = pm.heal_(model, optimizer, 5)
    constraint = pm.constrain_(model, optimizer, 5, only=["0.*"], every=3)
    if order == "constrain_ first":
        healing = pm.heal_(model, optimizer, 5)
    train(model, optimizer, 4)
    constraint.project_()
    train(model, optimizer, 1)
    seal = constraint.seal_()
    assert not healing.check_()
    assert pm.check(model, seal).ok
    train(model, optimizer, 2)
    pm.guard_(model, 1, impose=True, only=["3"]).remove()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seal = pm.protect_(model, 5, "real")
    train(model, optimizer, 2)
    assert healing.events == []
    with torch.no_grad():
        model[0].weight[3, 4] = 9.0
    assert healing.check_()


def test_what_guards_impose_on_an_attention_is_no_damage():
    attention = torch.nn.MultiheadAttention(16, 2)
    healing = pm.heal_(attention, torch.optim.SGD(attention.parameters(), lr=0.1))
    pm.guard_(attention, 2, impose=True).remove()
    assert not healing.check_()
    assert healing.events == []


def test_what_guards_project_again_after_a_step_is_no_damage(rng):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer, 5)
    with pm.guard_(model, 1, impose=True) as guards:
        for _ in range(2):
            train(model, optimizer, 1)
            guards.project_()
        assert not healing.check_()
        right = copy.deepcopy(model.state_dict())
        flip(model[0].weight, rng)
        guards.project_()  # of weights that were put right before
        assert [event.kind for event in healing.events] == ["repaired"]
        torch.testing.assert_close(model.state_dict(), right)


def test_a_repair_from_a_seal_is_no_damage(rng):
    model = network()
    seal, right = pm.protect_(model, 20), copy.deepcopy(model.state_dict())
    flip(model[0].weight, rng)
    healing = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    assert pm.repair_(model, seal).verdict is pm.Verdict.CORRECTED
    assert not healing.check_()
    assert same(model.state_dict(), right)
    assert healing.events == []
    for _ in range(9):  # more than the run can put back itself
        flip(model[3].weight, rng)
    assert pm.repair_(model, seal).verdict is pm.Verdict.CORRECTED
    assert not healing.check_()
    assert same(model.state_dict(), right)


def test_what_one_thread_moves_is_no_damage_for_another(monkeypatch):
    """Also while its sums are being taken."""
    model = network()
    healing = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1))
    keep = Kept.keep
    with ThreadPoolExecutor(1) as pool:

        def looked_at_meanwhile(kept):
            wait([pool.submit(healing.check_)], timeout=0.2)
            keep(kept)

        with monkeypatch.context() as patch, healing.update(), torch.no_grad():
            model[0].weight[0, 0] = 2.0
            patch.setattr(Kept, "keep", looked_at_meanwhile)
    assert model[0].weight[0, 0] == 2.0
    assert healing.events == []


CHANGES = {
    "a submodule": lambda model, optimizer: model[3].load_state_dict(
        {name: 2 * t for name, t in model[3].state_dict().items()}
    ),
    "an optimizer": lambda model, optimizer: optimizer.load_state_dict(
        copy.deepcopy(optimizer.state_dict())
    ),
    "memory": lambda model, optimizer: setattr(model[3].weight, "data", 2 * model[3].weight.data),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_damage_beside_what_is_changed_on_purpose_is_put_back(change):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 2)
    right = model[0].weight.clone()
    with torch.no_grad():
        model[0].weight[3, 4] = 1e30
    change(model, optimizer)
    changed = model[3].weight.clone()
    healing.check_()
    assert torch.equal(model[0].weight, right)
    assert torch.equal(model[3].weight, changed)
    [event] = healing.events
    assert [(c.tensor, c.index) for c in event.changes] == [("0.weight", (3, 4))]


@pytest.mark.parametrize("count", [3, 400])
def test_the_old_memory_of_what_was_moved_is_not_touched(count):
    """Who swaps two sets of weights may go on with the other one."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    old = model[0].weight.data
    model[0].weight.data = old.clone()
    old.view(-1)[:count] = 5.0
    with torch.no_grad():
        model[3].bias[1] = 1e30
    with pytest.warns(UserWarning, match="what moving 0.weight has left there"):
        assert healing.check_() == (count == 3)  # what is in between cannot be told from so many
    assert [event.kind for event in healing.events] == ["repaired", "accepted"][count > 3 :]
    assert (old.view(-1)[:count] == 5.0).all()
    assert (model[3].bias[1] == 1e30) == (count == 400)


def test_damage_that_moves_with_its_tensor_is_told():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    struck(model[0].weight)
    model[0].weight.data = model[0].weight.data.clone()
    with pytest.warns(UserWarning, match="0.weight: damage since step 0 cannot be told"):
        model(torch.ones(1, 20))
    assert [event.kind for event in healing.events] == ["accepted"]


def test_a_checkpoint_may_be_loaded_after_damage_beyond_repair():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    good = copy.deepcopy(model.state_dict())
    healing = pm.heal_(model, optimizer, 5)
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    with pytest.raises(DamageError):
        healing.check_()
    with pytest.warns(UserWarning, match="what is not loaded now is taken for right"):
        model.load_state_dict(good)
    train(model, optimizer, 1)
    assert [event.kind for event in healing.events] == ["accepted"]


@pytest.mark.parametrize("bit", [0, 31, 62])
def test_damage_of_the_sums_that_are_kept_is_never_put_into_weights(bit):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer, 3)
    right = copy.deepcopy(model.state_dict())
    sums = healing._snapshot._kept._watched[0]._kept
    sums.reshape(-1)[2] ^= np.uint64(1 << bit)
    struck(model[0].weight)
    with pytest.raises(DamageError, match="or the sums that were kept"):
        model(torch.ones(1, 20))
    assert healing.events == []
    sums.reshape(-1)[2] ^= np.uint64(1 << bit)
    assert healing.check_()
    assert same(model.state_dict(), right)


def test_an_update_within_an_update_is_a_part_of_it():
    model = network()
    healing = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with healing.update(), torch.no_grad():
        model[0].bias.fill_(1.0)
        with healing.update():
            model[3].bias.fill_(2.0)
    assert (model[0].bias == 1.0).all()
    assert not healing.check_()


@pytest.mark.parametrize("count", [1, 1000])
def test_what_a_block_leaves_that_raises_is_not_taken_for_right(count):
    model = network()
    healing = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1), errors=3)
    right = model[0].weight.clone()

    def torn():
        with healing.update():
            model[0].weight.data.view(-1)[:count] += 1.0
            raise KeyError("the teacher")

    with pytest.raises(KeyError):
        torn()
    if count == 1:
        assert healing.check_()
        assert torch.equal(model[0].weight, right)
    else:
        with pytest.raises(DamageError):
            healing.check_()
        healing.refresh()
        assert not healing.check_()


def test_closures_may_compute_in_other_threads():
    class Twice(torch.optim.SGD):
        """Moves weights before it asks for the gradient again."""

        def step(self, closure):
            super().step()
            with torch.enable_grad():
                closure()
            super().step()

    def run(watch):
        model = network()
        optimizer = Twice(model.parameters(), lr=0.1)
        healing = watch(model, optimizer)
        with ThreadPoolExecutor(1) as pool:
            for seed in range(3):
                x = torch.full((4, 20), 1.0 + seed)
                model(x).square().mean().backward()

                def closure(x=x):
                    optimizer.zero_grad()
                    pool.submit(model, x).result().square().mean().backward()

                optimizer.step(closure)
        return model, healing

    harmless(run, lambda model, optimizer: pm.heal_(model, optimizer, 1000))


def test_a_step_that_an_exception_ends_is_over():
    """What another optimizer does afterwards is its work, and no damage."""
    model = network()
    one = torch.optim.SGD(model[0].parameters(), lr=0.1)
    other = torch.optim.SGD(model[3].parameters(), lr=0.1)
    healing = pm.heal_(model, one)

    def closure():
        model(torch.ones(1, 20))
        raise MemoryError

    with pytest.raises(MemoryError):
        one.step(closure)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    with pytest.warns(UserWarning, match="another optimizer steps it"):
        other.step()
    moved = model[3].weight.clone()
    one.step()
    assert torch.equal(model[3].weight, moved)
    assert [event.kind for event in healing.events] == ["unwatched"]


def struck(tensor):
    with torch.no_grad():
        tensor.view(-1)[1] = 1e30


def test_what_an_interrupted_step_has_moved_is_right_and_told():
    def run(watch):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
        healing = watch(model, optimizer)
        for step in range(4):
            calls = 0

            def closure(step=step):
                nonlocal calls
                if (calls := calls + 1) == 3 and step % 2:
                    raise MemoryError
                optimizer.zero_grad()
                data = torch.Generator().manual_seed(step)
                x, y = torch.randn(64, 4, generator=data), torch.rand(64, 3, generator=data)
                loss = (model(x).tanh() - y).square().mean()
                loss.backward()
                return loss

            with contextlib.suppress(MemoryError):
                optimizer.step(closure)
        return model, healing

    alone, _ = run(lambda model, optimizer: None)
    with pytest.warns(UserWarning, match="a step that an exception ended has left there"):
        model, healing = run(pm.heal_)
    assert same(dict(model.named_parameters()), dict(alone.named_parameters()))
    assert [event.kind for event in healing.events] == ["accepted"]  # the last one is not seen yet
    assert healing.events[0].reason.startswith("bias, weight, weight (prev_flat_grad): damage")
    assert healing.steps == 2
    with pytest.warns(UserWarning, match="a step that an exception ended"):
        assert not healing.check_()
    struck(model.weight)
    assert healing.check_()
    assert same(model.state_dict(), alone.state_dict())


@pytest.mark.parametrize("errors", [100, None])
def test_damage_before_a_forward_that_is_transformed_waits_for_the_step(errors):
    """No values can be looked at in there."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer, errors)
    before = copy.deepcopy(model.state_dict())
    struck(model[0].weight)
    torch.func.vmap(model)(torch.ones(3, 20)).sum().backward()
    optimizer.step()
    assert [event.kind for event in healing.events] == ["repaired", "skipped"]
    assert same(model.state_dict(), before)
    struck(model[0].weight)
    torch.export.export(model, (torch.ones(1, 20),))
    model(torch.ones(1, 20))
    assert [event.kind for event in healing.events] == ["repaired", "skipped", "repaired"]
    assert same(model.state_dict(), before)


def test_weights_that_are_lent_after_an_interrupted_step_are_not_looked_after():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    lent = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    torch.func.functional_call(model, lent, (torch.ones(1, 20),))
    model(torch.ones(1, 20))
    before = model[0].weight.clone()
    struck(model[0].weight)
    assert healing.check_()
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("errors", [100, None])
def test_what_was_made_of_damaged_weights_is_told(errors):
    """It takes their place: to put these back would heal nothing."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    healing = pm.heal_(model, optimizer, errors)
    train(model, optimizer, 2)
    right = optimizer.state[model[3].bias]["exp_avg"].clone()
    struck(model[0].weight)
    struck(optimizer.state[model[3].bias]["exp_avg"])
    model[0].weight = torch.nn.Parameter(2 * model[0].weight.detach())
    with pytest.warns(UserWarning, match="0.weight: damage since step 2 cannot be told"):
        model(torch.ones(1, 20))
    assert [event.kind for event in healing.events] == ["repaired", "accepted"]
    assert [change.tensor for change in healing.events[0].changes] == ["3.bias (exp_avg)"]
    assert torch.equal(optimizer.state[model[3].bias]["exp_avg"], right)
    made = model[0].weight.clone()
    struck(model[0].weight)
    assert healing.check_()
    assert torch.equal(model[0].weight, made)


def test_copies_that_are_made_in_inference_mode_serve_outside_of_it():
    def run(watch):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.inference_mode():
            healing = watch(model, optimizer)
        train(model, optimizer, 2)
        return model, healing

    harmless(run, lambda model, optimizer: pm.heal_(model, optimizer, errors=None))


def test_what_an_interrupted_step_has_not_moved_is_put_back():
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    for moved in (False, True):

        def closure(moved=moved):
            if moved:
                model[0].bias.data[:3] += 1
            struck(model[3].weight)
            raise MemoryError

        right = model[3].weight.clone()
        with pytest.raises(MemoryError):
            optimizer.step(closure)
        left = model[0].bias.clone()
        if moved:
            with pytest.warns(UserWarning, match=r"0\.bias: damage since step 0"):
                model(torch.ones(1, 20))
        else:
            model(torch.ones(1, 20))
        assert torch.equal(model[3].weight, right)
        assert torch.equal(model[0].bias, left)
    assert [event.kind for event in healing.events] == ["repaired", "repaired", "accepted"]
    # A step that does not begin moves nothing.
    model[3].weight.data.fill_(2.0)
    for _ in range(2):
        with pytest.raises(DamageError):
            optimizer.step()
    with pytest.raises(DamageError):
        healing.check_()


def test_steps_within_steps_are_parts_of_them():
    class Twice(torch.optim.SGD):
        """Asks for the gradient again where its own steps and more have moved the weights."""

        def step(self, closure):
            super().step()
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    parameter.add_(1e-3)
            with torch.enable_grad():
                closure()
            super().step()

    def run(watch):
        model = network()
        optimizer = Twice(model.parameters(), lr=0.1)
        healing = watch(model, optimizer)
        train(model, optimizer, 3, closure=True)
        return model, healing

    healing = harmless(run, lambda model, optimizer: pm.heal_(model, optimizer, 1000))
    assert healing.steps == 3


def test_steps_may_be_taken_by_several_threads():
    def run(watch):
        model = network()
        optimizers = [torch.optim.SGD(model[n].parameters(), lr=0.1) for n in (0, 2, 3)]
        healing = watch(model, optimizers)
        with ThreadPoolExecutor(3) as pool:
            for seed in range(20):
                data = torch.Generator().manual_seed(seed)
                model(torch.randn(4, 20, generator=data)).square().mean().backward()
                list(pool.map(lambda each: each.step(), optimizers))
                model.zero_grad()
        return model, healing

    harmless(run)


def test_steps_on_purpose_within_an_update_are_right():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    with healing.update():
        model[0].bias.data += 1
        right = model[0].bias.clone()
        assert not healing.check_()
        optimizer.step()
        assert torch.equal(model[0].bias, right)
    assert not healing.check_()
    assert (healing.steps, healing.events) == (1, [])


@pytest.mark.parametrize("what", ["model", "submodule", "optimizer"])
def test_damage_right_after_loading_is_put_back(what):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 2)
    target = {"model": model, "submodule": model[3], "optimizer": optimizer}[what]
    state = copy.deepcopy(target.state_dict())
    train(model, optimizer, 2, first=2)
    with mock.patch.object(Kept, "keep", autospec=True, side_effect=Kept.keep) as sums:
        target.load_state_dict(state)
    assert sums.call_count == 1
    right = copy.deepcopy(model.state_dict())
    struck(model[3].weight)
    struck(optimizer.state[model[0].weight]["exp_avg"])
    assert healing.check_()
    assert same(model.state_dict(), right)
    assert len(healing.events[0].changes) == 2


def test_a_submodule_that_is_new_may_be_loaded():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    model[3] = torch.nn.Linear(40, 5)
    optimizer.add_param_group({"params": list(model[3].parameters())})
    train(model, optimizer, 1)
    state = {name: 2 * tensor for name, tensor in model[3].state_dict().items()}
    model[3].load_state_dict(state)
    assert not healing.check_()
    assert same(model[3].state_dict(), state)


def test_optimizers_of_the_same_parameters_have_a_state_each():
    model = network()
    both = [torch.optim.Adam(model.parameters(), lr=lr) for lr in (1e-3, 1e-4)]
    healing = pm.heal_(model, both)
    for optimizer in both:
        train(model, optimizer, 1)
    for optimizer in both:
        struck(optimizer.state[model[0].weight]["exp_avg"])
    assert healing.check_()
    assert [change.tensor for change in healing.events[0].changes] == [
        "0.weight (exp_avg)",
        "0.weight (exp_avg of optimizer 1)",
    ]


class Around(torch.optim.SGD):
    """An optimizer that has its steps taken by one inside of it, as `ZeroRedundancyOptimizer`."""

    def __init__(self, parameters):
        super().__init__(list(parameters), lr=1e-3)
        self.inner = torch.optim.Adam(self.param_groups[0]["params"])
        self.inner.outer = self

    def step(self, closure=None):
        self.inner.step()


def test_what_an_optimizer_inside_of_another_one_keeps_is_put_back():
    model = network()
    optimizer = Around(model.parameters())
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 2)
    struck(optimizer.inner.state[model[0].weight]["exp_avg"])
    train(model, optimizer, 1, first=2)
    assert [change.tensor for e in healing.events for change in e.changes] == ["0.weight (exp_avg)"]
    alone = network()
    train(alone, Around(alone.parameters()), 3)
    assert same(model.state_dict(), alone.state_dict())


def test_the_history_of_lbfgs_is_put_back():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 3, closure=True)
    struck(optimizer.state[model[0].weight]["old_dirs"][1])
    assert healing.check_()
    [change] = healing.events[0].changes
    assert (change.tensor, change.index) == ("0.weight (old_dirs 1)", (1,))


def test_a_new_optimizer_in_place_of_the_old_one_is_told():
    model = network()
    healing = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match="give heal_ all optimizers"):
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
    assert [event.kind for event in healing.events] == ["unwatched"]


def test_loading_into_a_part_of_the_model_is_no_damage():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 2)
    new = torch.nn.Linear(20, 40)
    new.bias.data[:3] += 1
    model[0].load_state_dict(new.state_dict())
    train(model, optimizer, 1)
    model[0].load_state_dict(copy.deepcopy(new).state_dict(), assign=True)
    model(torch.ones(1, 20))
    assert same(model[0].state_dict(), new.state_dict())
    assert healing.events == []


def test_updates_on_purpose_are_kept_and_damage_before_them_is_not():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 2)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model[0].weight[0, 0] = 7.0
        with healing.update():
            assert same(model.state_dict(), before)
            model[3].weight.mul_(2.0)
            model(torch.ones(1, 20))
    train(model, optimizer, 1)
    assert [event.kind for event in healing.events] == ["repaired"]


def test_parameters_may_be_moved_and_change_their_dtype():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    train(model, optimizer, 2)
    model.double()
    model(torch.ones(1, 20).double())
    model.float()
    train(model, optimizer, 2)
    model[0].weight.data = model[0].weight.data * 2
    train(model, optimizer, 2)
    assert healing.events == []
    with torch.no_grad():
        model[0].weight[0, 0] = 7.0
    train(model, optimizer, 1)
    assert [event.kind for event in healing.events] == ["repaired"]


@pytest.mark.parametrize("scale", [2.0**16, 2.0**125, 2.0**127])
@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_of_a_healthy_run_are_used(scale, fused):
    """A scale that is too large is found by the scaler itself, which has no step taken."""

    def run(watch):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
        healing = watch(model, optimizer)
        for step in range(30):
            optimizer.zero_grad()
            data = torch.Generator().manual_seed(step)
            scaler.scale(model(torch.randn(8, 20, generator=data)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        return model, healing

    harmless(run)


def test_gradients_in_half_precision_are_measured_in_single():
    model = torch.nn.Linear(400, 100).half()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    healing = pm.heal_(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)  # a norm of 2e5
    optimizer.step()
    assert healing.events == []
    model.bias.grad[3] = torch.inf
    optimizer.step()
    assert [event.kind for event in healing.events] == ["skipped"]


def test_gradients_that_a_line_search_has_left_do_not_count():
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    calls = []

    def closure():
        calls.append(len(calls))
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()

    def last_trial(*_):
        model.weight.grad.fill_(torch.inf)

    hook = optimizer.register_step_post_hook(last_trial)
    for _ in range(3):
        optimizer.step(closure)
    assert (calls, healing.events) == ([0, 1, 2], [])
    hook.remove()
    model.weight.grad.fill_(torch.inf)  # not by the step
    optimizer.step(closure)
    assert [event.kind for event in healing.events] == ["redone"]
    model.weight.grad = torch.full((1, 4), torch.inf)
    optimizer.step(closure)
    assert [event.kind for event in healing.events] == ["redone"] * 2


def test_sparse_gradients():
    model = torch.nn.Embedding(50, 8, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    for step in range(30):
        optimizer.zero_grad()
        model(torch.tensor([3, 3, step])).sum().backward()
        if step == 29:
            model.weight.grad.mul_(1e6)
            before = model.weight.detach().clone()
        optimizer.step()
    assert [(event.kind, event.where) for event in healing.events] == [("skipped", 29)]
    assert torch.equal(model.weight, before)


def test_parameters_without_values_are_refused():
    model = torch.nn.LazyLinear(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match="weight has no values yet"):
        pm.heal_(model, optimizer)
    with pytest.raises(WordError, match="weight has no values yet"):
        pm.constrain_(model, optimizer, 5)


def test_copies_leave_healing_behind_and_it_keeps_nothing_alive():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    healing = pm.heal_(model, optimizer)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        with torch.no_grad():
            other[0].weight.mul_(2.0)
        other(torch.ones(1, 20))
    assert healing.events == []
    kept = weakref.ref(healing)
    del healing, model, optimizer
    gc.collect()
    assert kept() is None


def test_bad_arguments():
    from pytorch_optimizer import Lookahead

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match="gradient_factor must be a number above 1"):
        pm.heal_(model, optimizer, gradient_factor=1.0)
    with pytest.raises(SpecError, match="errors must be at least 1"):
        pm.heal_(model, optimizer, errors=0)
    with pytest.raises(SpecError, match="Lookahead does not have all hooks"):
        pm.heal_(model, Lookahead(optimizer))
    with pytest.raises(SpecError, match=r"must be an optimizer of torch, .*not a Parameter"):
        pm.heal_(model, list(model.parameters()))


@pytest.mark.parametrize("moved", [False, True])
def test_what_could_not_be_watched_is_watched_as_soon_as_it_can_be(monkeypatch, moved):
    model = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5))
    optimizer = torch.optim.Adam(model.parameters())
    healing = pm.heal_(model, optimizer)

    def step():
        optimizer.zero_grad()
        model(torch.randn(8, 20)).square().sum().backward()
        optimizer.step()

    def scarce(*args):
        raise torch.OutOfMemoryError("no memory left for a moment")

    if moved:
        step()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    with monkeypatch.context() as patch:
        patch.setattr("parimend.training.kept.Watched", scarce)
        with pytest.raises(torch.OutOfMemoryError):
            step()
    step()
    state = optimizer.state[model[0].weight]["exp_avg_sq"]
    for tensor in (state, model[0].weight):
        with torch.no_grad():
            tensor[3, 4] = 1e30
        assert healing.check_()
        assert tensor[3, 4].item() < 1e30


@pytest.mark.parametrize("errors", [2, None])
def test_a_run_that_cannot_be_watched_is_left_alone(monkeypatch, errors):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())

    def scarce(*args):
        raise torch.OutOfMemoryError("no memory left for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "keep", scarce)
        with pytest.raises(torch.OutOfMemoryError):
            pm.heal_(model, optimizer, errors)
    model.load_state_dict(network(1).state_dict())  # warns of no damage


@pytest.mark.parametrize("watch", [pm.heal_, lambda *given: pm.constrain_(*given, errors=5)])
def test_an_optimizer_of_another_model_is_refused(watch):
    model, other = network(), network()
    theirs = torch.optim.Adam(other.parameters())
    with pytest.raises(SpecError, match="step"):
        watch(model, theirs)
    with pytest.raises(SpecError, match="Adam steps no parameter of this model"):
        watch(model, [torch.optim.SGD(model.parameters(), lr=0.1), theirs])


@pytest.mark.parametrize("watch", [pm.heal_, lambda *given: pm.constrain_(*given, errors=5)])
def test_a_wrapper_that_only_passes_for_an_optimizer_is_refused(watch):
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inside):
            self.inside = inside

    model = network()
    with pytest.raises(SpecError, match="Wrapper has no param_groups: give the one that it wraps"):
        watch(model, Wrapper(torch.optim.Adam(model.parameters())))


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
@pytest.mark.parametrize("watch", [pm.heal_, lambda *given: pm.constrain_(*given, errors=5)])
def test_torchscript_is_refused_and_left_alone(watch):
    model = torch.nn.Sequential(torch.nn.Linear(20, 20), torch.jit.script(network()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match="1 is TorchScript, which takes no hooks"):
        watch(model, optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert not model._load_state_dict_post_hooks


def test_a_model_without_parameters_is_refused():
    optimizer = torch.optim.Adam(network().parameters())
    with pytest.raises(SpecError, match="heal_: ReLU has no parameters"):
        pm.heal_(torch.nn.ReLU(), optimizer)
    with pytest.raises(WordError, match="no tensors to protect"):
        pm.constrain_(torch.nn.ReLU(), optimizer, errors=5)


def test_embeddings_that_are_renormalized_in_a_forward_are_left_alone():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(50, 8, max_norm=1.0), torch.nn.Flatten(), torch.nn.Linear(32, 5)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"0\.weight: its layer changes it in a forward"):
        healing = pm.heal_(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randint(50, (16, 4))).square().mean().backward()
        optimizer.step()
    assert [event.kind for event in healing.events] == ["unwatched"]
    struck(model[2].weight)
    assert healing.check_()


class Compressed(torch.optim.SGD):
    """Keeps a state of a class of its own, as optimizers of 8 bits do."""

    def __init__(self, model, kind):
        super().__init__(model.parameters(), lr=0.1)
        self.kind = kind

    def step(self, closure=None):
        super().step(closure)
        weight = self.param_groups[0]["params"][0]
        if not self.state[weight]:
            self.state[weight]["average"] = made_of_two(self.kind, weight.shape)
        self.state[weight]["average"].data_.add_(1)


def made_of_two(kind, shape=(30, 20)):
    return kind(torch.zeros(shape, dtype=torch.int8), torch.ones(shape[0]))


@pytest.mark.parametrize("errors", [20, None])
def test_tensors_that_are_made_of_others_are_looked_at_as_these(errors):
    model = network()
    model.frozen = torch.nn.Parameter(made_of_two(Flattened), requires_grad=False)
    optimizer = Compressed(model, Flattened)
    with pm.heal_(model, optimizer, errors=errors) as healing:
        for step in range(3):
            model[0](torch.ones(1, 20)).sum().backward()
            optimizer.step()
            model.frozen.data_[3, 4] += 1
            optimizer.state[model.frozen]["average"].data_[5, 6] += 1
            model.frozen.scale[7] = 2.0
            assert healing.check_()
            assert not model.frozen.data_.any()
            assert (optimizer.state[model.frozen]["average"].data_ == step + 1).all()
    names = [{change.tensor for change in event.changes} for event in healing.events]
    assert names == 3 * [{"frozen.data_", "frozen.scale", "frozen (average.data_)"}]


def test_tensors_that_hide_their_memory_are_told_and_left_alone():
    model = network()
    model.frozen = torch.nn.Parameter(made_of_two(Opaque), requires_grad=False)
    optimizer = Compressed(model, Opaque)
    with pytest.warns(UserWarning, match="frozen: of a class that hides its memory .* heal_ does"):
        healing = pm.heal_(model, optimizer)
    with pytest.warns(UserWarning, match=r"frozen \(average\): of a class"):
        optimizer.step()
    optimizer.step()
    assert [event.kind for event in healing.events] == ["unwatched", "unwatched"]
    struck(model[0].weight)
    assert healing.check_()
    healing.remove()


@pytest.mark.parametrize("errors", ["3", 2.5, True, -1])
def test_a_number_of_errors_that_is_none(errors):
    model = network()
    with pytest.raises(SpecError, match="error"):
        pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1), errors)


def test_the_last_call_looks_after_a_model():
    """As in a cell of a notebook that is run again: with another optimizer, and no handle."""
    model = network()
    first = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"<Healing: 0 steps seen, 0 events> ends: heal_ was call"):
        second = pm.heal_(model, optimizer)
    assert [event.kind for event in first.events] == ["unwatched"]
    with pytest.raises(SpecError, match="gradient_factor"):
        pm.heal_(model, optimizer, gradient_factor=0)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        next(model.parameters())[0, 0] = 1e30
    model(torch.ones(1, next(model.parameters()).shape[1]))
    assert [event.kind for event in second.events] == ["repaired"]
    assert all(map(torch.equal, before, model.parameters()))
    assert len(first.events) == 1


@pytest.mark.parametrize("trains", [False, True])
def test_models_that_share_a_part_are_both_looked_after(trains):
    """Which none of them trains, or the other one does."""
    shared = torch.nn.Linear(20, 20).requires_grad_(trains)
    models = [torch.nn.Sequential(shared, torch.nn.Linear(20, n)) for n in (3, 4)]
    trained = [models[0][1], models[1] if trains else models[1][1]]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in trained]
    healings = [pm.heal_(*each) for each in zip(models, optimizers, strict=True)]
    right = [copy.deepcopy(model[1].state_dict()) for model in models]
    for model in models:
        model[1].weight.data[0, 0] = 1e30
        model(torch.ones(5, 20))
    assert [[event.kind for event in each.events] for each in healings] == [["repaired"]] * 2
    assert all(map(same, (model[1].state_dict() for model in models), right))


# What is looked at, and when


def batches(count, seed=1):
    data = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 4, generator=data), torch.randn(8, 3, generator=data)) for _ in range(count)
    ]


def loss_of(model, x, y):
    return (model(x) - y).square().mean()


def test_a_scaler_that_takes_no_step_does_not_keep_damage_from_being_found():
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    healing, scaler = pm.heal_(model, optimizer), torch.amp.GradScaler("cpu")
    for number, (x, y) in enumerate(batches(70)):
        if number == 41:
            struck(model.weight)
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        if number in (40, *range(42, 50)):  # too large, so the scaler skips the step
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert "repaired" in [event.kind for event in healing.events]
    assert float(model.weight.detach().abs().max()) < 10
    assert healing.steps > 50


@pytest.mark.parametrize("grad", [True, False])
def test_forwards_without_a_step_are_looked_at_now_and_then(grad):
    model = torch.nn.Linear(4, 3)
    healing = pm.heal_(model, torch.optim.Adam(model.parameters()))
    before = copy.deepcopy(model.state_dict())
    with torch.set_grad_enabled(grad):
        model(torch.ones(1, 4))
        struck(model.weight)
        for _ in range(20):
            model(torch.ones(1, 4))
    assert [event.kind for event in healing.events] == ["repaired"]
    assert same(dict(model.named_parameters()), before)


def test_damage_is_not_saved():
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    healing = pm.heal_(model, optimizer)
    for x, y in batches(2):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()
    good = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with torch.no_grad():
        model(torch.ones(1, 4))
    struck(model.weight)
    assert same(model.state_dict(), good[0])
    struck(optimizer.state[model.weight]["exp_avg"])
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(value, good[1]["state"][0][key])
    assert [event.kind for event in healing.events] == ["repaired", "repaired"]


def two_layers(parted=True):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    parts = (model[0], model[2]) if parted else (model,)
    return model, [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]


def test_a_spoiled_gradient_is_used_by_no_optimizer():
    model, optimizers = two_layers()
    before = copy.deepcopy(model.state_dict())
    healing = pm.heal_(model, optimizers)
    [(x, y)] = batches(1)
    model(x)
    struck(model[0].weight)
    loss_of(model, x, y).backward()
    for optimizer in optimizers:
        optimizer.step()
    assert [event.kind for event in healing.events] == ["repaired", "skipped", "skipped"]
    assert same(model.state_dict(), before)
    loss_of(model, x, y).backward()
    for optimizer in optimizers:
        optimizer.step()
    assert len(healing.events) == 3
    assert not any(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_a_spoiled_gradient_is_used_by_no_optimizer_that_steps_in_a_backward():
    torch.manual_seed(0)
    model = two_layers()[0]
    before = copy.deepcopy(model.state_dict())
    each = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    healing = pm.heal_(model, list(each.values()))
    for parameter, optimizer in each.items():
        parameter.register_post_accumulate_grad_hook(lambda _, o=optimizer: o.step())
    [(x, y)] = batches(1)
    loss = loss_of(model, x, y)
    struck(model[0].bias)
    loss.backward()
    assert [event.kind for event in healing.events] == ["repaired", *["skipped"] * 4]
    assert same(model.state_dict(), before)


def looks(model, optimizer, healing):
    assert healing.check_()


def updates(model, optimizer, healing):
    with healing.update():
        pass


def loads(model, optimizer, healing):
    optimizer.load_state_dict(optimizer.state_dict())


def saves(model, optimizer, healing):
    model.state_dict()


@pytest.mark.parametrize("between", [looks, updates, loads, saves])
def test_a_spoiled_gradient_is_not_used_either_when_its_damage_was_found_before(between):
    model, [optimizer] = two_layers(parted=False)
    before = copy.deepcopy(model.state_dict())
    healing = pm.heal_(model, optimizer)
    [(x, y)] = batches(1)
    loss = loss_of(model, x, y)
    struck(model[2].bias)
    loss.backward()
    between(model, optimizer, healing)
    optimizer.step()
    assert [event.kind for event in healing.events] == ["repaired", "skipped"]
    assert same(model.state_dict(), before)


def test_a_spoiled_gradient_is_not_used_either_when_telling_of_it_fails():
    model, [optimizer] = two_layers(parted=False)
    before = copy.deepcopy(model.state_dict())

    def tell(event):
        if event.kind == "repaired":
            raise RuntimeError("the log is full")

    healing = pm.heal_(model, optimizer, on_event=tell)
    [(x, y)] = batches(1)
    loss = loss_of(model, x, y)
    struck(model[2].bias)
    loss.backward()
    with pytest.raises(RuntimeError, match="the log is full"):
        optimizer.step()
    optimizer.step()
    assert [event.kind for event in healing.events] == ["repaired", "skipped"]
    assert same(model.state_dict(), before)


def test_damage_that_is_found_before_the_first_forward_spoils_no_gradient():
    model, [optimizer] = two_layers(parted=False)
    healing = pm.heal_(model, optimizer)
    for x, y in batches(3):  # gradients of the step before are still there
        struck(model[0].weight)
        loss = loss_of(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [event.kind for event in healing.events] == ["repaired"] * 3


def with_closures(watch, strike=None, name="SGD", count=12, **options):
    """A model that is trained with closures that compute all, as Lightning's do."""
    model, _ = two_layers()
    optimizer = getattr(torch.optim, name)(model.parameters(), **({"lr": 0.05} | options))
    healing = watch(model, optimizer)
    for number, (x, y) in enumerate(batches(count)):
        calls = 0

        def closure(x=x, y=y, number=number):
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss.backward()
            if strike and calls == 1 and number == 8:
                strike(model)
            return loss

        assert float(optimizer.step(closure=closure).detach()) >= 0
    return model, healing


@pytest.mark.parametrize("name", ["SGD", "Adam", "LBFGS", "Rprop", "ASGD"])
def test_a_healthy_run_with_closures_is_left_as_it_is(name):
    harmless(lambda watch: with_closures(watch, name=name))


def spoils_the_gradient(model):
    model[0].weight.grad[0, 0] = float("inf")


def spoils_a_weight(model):
    struck(model[0].weight)


@pytest.mark.parametrize("strike", [spoils_the_gradient, spoils_a_weight])
@pytest.mark.parametrize("name", ["SGD", "Adam", "LBFGS"])
def test_what_a_closure_computes_is_looked_at(name, strike):
    alone, _ = with_closures(lambda *_: None, name=name)
    model, healing = with_closures(pm.heal_, strike, name)
    kinds = [event.kind for event in healing.events]
    assert kinds == ["redone"] if strike is spoils_the_gradient else ["repaired", "redone"]
    assert same(model.state_dict(), alone.state_dict())


@pytest.mark.parametrize("name", ["SGD", "Adam", "LBFGS"])
def test_a_closure_that_is_spoiled_again_is_not_used(name):
    model, _ = two_layers()
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.05)
    healing, before = pm.heal_(model, optimizer), copy.deepcopy(model.state_dict())
    [(x, y)] = batches(1)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        struck(model[2].weight)
        return loss

    optimizer.step(closure)
    assert [e.kind for e in healing.events] == ["repaired", "repaired", "skipped"]
    assert same(dict(model.named_parameters()), before)


class Ahead(torch.optim.SGD):
    """Computes gradients at weights that it has moved, as schedule-free optimizers do."""

    def step(self, closure):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.99)
        return super().step(closure)


@pytest.mark.parametrize("damaged", [False, True])
def test_an_optimizer_may_move_weights_before_its_closure(damaged):
    def run(watch):
        model, _ = two_layers()
        optimizer = Ahead(model.parameters(), lr=0.05)
        healing = watch(model, optimizer)
        for number, (x, y) in enumerate(batches(6)):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = loss_of(model, x, y)
                loss.backward()
                return loss

            if healing and damaged and number == 3:
                struck(model[0].weight)
            optimizer.step(closure)
        return model, healing

    if not damaged:
        harmless(run)
        return
    alone, _ = run(lambda *_: None)
    model, healing = run(pm.heal_)
    assert [event.kind for event in healing.events] == ["repaired"]
    assert same(model.state_dict(), alone.state_dict())


def test_an_optimizer_that_refuses_a_state_dict_has_loaded_nothing():
    model, [optimizer] = two_layers(parted=False)
    healing = pm.heal_(model, optimizer)
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    struck(model[0].weight)
    model(torch.ones(1, 4))
    assert [event.kind for event in healing.events] == ["repaired"]


@pytest.mark.parametrize("size", [1e25, 3e37])
def test_a_large_gradient_whose_squares_overflow_is_finite(size):
    model, [optimizer] = two_layers(parted=False)
    healing = pm.heal_(model, optimizer, gradient_factor=math.inf)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, size)
    optimizer.step()
    assert healing.events == []
    assert float(model[0].bias.detach().abs().max()) > size / 100
