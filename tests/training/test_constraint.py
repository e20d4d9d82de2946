import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from pytorch_optimizer import ScheduleFreeAdamW
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import parimend as pm
from parimend.errors import DamageError, MismatchError, SpecError, WordError
from parimend.outcomes import Verdict


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
    return model, steps, pm.constrain_(model, steps, **{"errors": 8, "every": 1, **options})


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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [0, 1, 30])
def test_sealed_twice_it_is_the_same_seal(steps, seed):
    model, optimizer, constraint = start(seed=seed)
    train(model, optimizer, steps)
    seal = constraint.seal_()
    before = copy.deepcopy(model.state_dict())
    assert constraint.seal_().to_bytes() == seal.to_bytes()
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


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


@pytest.mark.parametrize("end", ["seal_", "remove"])
def test_training_that_goes_on_without_the_constraint_is_no_damage(end):
    model, steps, constraint = start()
    train(model, steps, 25)
    getattr(constraint, end)()
    train(model, steps, 1)
    with torch.no_grad():
        model.head.bias[3] += 1.0  # as a step of that weight alone would
    before = copy.deepcopy(model.state_dict())
    seal = constraint.seal_()
    assert pm.check(model, seal).ok
    assert not constraint.events
    assert (model.head.bias - before["head.bias"]).abs().max() < 0.1


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


