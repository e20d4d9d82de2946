"""Training that heals from copies, which know any number of wrong elements."""

import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parimend as pm
from parimend.carriers import summing
from parimend.errors import DamageError
from parimend.kernels import power_triton
from parimend.training.copied import Copies
from parimend.training.kept import Kept
from tests.interpreted import small_portions
from tests.training.test_healing import network, same, train
from tests.training.test_resident import STRUCK, Device, pretend, run_of, state_of
from tests.training.test_watched import KINDS
from tests.training.test_watched import tensors as kinds_of_tensors

MANY = r"elements, of which the first of each tensor are listed"


def spoil(tensor, value):
    with torch.no_grad():
        tensor.fill_(value)


def test_tensors_of_one_type_are_copied_together(monkeypatch):
    """A GPU copies others one by one."""
    types, copy_ = [], torch._foreach_copy_

    def copied(copies, originals):
        types.append({each.dtype for each in originals})
        copy_(copies, originals)

    monkeypatch.setattr(torch, "_foreach_copy_", copied)
    tensors = {
        str(i): torch.full((3,), i).to(dtype)
        for i, dtype in enumerate((torch.float32, torch.bfloat16, torch.float32))
    }
    copies = Copies(tensors)
    copies.make()
    assert same(copies.held, tensors)
    assert types == [{torch.float32}, {torch.bfloat16}]


@pytest.mark.parametrize("value", [float("nan"), -0.0, 1e30])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_everything_may_be_wrong_between_two_steps(name, value):
    def run(watched):
        model = network()
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3)
        healing = pm.heal_(model, optimizer, errors=None) if watched else None

        def strike(step):
            if watched and step == 5:
                for each in [*model.parameters(), *state(optimizer)]:
                    spoil(each, value)

        train(model, optimizer, 9, strike)
        return model, healing

    right, _ = run(False)
    with pytest.warns(UserWarning, match=MANY):
        model, healing = run(True)
    assert same(model.state_dict(), right.state_dict())
    # Weights before the forward, what is kept of them (not by plain SGD) before the step.
    assert [event.kind for event in healing.events] == ["repaired"] * (1 + (name == "Adam"))
    total = sum(p.numel() for p in model.parameters())
    for event in healing.events:
        assert int(event.reason.split(": ")[1].split()[0].replace(",", "")) >= 0.9 * total
    event = healing.events[0]
    counts = {n: sum(c.tensor == n for c in event.changes) for n in dict(model.named_parameters())}
    assert counts["0.weight"] == 100
    assert counts["3.bias"] == 5


def state(optimizer):
    return [
        each
        for kept in optimizer.state.values()
        for each in kept.values()
        if isinstance(each, torch.Tensor)
    ]


@given(kinds_of_tensors, st.data())
def test_what_was_kept_comes_back_bit_for_bit(kinds, data):
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans()):  # in many words, also parts of tensors
            patch.setattr(summing.cut, "__defaults__", (64,))
        held = {f"{i} {kind}": KINDS[kind](n) for i, (kind, n) in enumerate(kinds)}
        kept = Kept(held, None)
        kept.keep()
        right = {name: tensor.clone() for name, tensor in held.items()}
        assert kept.differing() == ([], None)
        struck = data.draw(st.sets(st.sampled_from(sorted(held)), min_size=1))
        wrong = 0
        for name in struck:
            n = held[name].numel()
            where = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=40))
            held[name].view(-1)[list(where)] += 1
            wrong += len(where)
        words, _ = kept.differing()
        assert words
        remains = kept.put_back_(words)
        assert (remains.total, remains.lost, remains.unsure) == (wrong, [], set())
        assert {change.tensor for change in remains.changes} == struck
        assert all(torch.equal(held[name], right[name]) for name in held)
        assert kept.differing() == ([], None)


