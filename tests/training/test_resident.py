"""Training that heals where weights are on a device that one does not want to wait for."""

import copy

import numpy as np
import pytest
import torch

import parimend as pm
from parimend import kernels
from parimend.carriers import Request, Sidecar, choose
from parimend.codes import Hashed, Modular, PowerSums, Screened
from parimend.errors import DamageError
from parimend.kernels import points_numba, power_torch, power_triton
from parimend.kernels.field import PRIME
from parimend.stores.model import ModelTensors
from parimend.training.resident import Resident, read
from parimend.training.watched import Watched
from parimend.words.bits import byte_view, words_of
from tests.interpreted import small_portions
from tests.training.test_healing import same, train

ERRORS = 3


class Device:
    """Kernels of a device that is the processor; what they begin to compute is to be reduced."""

    @staticmethod
    def sums_of(points, count, pieces):
        total = np.zeros(count, np.uint64)
        for elements, start in pieces:
            words = words_of(byte_view(elements)).astype(np.uint64)
            where = np.arange(start, start + words.size)
            weighted = points_numba.products(words, points.factors(where))
            points_numba.add_powers(points.of(where), weighted.astype(np.float64), total)
        return total

    def prepare(self, points, count, pieces):
        return lambda: self.begin(points, count, pieces)

    def begin(self, points, count, pieces):
        sums = torch.from_numpy(self.sums_of(points, count, pieces).astype(np.int64))
        return sums + PRIME * torch.randint(9, (count,))


def pretend(monkeypatch, power):
    """Everything but optimizers' counters of steps is on a device with these kernels."""
    on = kernels.on
    monkeypatch.setattr(
        ModelTensors, "is_elsewhere", lambda self, part: self.held[part.name].numel() > 1
    )
    monkeypatch.setattr(
        kernels, "on", lambda what, *device: power if device and what == "power" else on(what)
    )


@pytest.fixture
def device(monkeypatch):
    pretended = Device()
    pretend(monkeypatch, pretended)
    return pretended