class Scaled(Net):
    """With a layer scale, which begins close to zero."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((60,), 1e-6))

    def forward(self, x):
        return self.head(self.scale * torch.relu(self.norm(self.hidden(x))))


def test_a_tensor_that_grows_a_millionfold_takes_no_others_along():
    models, losses = [], []
    for constrained in (False, True):
        torch.manual_seed(0)
        models.append(Scaled())
        steps = torch.optim.Adam(models[-1].parameters(), lr=0.01)
        if constrained:
            constraint = pm.constrain_(models[-1], steps, 8, every=1)
        losses.append(train(models[-1], steps, 80)[-1])
    free, model = models
    assert losses[1] < 1.1 * losses[0]
    before = copy.deepcopy(model.state_dict())
    seal = constraint.seal_()
    assert pm.check(model, seal).verdict is Verdict.CLEAN
    for name, parameter in model.named_parameters():
        assert (parameter - before[name]).norm() < 1e-3 * parameter.norm()
        assert 0.2 < parameter.norm() / free.get_parameter(name).norm() < 5


def test_a_bias_that_begins_at_zero_is_not_tossed_about_by_small_weights():
    losses, largest = [], []
    for constrained in (False, True):
        torch.manual_seed(0)
        model = Net()
        torch.nn.init.normal_(model.head.weight, std=1e-3)
        torch.nn.init.zeros_(model.head.bias)
        steps = torch.optim.Adam(model.parameters(), lr=0.001)
        if constrained:
            pm.constrain_(model, steps, 8, every=1, only=["head.*"])
        losses.append(train(model, steps, 40)[-1])
        largest.append(model.head.bias.abs().max())
    assert losses[1] < losses[0] + 0.05
    assert largest[1] < 2 * largest[0]


def test_a_run_is_resumed_on_the_grids_that_weights_have_grown_to():
    torch.manual_seed(0)
    model = Scaled()
    steps = torch.optim.Adam(model.parameters(), lr=0.01)
    constraint = pm.constrain_(model, steps, 8, every=3)
    train(model, steps, 10)
    state = copy.deepcopy((model.state_dict(), steps.state_dict(), constraint.state_dict()))
    train(model, steps, 10, seed=2)
    end = constraint.seal_().to_bytes()

    model.load_state_dict(state[0])
    steps.load_state_dict(state[1])
    constraint = pm.constrain_(model, steps, 8, state=state[2])
    train(model, steps, 10, seed=2)
    assert constraint.seal_().to_bytes() == end


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_weights_that_have_all_grown_or_shrunk_are_rounded_as_finely(factor):
    model, _, constraint = start()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= factor
    constraint.project_()
    before = copy.deepcopy(model.state_dict())
    constraint.seal_()
    for name, parameter in model.named_parameters():
        assert (parameter - before[name]).norm() < 1e-3 * parameter.norm()


def test_weights_that_are_set_by_hand_get_grids_of_their_size():
    torch.manual_seed(0)
    model = Scaled()
    constraint = pm.constrain_(model, torch.optim.Adam(model.parameters()), 8)
    with torch.no_grad():
        model.scale.fill_(1.0)
    before = copy.deepcopy(model.state_dict())
    constraint.project_()
    constraint.seal_()
    for name, parameter in model.named_parameters():
        assert (parameter - before[name]).norm() < 0.5 * parameter.norm()


def test_what_no_grid_can_hold_is_not_sealed():
    model, _, constraint = start()
    with torch.no_grad():
        model.head.bias.fill_(3.2e38)
    with pytest.raises(DamageError, match="have left the range"):
        constraint.seal_(copy.deepcopy(model))
    constraint.project_()
    with pytest.raises(DamageError, match="have left their code"):
        constraint.seal_()


def test_a_weight_that_no_step_leads_to_gets_no_grid_of_its_size():
    model, steps, constraint = start()
    train(model, steps, 1)
    with torch.no_grad():
        model.hidden.weight[3, 7] = 1e30
    train(model, steps, 1)
    with pytest.raises(DamageError, match="left"):
        constraint.seal_()


def test_resuming_with_another_code_is_refused():
    _, _, first = start()
    _, _, second = start(errors=9)
    with pytest.raises(MismatchError, match="arguments of the saved run"):
        second.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("steps", each) for each in (None, -1, 2.5)),
        *(("every", each) for each in (0, "x")),
        *(("words", each) for each in (None, [], [1], [{}])),
        *(("code", each) for each in (None, {})),
        *(("exponents", each) for each in (None, [1], [10**9] * 6)),
        *(("checks", each) for each in (3, ["x"], [float("nan")])),
    ],
)
def test_a_state_that_is_damaged_is_refused_and_changes_nothing(name, wrong):
    _, _, constraint = start()
    state = constraint.state_dict()
    damaged = copy.deepcopy(state)
    (damaged if name in damaged else damaged["words"][0])[name] = wrong
    with pytest.raises(MismatchError, match=r"no state of a constraint|other codes"):
        constraint.load_state_dict(damaged)
    assert constraint.state_dict() == state


def test_what_is_refused_leaves_no_hooks():
    _, _, other = start(errors=9)
    model = Net()
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(MismatchError, match="arguments of the saved run"):
        pm.constrain_(model, steps, 5, state=other.state_dict())
    assert not steps._optimizer_step_pre_hooks
    assert not steps._optimizer_step_post_hooks
    assert not any(each._load_state_dict_post_hooks for each in model.modules())


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
    with pytest.raises(WordError, match=r"hidden\.bias and 3 more are F16"):
        pm.constrain_(model, torch.optim.SGD(model.parameters(), lr=0.1), 5)


def test_divergence_is_named():
    model, steps, _ = start(optimizer="SGD")
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")
    with pytest.raises(WordError, match=r"head\.weight has non-finite values"):
        steps.step()


def test_per_row():
    model, steps, constraint = start(only=["head.*"], errors=1, carrier=pm.Real(rows=10), per="row")
    assert [code.n for code in constraint.codes] == [61] * 10
    train(model, steps, 5)
    assert constraint.residual() < 1e-6


def test_weights_in_memory_that_can_only_be_read_are_refused(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(4 * 400))
    model = torch.nn.Linear(20, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that nobody should write to it
        model.weight.data = torch.from_numpy(np.memmap(path, np.float32, "r")).view(20, 20)
    with pytest.raises(WordError, match="weight lies in memory that can only be read"):
        pm.constrain_(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)


def test_calibration_is_refused_before_anything_is_trained():
    model = Net()
    steps = torch.optim.Adam(model.parameters())
    with pytest.raises(SpecError, match="constrain_ takes none"):
        pm.constrain_(model, steps, 8, pm.Real(calibration=[torch.ones(4, 20)]))
    assert not steps._optimizer_step_post_hooks


def test_what_is_no_copy_of_the_model_is_not_sealed():
    _, _, constraint = start()
    with pytest.raises(SpecError, match="model must be a copy of the trained"):
        constraint.seal_(constraint)


def test_too_few_weights_and_bad_intervals():
    with pytest.raises(SpecError, match="too few to repair 500 errors"):
        start(errors=500, only=["head.*"])
    with pytest.raises(SpecError, match="every must be at least 1"):
        start(every=0)


def test_the_interval_is_chosen_by_cost():
    model, steps, constraint = start(every=None)
    assert constraint.every == 1
    train(model, steps, 30)
    assert constraint.every in {2**i for i in range(9)}
    assert constraint.state_dict()["every"] == constraint.every


def test_several_optimizers_that_step_in_turn():
    torch.manual_seed(0)
    model = Net()
    first = torch.optim.SGD(model.hidden.parameters(), lr=0.01)
    second = torch.optim.Adam([*model.norm.parameters(), *model.head.parameters()], lr=0.01)
    constraint = pm.constrain_(model, [first, second], 8, every=1)
    for _ in range(3):
        model(torch.randn(16, 20)).square().mean().backward()
        first.step()
        second.step()
        assert constraint.residual() < 1e-6
    assert constraint.steps == 3
    with pytest.raises(SpecError, match="must be an optimizer of torch, or a list of several"):
        pm.constrain_(model, [], 8)


@pytest.mark.parametrize("order", [list, reversed])
@pytest.mark.parametrize("heals", [False, True])
def test_optimizers_may_step_in_a_backward(order, heals):
    torch.manual_seed(0)
    model = Net()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    given = list(order(list(optimizers.values())))
    constraint = pm.constrain_(model, given, 8, every=1)
    events = pm.heal_(model, given).events if heals else []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    for _ in range(3):
        model.zero_grad()
        model(torch.randn(32, 20)).square().sum().backward()
        assert constraint.residual() < 1e-6
    assert constraint.steps == 3
    assert not events


@pytest.mark.parametrize("how", ["compiled", "parallel", "averaged"])
def test_wrapped_models_are_constrained_under_their_own_names(how):
    torch.manual_seed(0)
    model = Net()
    wrapped = {
        "compiled": lambda: torch.compile(model, backend="eager"),
        "parallel": lambda: torch.nn.DataParallel(model),
        "averaged": lambda: torch.optim.swa_utils.AveragedModel(model),
    }[how]()
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01)
    constraint = pm.constrain_(wrapped, optimizer, 8, only=["head.*"], every=1)
    wrapped(torch.randn(16, 20)).square().mean().backward()
    optimizer.step()
    seal = constraint.seal_()
    plain = wrapped.module if how == "averaged" else model
    assert {part.name for part in seal.words[0].parts} == {"head.weight", "head.bias"}
    assert pm.check(plain, seal).verdict is Verdict.CLEAN
    assert pm.check(wrapped, seal).verdict is Verdict.CLEAN


def test_parts_may_be_wrapped_while_they_are_constrained():
    model, steps, constraint = start()
    average = copy.deepcopy(model)
    model.head = checkpoint_wrapper(model.head)
    train(model, steps, 1)
    assert constraint.residual() < 1e-6
    average.hidden = torch.compile(average.hidden, backend="eager")
    for each in (average, model):
        assert pm.check(each, constraint.seal_(each)).verdict is Verdict.CLEAN


def test_an_average_of_the_weights_can_be_sealed_while_training_goes_on():
    model, steps, constraint = start()
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(5):
        train(model, steps, 2)
        average.update_parameters(model)
    seal = constraint.seal_(average)
    assert max(seal.notes["moved"]) < 2e-3  # the average of codewords is one
    assert pm.check(average, seal).verdict is Verdict.CLEAN
    train(model, steps, 1)
    assert constraint.steps == 11
    with pytest.raises(MismatchError, match=r"the copy has no hidden\.weight"):
        constraint.seal_(torch.nn.Linear(2, 2))


def test_memory_in_another_order():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 8, 3))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    constraint = pm.constrain_(model, optimizer, 8, every=1)
    model(torch.randn(2, 8, 6, 6)).square().mean().backward()
    optimizer.step()
    assert constraint.residual() < 1e-6
    seal = constraint.seal_()
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_clipping_accumulation_and_scaled_gradients_change_nothing():
    model, steps, constraint = start()
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        for _ in range(2):
            scaler.scale(model(torch.randn(16, 20)).square().mean()).backward()
        scaler.unscale_(steps)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(steps)
        scaler.update()
        steps.zero_grad()
        assert constraint.residual() < 1e-6
    # What the scaler finds infinite is no step, so nothing happens.
    model.head.weight.grad = torch.full_like(model.head.weight, float("inf"))
    scaler.scale(torch.ones(1))
    scaler.step(steps)
    assert constraint.steps == 3


def test_parameters_that_were_replaced_are_named():
    model, steps, _ = start()
    model.head = torch.nn.Linear(60, 10)
    with pytest.raises(MismatchError, match=r"head\.(weight|bias) was replaced after constrain_"):
        steps.step()
    model, steps, _ = start()
    steps.param_groups[0]["params"].pop(0)
    with pytest.raises(MismatchError, match=r"hidden\.weight was taken out of the optimizer"):
        steps.step()
    model, steps, _ = start(optimizer="SGD")
    model.half()
    with pytest.raises(MismatchError, match=r"hidden\.weight has become torch\.float16"):
        steps.step()


def test_tied_parameters_are_constrained_once():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    constraint = pm.constrain_(model, optimizer, 8, every=1)
    assert constraint.codes[0].n == 40 * 40 + 40 + 40
    model(torch.randn(4, 40)).square().mean().backward()
    optimizer.step()
    assert constraint.residual() < 1e-6
    assert pm.check(model, constraint.seal_()).verdict is Verdict.CLEAN


def test_a_parameter_without_gradients_is_named():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pm.constrain_(model, optimizer, 8, every=1)
    for _ in range(19):
        model.hidden(torch.randn(16, 20)).square().mean().backward()
        optimizer.step()
    with pytest.warns(UserWarning, match=r"head\.bias, head\.weight, norm\.bias .* no gradient"):
        optimizer.step()


def test_an_optimizer_that_took_no_step_is_told():
    model, _, constraint = start()
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="an optimizer that constrain_ was not given"):
        train(model, other, 5)
    with pytest.warns(UserWarning, match="took no step"):
        constraint.seal_()


@pytest.mark.parametrize("value", [1e30, float("nan"), -float("inf"), 5.0, -3.0])
@pytest.mark.parametrize("count", [1, 3])
def test_weights_that_go_wrong_in_a_step_are_put_back(value, count):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before, armed = [], []

    def corrupt(*_):
        if armed:
            before.append(model.hidden.weight.detach().clone())
            with torch.no_grad():
                model.hidden.weight[7 : 7 + count, 5] = value

    optimizer.register_step_post_hook(corrupt)
    constraint = pm.constrain_(model, optimizer, 50, every=1)
    train(model, optimizer, 30)
    assert constraint.events == []
    armed.append(True)
    train(model, optimizer, 1)
    [event] = constraint.events
    assert (event.kind, event.where) == ("repaired", 31)
    assert [(c.tensor, c.index) for c in event.changes] == [
        ("hidden.weight", (7 + i, 5)) for i in range(count)
    ]
    assert (model.hidden.weight - before[0]).abs().max() < 0.05
    assert constraint.residual() < 1e-6


def test_a_step_that_moves_everything_far_is_taken_and_told():
    model, steps, constraint = start(optimizer="SGD")
    train(model, steps, 30)
    steps.param_groups[0]["lr"] = 1e3
    train(model, steps, 1)
    assert [event.kind for event in constraint.events] == ["unexplained"]
    assert constraint.residual() < 1e-6


def test_what_cannot_be_located_and_is_not_finite_is_an_error_and_left():
    model, steps, _ = start(optimizer="SGD")
    train(model, steps, 30)
    with torch.no_grad():
        model.hidden.weight.fill_(float("nan"))
    with pytest.raises(WordError, match=r"hidden\.weight has non-finite values after 31 steps"):
        steps.step()
    assert model.hidden.weight.isnan().all()


def test_weights_that_are_moved_far_in_every_step_are_no_fault():
    model, steps, constraint = start(only=["head.weight"])
    train(model, steps, 30)
    for _ in range(3):
        with torch.no_grad():  # as a step would that moves one weight much farther than the others
            model.head.weight[3, 7] += 20.0
        train(model, steps, 1)
    kinds = [event.kind for event in constraint.events]
    assert kinds == ["repaired", "repaired", "accepted"]
    assert constraint.events[1].changes[0].index == (3, 7)
    assert model.head.weight[3, 7] > 15.0


def test_steps_of_another_optimizer_are_told():
    model, _, constraint = start()
    other = torch.optim.SGD(model.head.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match=r"head\.bias, head\.weight: stepped by an optimizer"):
        train(model, other, 3)
    assert [event.kind for event in constraint.events] == ["unwatched"]


def test_steps_of_another_optimizer_between_two_of_ours_are_told():
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 20))
    one, two = (torch.optim.SGD(layer.parameters(), lr=0.01) for layer in model)
    constraint = pm.constrain_(model, [one, two], 5)
    model(torch.ones(1, 40)).sum().backward()
    one.step()
    with pytest.warns(UserWarning, match="stepped by an optimizer that constrain_ was not given"):
        torch.optim.SGD([model[0].weight], lr=0.01).step()
    two.step(lambda: torch.optim.SGD([model[1].weight], lr=0.01).step())  # a part of ours
    assert [event.reason[:8] for event in constraint.events] == ["0.weight"]


def test_damage_before_sealing_is_put_back_or_refused():
    model, steps, constraint = start()
    train(model, steps, 30)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.head.weight[3, 7] = float("nan")
    seal = constraint.seal_()
    assert [event.kind for event in constraint.events] == ["repaired"]
    moved = (model.head.weight - before["head.weight"]).norm()
    assert moved < 1e-3 * before["head.weight"].norm()
    assert pm.check(model, seal).verdict is Verdict.CLEAN

    model, steps, constraint = start()
    train(model, steps, 30)
    with torch.no_grad():
        model.head.weight.add_(torch.randn_like(model.head.weight), alpha=1e3)
    changed = copy.deepcopy(model.state_dict())
    with pytest.raises(DamageError, match="no few weights explain it"):
        constraint.seal_()
    assert all(torch.equal(t, changed[name]) for name, t in model.state_dict().items())
    constraint.project_()  # on purpose
    assert pm.check(model, constraint.seal_()).verdict is Verdict.CLEAN


@pytest.mark.parametrize("seed", [4, 6, 8])
def test_large_weights_are_rounded_coarsely_and_that_is_no_damage(seed):
    model, steps, constraint = start()
    train(model, steps, 30)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.head.weight.add_(torch.randn(model.head.weight.shape, generator=noise), alpha=1e3)
    constraint.project_()  # on purpose
    seal = constraint.seal_()  # a warning would be an error
    assert not constraint.events
    assert pm.check(model, seal).verdict is Verdict.CLEAN


@pytest.mark.parametrize("value", [1e30, 1.0, 0.1, float("nan")])
@pytest.mark.parametrize("steps", [0, 3, 24])
def test_what_is_wrong_directly_after_a_projection_is_put_back(value, steps):
    model, optimizer, constraint = start(every=3)
    train(model, optimizer, steps)
    before = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight[3, 7] = value
    seal = constraint.seal_()
    [event] = constraint.events
    assert event.kind == "repaired"
    assert [(c.tensor, c.index) for c in event.changes] == [("head.weight", (3, 7))]
    assert (model.head.weight - before).abs().max() < 1e-4
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_much_that_is_wrong_directly_after_a_projection_is_refused():
    model, optimizer, constraint = start()
    train(model, optimizer, 3)
    with torch.no_grad():
        model.head.weight[:, 7:17] = 1e30
    with pytest.raises(DamageError, match="left their code without a step"):
        constraint.seal_()


@pytest.mark.parametrize("value", [1e30, -1e3, float("inf")])
@pytest.mark.parametrize("steps", [2, 10])
def test_what_stands_out_is_put_back_though_little_is_known_of_steps(value, steps):
    model, optimizer, constraint = start(every=8)
    train(model, optimizer, steps)
    average = copy.deepcopy(model)
    before = model.head.weight.detach().clone()
    for each, other in (average, average), (model, None):
        with torch.no_grad():
            each.head.weight[3, 7] = value
        seal = constraint.seal_(other)
        assert constraint.events.pop().changes[0].index == (3, 7)
        assert (each.head.weight - before).abs().max() < 0.2
        assert pm.check(each, seal).verdict is Verdict.CLEAN
    assert constraint.events == []


def test_weights_that_no_training_leads_to_are_not_sealed_whatever_is_known():
    model, optimizer, constraint = start(every=8)
    train(model, optimizer, 10)
    with torch.no_grad():
        model.head.weight[:, 7:17] = 1e30
    with pytest.raises(DamageError, match="left the range that training can lead to"):
        constraint.seal_()


@pytest.mark.parametrize("rate", [0.01, 1.0])
@pytest.mark.parametrize("steps", [2, 10, 30])
@pytest.mark.parametrize("every", [1, 8])
def test_what_training_does_is_no_damage(rate, steps, every):
    """Rates that grow, and weights that outgrow the range of their grids."""
    model, optimizer, constraint = start(every=every)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * ((step + 1) / steps) ** 2
        train(model, optimizer, 1, seed=step)
    assert pm.check(model, constraint.seal_()).ok
    assert constraint.events == []


def test_few_are_found_also_where_weights_have_outgrown_their_range():
    model, optimizer, constraint = start()
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 1.0
        train(model, optimizer, 1, seed=step)
    before = model.head.weight.detach().clone()
    assert before.abs().max() > 2.0
    with torch.no_grad():
        model.head.weight[3, 7] += 1.0
    constraint.seal_()
    assert [c.index for event in constraint.events for c in event.changes] == [(3, 7)]
    assert (model.head.weight - before).abs().max() < 1e-2


def test_an_average_that_was_put_in_is_no_damage():
    model, optimizer, constraint = start()
    states = []
    for _ in range(5):
        train(model, optimizer, 1)
        states.append(copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.stack([state[name] for state in states]).mean(0))
    constraint.seal_()
    assert constraint.events == []


def test_weights_set_by_hand_are_taken_for_right_by_projecting():
    model, optimizer, constraint = start(only=["head.weight"])
    train(model, optimizer, 30)
    with torch.no_grad():
        model.head.weight[3, 7] = 20.0
    constraint.project_()
    constraint.seal_()
    assert constraint.events == []
    assert model.head.weight[3, 7] > 15.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_sealed(value):
    model, steps, constraint = start()
    train(model, steps, 3)
    average = copy.deepcopy(model)
    with torch.no_grad():
        for each in model, average:
            each.head.weight[:, 7:17] = value
    with pytest.raises(WordError, match=r"head\.weight"):
        constraint.seal_()
    with pytest.raises(WordError, match=r"head\.weight"):
        constraint.seal_(average)


def test_loaded_weights_say_nothing_about_steps():
    model, steps, constraint = start()
    early = copy.deepcopy(model.state_dict())
    early["head.weight"] += 10.0
    train(model, steps, 30)
    model.load_state_dict(early)
    assert pm.check(model, constraint.seal_()).verdict is Verdict.CLEAN
    assert constraint.events == []


def test_replaced_parameters_are_not_sealed():
    model, steps, constraint = start()
    train(model, steps, 3)
    model.head = copy.deepcopy(model.head)
    with pytest.raises(MismatchError, match=r"head\.(weight|bias) was replaced"):
        constraint.seal_()


def test_a_constrained_model_is_copied_without_the_constraint():
    model, steps, constraint = start()
    train(model, steps, 30)
    other = copy.deepcopy(model)
    other.load_state_dict({name: t + 1 for name, t in model.state_dict().items()})
    with torch.no_grad():
        model.head.weight[3, 7] = 1e6
    constraint.seal_()
    assert [event.kind for event in constraint.events] == ["repaired"]


def stand_still(model, optimizer, passes):
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(passes):
        loss = model(torch.ones(4, 20)).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def test_a_weight_that_is_no_number_is_put_back_where_a_scaler_takes_no_step():
    model, steps, constraint = start()
    train(model, steps, 30)
    with torch.no_grad():
        model.head.weight[3, 7] = float("nan")
    stand_still(model, steps, 25)
    assert [(event.kind, event.where) for event in constraint.events] == [("repaired", 30)]
    assert constraint.steps == 35
    assert model.head.weight.isfinite().all()


def test_weights_that_are_no_numbers_end_the_standstill_of_a_scaler():
    model, steps, _ = start()
    with torch.no_grad():
        model.head.weight[3, 7] = float("nan")
    with pytest.raises(WordError, match=r"head\.weight has non-finite values after 0 steps"):
        stand_still(model, steps, 25)


def test_passes_without_a_step_are_not_disturbed():
    model, steps, constraint = start()
    train(model, steps, 3)
    before = copy.deepcopy(model.state_dict())
    model.eval()
    for _ in range(45):
        (model(torch.ones(4, 20)).sum() * float("nan")).backward()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    constraint.remove()
    with torch.no_grad():
        model.head.weight[3, 7] = float("nan")
    for _ in range(45):
        model(torch.ones(4, 20)).sum().backward()
    assert constraint.events == []


def test_a_constrained_model_can_be_thrown_away():
    model, steps, constraint = start()
    train(model, steps, 2)
    gone = weakref.ref(model), weakref.ref(constraint)
    del model, steps, constraint
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_rows_of_embeddings_that_mean_something_are_told():
    torch.manual_seed(0)
    model = torch.nn.Embedding(100, 16, max_norm=1.0, padding_idx=7)
    steps = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match="the padding of weight was all zeros"):
        constraint = pm.constrain_(model, steps, 8)
    with pytest.warns(UserWarning, match="rows of weight are longer than the max_norm"):
        constraint.seal_()


def test_signs_of_reflections_are_not_moved():
    orthogonal = torch.nn.utils.parametrizations.orthogonal
    model = torch.nn.Sequential(torch.nn.Linear(8, 24), orthogonal(torch.nn.Linear(24, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(WordError, match=r"1\.parametrizations\.weight\.original holds the signs"):
        pm.constrain_(model, optimizer, 4)
    with pytest.raises(WordError, match=r"1\.parametrizations\.weight\.original holds the signs"):
        pm.protect_(model, 4, "lowbits", buffers=True)
    pm.protect_(model, 4, "sidecar", buffers=True)
    pm.constrain_(model, optimizer, 4, only=["!1.*"])
    smooth = orthogonal(torch.nn.Linear(24, 4), orthogonal_map="cayley")
    optimizer = torch.optim.SGD(smooth.parameters(), lr=0.1)
    assert pm.constrain_(smooth, optimizer, 2).residual() < 1e-6


def test_what_a_schedule_free_optimizer_evaluates_is_inside_too():
    torch.manual_seed(0)
    model = Net()
    optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.01)
    constraint = pm.constrain_(model, optimizer, 8, every=1)
    losses = train(model, optimizer, 30)
    trained = constraint.residual()
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)  # its points are other tensors now
    losses += train(model, optimizer, 30, seed=2)
    optimizer.eval()
    assert max(trained, constraint.residual()) < 1e-6
    assert losses[-1] < 0.7 * losses[0]
    assert constraint.events == []
    assert max(constraint.seal_().notes["moved"]) < 2e-3


def trained_inside(every=1, steps=60, seed=0):
    """A classifier after some steps inside the code, its constraint, and what takes more steps."""
    torch.manual_seed(seed)
    model, target = torch.nn.Linear(512, 10), torch.randn(512, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    constraint = pm.constrain_(model, optimizer, errors=210, every=every)

    def go(steps):
        for _ in range(steps):
            x = torch.randn(64, 512)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), (x @ target).argmax(1)).backward()
            optimizer.step()

    go(steps)
    return model, constraint, go


@pytest.mark.parametrize("count", [1, 20, 50, 200])
@pytest.mark.parametrize("size", [0.5, 1.0, 1e20])
def test_many_wrong_weights_without_a_step_are_put_back_or_refused(count, size):
    model, constraint, _ = trained_inside()
    right = model.weight.detach().clone()
    for seed in range(2):
        model, constraint, _ = trained_inside()
        draw = torch.Generator().manual_seed(seed)
        at = torch.randperm(5120, generator=draw)[:count]
        with torch.no_grad():
            model.weight.view(-1)[at] += size * torch.randn(count, generator=draw)
        wrong = model.weight.detach().clone()
        refused = ""
        try:
            constraint.seal_()
        except DamageError as error:
            refused = str(error)
        [event] = constraint.events
        if event.kind == "repaired":
            assert not refused
            assert (model.weight - right).abs().max() < 0.005
        else:
            assert event.kind == "unexplained"
            assert "without a step" in refused
            assert torch.equal(model.weight, wrong)
            assert count > 1


def test_an_average_that_was_put_in_is_sealed_and_told():
    model, constraint, go = trained_inside(every=4)
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(30):
        go(3)
        average.update_parameters(model)
    go(-constraint.steps % 4)
    with torch.no_grad():
        model.weight.copy_(average.module.weight)
        model.bias.copy_(average.module.bias)
    with pytest.warns(UserWarning, match="taken for right, as an average that was put in is"):
        seal = constraint.seal_()
    assert [event.kind for event in constraint.events] == ["accepted"]
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_the_model_itself_may_be_given_to_be_sealed():
    model, constraint, _ = trained_inside()
    right = model.weight.detach().clone()
    with torch.no_grad():
        model.weight[3, 5] = 0.9
    constraint.seal_(model)
    assert [event.kind for event in constraint.events] == ["repaired"]
    assert (model.weight - right).abs().max() < 0.005


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_copy_of_another_dtype_is_refused(dtype):
    model, constraint, _ = trained_inside(steps=3)
    with pytest.raises(MismatchError, match=rf"{dtype} in the copy.*copy.to\(torch.float32"):
        constraint.seal_(copy.deepcopy(model).to(dtype))


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_several_optimizers_may_go_on_alone(which):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 80))
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1, momentum=0.9) for i in (0, 2)]
    constraint = pm.constrain_(model, optimizers, errors=20, every=1)
    for step in range(60):
        model.zero_grad()
        (model(torch.randn(32, 64)) - torch.randn(32, 80)).square().mean().backward()
        for optimizer in optimizers if step < 30 else optimizers[which:][:1]:
            optimizer.step()
    assert constraint.steps == 60 - (which == 0)  # the last round is not known to be over
    seal = constraint.seal_()
    assert constraint.events == []
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_the_last_call_constrains_weights():
    """Two codes would pull at the same weights, and take them out of each other's seals."""
    model, optimizer, constraint = start(only=["head.*"])
    others = pm.constrain_(model, optimizer, errors=5, only=["!head.*"])
    with pytest.raises(SpecError, match="too few to repair 500 errors"):
        pm.constrain_(model, optimizer, errors=500, only=["head.*"])
    train(model, optimizer, 3)
    assert max(others.residual(), constraint.residual()) < 1e-6
    with pytest.warns(UserWarning, match=r"head\.bias, head\.weight: <Constraint.* ends, as const"):
        again = pm.constrain_(model, optimizer, errors=5, only=["head.*"])
    train(model, optimizer, 3)
    assert max(others.residual(), again.residual()) < 1e-6
    assert [event.kind for event in constraint.events] == ["unwatched"]
    assert not others.events
    assert pm.check(model, again.seal_()).verdict is Verdict.CLEAN