def test_what_someone_may_have_changed_stays_and_the_rest_comes_back():
    held = {"ours": torch.ones(300), "theirs": torch.ones(300)}
    kept = Kept(held, None)
    kept.keep()
    for each in held.values():
        each.fill_(2.0)
    words, _ = kept.differing()
    remains = kept.put_back_(words, {"theirs"})
    assert (remains.total, remains.lost, remains.unsure) == (300, [], {"theirs"})
    assert held["ours"].eq(1.0).all()
    assert held["theirs"].eq(2.0).all()


def test_nothing_is_put_back_from_copies_that_are_damaged():
    model = network()
    healing = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1), errors=None)
    healing._snapshot._kept._copies.held["0.weight"][3, 4] += 1
    assert not healing.check_()  # the weights are right
    spoil(model[3].bias, 5.0)
    wrong = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(DamageError, match="so have the copies that were kept: go back"):
        healing.check_()
    assert same(dict(model.named_parameters()), wrong)
    assert healing.events == []


def test_a_few_elements_are_told_each_without_a_warning():
    model = network()
    healing = pm.heal_(model, torch.optim.SGD(model.parameters(), lr=0.1), errors=None)
    right = model[0].weight.clone()
    with torch.no_grad():
        model[0].weight[2, :7] = 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert healing.check_()
    [event] = healing.events
    assert [c.index for c in event.changes] == [(2, i) for i in range(7)]
    assert event.changes[3].value(event.changes[3].original) == right[2, 3]


@pytest.mark.parametrize("kernels", ["a device", pytest.param("triton", marks=pytest.mark.long)])
@pytest.mark.parametrize("what", STRUCK)
def test_on_a_device_that_is_not_waited_for(monkeypatch, kernels, what):
    pretend(monkeypatch, Device() if kernels == "a device" else power_triton)
    undamaged = run_of()
    train(*undamaged, 3)
    with small_portions(monkeypatch):
        run = run_of()
        healing = pm.heal_(*run, errors=None)
        assert healing._snapshot._kept.deferred
        kept = {}

        def strike(step):
            kept[step] = state_of(*run)
            if step == 2:
                spoil(STRUCK[what](*run), 7.0)

        train(*run, 3, strike)
        kinds = [(event.kind, event.where) for event in healing.events]
        if what == "weights":
            assert kinds == [("repaired", 2), ("skipped", 2)]
            assert same(state_of(*run), kept[2])
        else:
            assert kinds == [("repaired", 2)]
            assert same(state_of(*run), state_of(*undamaged))


def test_all_sums_are_never_computed(monkeypatch):
    """They would take longer than the copies."""
    pretend(monkeypatch, device := Device())
    counts = []
    begin = device.begin
    monkeypatch.setattr(
        device, "begin", lambda p, count, x: counts.append(count) or begin(p, count, x)
    )
    run = run_of()
    healing = pm.heal_(*run, errors=None)
    train(*run, 2, lambda step: spoil(run[0][0].weight, 1.0) if step else None)
    assert [event.kind for event in healing.events] == ["repaired", "skipped"]
    assert set(counts) == {4}


@pytest.mark.parametrize("errors", [4, None])
@pytest.mark.parametrize(
    "view",
    [torch.conj, torch._neg_view, lambda z: torch._neg_view(z.conj()), lambda z: z.conj().imag],
    ids=["conjugated", "negated", "both", "imaginary"],
)
def test_views_that_are_not_what_their_memory_holds(view, errors):
    memory = torch.complex(torch.randn(20), torch.randn(20))
    memory[3] = complex(-0.0, float("nan"))
    tensor = view(memory)
    before = memory.clone()
    kept = Kept({"z": tensor}, errors)
    kept.keep()
    tensor[3:5] = 7.0
    words, _ = kept.differing()
    remains = kept.put_back_(words)
    assert (remains.lost, remains.unsure) == ([], set())
    assert [change.index for change in remains.changes] == [(3,), (4,)]
    assert torch.equal(
        memory.view(torch.float32).view(torch.int32), before.view(torch.float32).view(torch.int32)
    )