def run_of(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    return model, torch.optim.Adam(model.parameters(), lr=1e-2)


def state_of(model, optimizer):
    state = {f"{k} {n}": t for k, s in enumerate(optimizer.state.values()) for n, t in s.items()}
    return copy.deepcopy({**model.state_dict(), **state})


def flip(tensor, bit):
    tensor.detach().view(-1).view(torch.int32)[0] ^= int(np.int32(np.uint32(1) << bit))


STRUCK = {
    "weights": lambda model, optimizer: model[2].weight,
    "state": lambda model, optimizer: optimizer.state[model[0].weight]["exp_avg_sq"],
    "counter": lambda model, optimizer: optimizer.state[model[0].bias]["step"],
}


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize("what", STRUCK)
def test_damage_is_found_before_the_step_and_put_back_bit_for_bit(device, what, when, closure):
    run = run_of()
    train(*run, 4)
    undamaged = state_of(*run)
    run = run_of()
    healing = pm.heal_(*run, ERRORS)
    kept = {}

    def strike(step):
        kept[step] = state_of(*run)
        if step == 2:
            flip(STRUCK[what](*run), 30)

    def note(step):
        kept[step] = state_of(*run)

    train(
        *run,
        4,
        strike if when == "before" else note,
        strike if when == "between" else None,
        closure,
    )
    # The gradient is right where no weight was wrong.
    cost = [("redone" if closure else "skipped", 2)] if what == "weights" else []
    kinds = [(event.kind, event.where) for event in healing.events]
    assert kinds == [("repaired", 2), *cost]
    assert len(healing.events[0].changes) == 1
    if closure or not cost:
        assert same(state_of(*run), undamaged)
    else:
        assert same(kept[3], kept[2])


def test_with_the_kernels_of_a_device(monkeypatch):
    pretend(monkeypatch, power_triton)
    with small_portions(monkeypatch):
        run = run_of()
        healing = pm.heal_(*run, ERRORS)
        train(*run, 2, lambda step: flip(run[0][0].weight, 30) if step else None)
        healthy = run_of()
        train(*healthy, 1)
        assert [event.kind for event in healing.events] == ["repaired", "skipped"]
        assert same(run[0].state_dict(), healthy[0].state_dict())


def test_a_forward_asks_nothing_of_the_device(device, monkeypatch):
    run = run_of()
    healing = pm.heal_(*run, ERRORS)
    train(*run, 2)
    flip(run[0][0].weight, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Resident, "differ", lambda self: pytest.fail("compared"))
        run[0](torch.ones(1, 6))
    assert healing.events == []
    assert healing.check_()
    assert not healing.check_()
    assert [event.kind for event in healing.events] == ["repaired"]


@pytest.mark.parametrize("spoiled", [float("nan"), 1e9])
def test_a_wrong_gradient_is_not_used(device, spoiled):
    run = run_of()
    healing = pm.heal_(*run, ERRORS)
    kept = {}

    def spoil(step):
        if step == 21:
            kept.update(run[0].state_dict())
            run[0][2].bias.grad[0] = spoiled

    train(*run, 22, within=spoil)
    assert [(event.kind, event.where) for event in healing.events] == [("skipped", 21)]
    assert "gradient" in healing.events[0].reason
    assert same(run[0].state_dict(), kept)


def test_more_damage_than_the_budget_is_an_error(device):
    run = run_of()
    healing = pm.heal_(*run, ERRORS)
    train(*run, 2)

    def strike(step):
        with torch.no_grad():
            run[0][0].weight.mul_(1.5)

    with pytest.raises(DamageError, match=r"since step 2 more than 3 words.*refresh"):
        train(*run, 1, within=strike)
    healing.refresh()
    train(*run, 1)
    assert healing.events == []


def test_changes_on_purpose_are_kept(device):
    run = run_of()
    model, optimizer = run
    healing = pm.heal_(*run, ERRORS)
    train(*run, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(*run, 1)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(*run, 1)
    model[0].weight.data = model[0].weight.data * 2  # moved
    train(*run, 1)
    assert healing.events == []
    before = copy.deepcopy(model.state_dict())
    flip(model[0].weight, 30)
    with healing.update():
        assert same(model.state_dict(), before)
        with torch.no_grad():
            model[2].weight.mul_(2.0)
    train(*run, 2)
    assert [event.kind for event in healing.events] == ["repaired"]


def test_damage_beside_tensors_that_are_moved_is_seen_from_the_next_step_on(device):
    run = run_of()
    healing = pm.heal_(*run, ERRORS)
    train(*run, 2)
    run[0][0].weight.data = run[0][0].weight.data.clone()
    train(*run, 1)
    flip(run[0][0].weight, 30)
    train(*run, 1)
    assert [event.kind for event in healing.events] == ["repaired", "skipped"]


def test_a_device_that_fails_is_not_taken_for_a_healthy_one(device, monkeypatch):
    def fails(*args):
        raise RuntimeError("an illegal memory access was encountered")

    for owner, name in ((torch.Tensor, "tolist"), (device, "begin")):
        run = run_of()
        healing = pm.heal_(*run, ERRORS)
        train(*run, 1)
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fails)
            with pytest.raises(RuntimeError, match="illegal memory access"):
                train(*run, 1)
        assert healing.events == []


def test_sums_that_could_not_be_computed_after_a_step_are_missed_before_the_next(
    device, monkeypatch
):
    begin = device.begin

    def lacks(points, count, pieces):
        if count > 4:
            raise torch.OutOfMemoryError("no memory left")
        return begin(points, count, pieces)

    run = run_of()
    healing = pm.heal_(*run, ERRORS)
    train(*run, 1)
    with monkeypatch.context() as patched:
        patched.setattr(device, "begin", lacks)
        with pytest.raises(torch.OutOfMemoryError):
            train(*run, 1)
    with pytest.warns(UserWarning, match="a step that an exception ended has left there"):
        assert not healing.check_()
    assert [event.kind for event in healing.events] == ["accepted"]


def test_which_codes_begin_without_waiting(device):
    pieces = [(torch.arange(600, dtype=torch.int32), 0)]
    for code in (PowerSums(600, 4), PowerSums(600, 10), Screened(600, 14)):
        few, all = (code.prepare_resident(pieces, few)() for few in (True, False))
        expected = code.syndrome(pieces[0][0].numpy().view(np.uint32))
        found = torch.cat(all).numpy() % code.prime
        np.testing.assert_array_equal(found, expected)
        assert len(few) == 1
        np.testing.assert_array_equal(few[0].numpy() % code.prime, code.few(expected))
    for code in (Modular.for_errors(600, 5), Hashed.for_errors(600, 5)):
        assert Resident.of(code, pieces) is None


def test_where_sums_have_to_be_waited_for_they_are(device, monkeypatch):
    tensors = {"a": torch.arange(40.0), "b": torch.tensor(1.0)}
    [chosen] = choose(ModelTensors(tensors), Request(ERRORS, Sidecar()))
    resident = Watched(chosen, tensors)
    monkeypatch.setattr(device, "prepare", power_torch.prepare)
    other = Watched(chosen, tensors)
    assert (resident.deferred, other.deferred) == (True, False)
    for each in (resident, other):
        each.keep()
        assert each.differs() is False or not bool(each.differs())
    np.testing.assert_array_equal(resident.kept().target, other.kept().target)
    for name in tensors:
        tensors[name].add_(1.0)
        assert bool(resident.differs())
        assert other.differs() is True
        for each in (resident, other):
            each.keep()


def test_flags_and_the_norm_are_read_together():
    yes, no, norm = torch.tensor(True), torch.tensor(False), torch.tensor(2.0).bfloat16()
    assert read([]) == ([], None)
    assert read([True, False]) == ([True, False], None)
    assert read([no, True, yes]) == ([False, True, True], None)
    assert read([True, no, yes], norm) == ([True, False, True], 2.0)
    assert read([], norm) == ([], 2.0)
    flags, size = read([yes], torch.tensor(float("nan")))
    assert (flags, np.isnan(size)) == ([True], True)