def assign(parameter, memory, shape):
    """Let a parameter be the beginning of some memory, in a shape of its own."""
    count = torch.Size(shape).numel()
    parameter.data = memory[:count].view(shape)
    return memory[count:]


@pytest.mark.parametrize("optimizer", ["SGD", "Rprop", "LBFGS"])
@pytest.mark.parametrize("shape", [[8, 20], [75, 20], [20, 60]])
def test_a_parameter_of_another_shape_is_named_and_nothing_beside_it_is_touched(optimizer, shape):
    model, steps, constraint = start(optimizer=optimizer)
    beside = assign(model.hidden.weight, torch.full((2000,), 7.0), shape)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    what = rf"hidden\.weight of shape \[60, 20\] has become one of \[{shape[0]}, {shape[1]}\]"
    for call in (steps.step, constraint.project_, constraint.residual, constraint.seal_):
        with pytest.raises(MismatchError, match=what):
            call(lambda: 0.0) if call == steps.step else call()
    with pytest.raises(MismatchError, match=r"hidden\.weight has shape \[.*\[60, 20\] was protect"):
        constraint.load_state_dict(constraint.state_dict())
    assert bool((beside == 7).all())


def test_a_parameter_of_another_shape_is_told_after_sealing_and_in_copies_too():
    model, _, constraint = start()
    average = copy.deepcopy(model)
    average.hidden.weight.data = torch.zeros(8, 20)
    with pytest.raises(MismatchError, match=r"hidden\.weight has shape \[8, 20\] in the copy"):
        constraint.seal_(average)
    constraint.seal_()
    with torch.no_grad():
        model.hidden.weight.data = model.hidden.weight.view(20, 60)
    with pytest.raises(MismatchError, match=r"hidden\.weight of shape \[60, 20\] has become"):
        constraint.seal_()


def test_a_point_of_an_optimizer_that_is_of_another_shape_is_named():
    torch.manual_seed(0)
    model = Net()
    steps = ScheduleFreeAdamW(model.parameters(), lr=0.01)
    constraint = pm.constrain_(model, steps, errors=8, every=1)
    train(model, steps, 1)
    point = steps.state[model.hidden.weight]["z"]
    beside = assign(point, torch.full((2000,), 7.0), [8, 20])
    with pytest.raises(MismatchError, match=r"hidden\.weight has shape \[8, 20\]"):
        constraint.project_()
    assert bool((beside == 7).all())
