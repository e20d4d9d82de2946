"""Faults in buffers: what is struck, what is said where it is not, and what is left behind."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

import parimend as pm
from parimend.errors import FaultError, WordError
from parimend.experiment import Faults
from parimend.propagation import trace
from parimend.propagation.striking import strike
from parimend.report import trace_sheets
from parimend.upsets import Upset
from parimend.words.bits import byte_view

FLIP = Faults("bitflip", 1)
X = torch.ones(2, 4)
SEEN: list[dict[str, bytes]] = []


class Eight(nn.Module):
    """A layer as quantizers write them: its weights are a buffer."""

    def __init__(self, size=4, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("weight", torch.randint(-99, 99, (size, 4), dtype=torch.int8))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x):
        note(self)
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


class Holder(nn.Module):
    """Hands on what it is given, and notes what its tensors are."""

    def forward(self, x):
        note(self)
        return x * 1


def note(module):
    tensors = (*module.named_parameters(), *module.named_buffers())
    SEEN.append({n: byte_view(t).tobytes() for n, t in tensors if t.layout is torch.strided})


def held(**buffers):
    holder = Holder().eval()
    for name, buffer in buffers.items():
        holder.register_buffer(name, buffer)
    return holder


def wrong(model, layer, kind, seed=0):
    """What every holder has in a run with wrong weights, and in a right one afterwards."""
    run = strike(model, layer, kind, seed, ((X,), {}), len(X), 1, True)
    SEEN.clear()
    run.forward()
    struck = list(SEEN)
    SEEN.clear()
    model(X)
    return struck, list(SEEN)


def state(model):
    """Which tensors are where, and their bits."""
    there = (*model.named_parameters(), *model.named_buffers())
    return {name: (id(each), byte_view(each).tobytes()) for name, each in there}


def in_words(data, width):
    return np.frombuffer(data, f"u{width}")


def test_weights_in_buffers_are_left_out_with_a_note():
    model = nn.Sequential(nn.Sequential(Eight(16)), nn.Linear(16, 2)).eval()
    trace(model, X, FLIP, only="0.0", seeds=range(2))  # 64 bytes in each: not most of them
    model[0][0].bias = nn.Parameter(torch.zeros(1))
    said = (
        "4 of 68 bytes of the weights of 0.0 can be struck: the others are buffers, which "
        "buffers=True takes in (0.0.weight)"
    )
    with pytest.warns(UserWarning, match="bytes of") as warned:
        found = trace(model, X, FLIP, only="0.0", seeds=range(2))
    assert [str(each.message) for each in warned] == [said]
    assert warned[0].filename == __file__
    assert (found.note, found.buffers) == (said, False)
    assert found.as_dict()["note"] == said
    assert f"Note: {said}." in trace_sheets(found)[0].about
    assert found.struck[0].upset == "weights: bitflip x 1"


def test_what_is_left_out_of_the_model_counts_where_nothing_else_is_asked_for():
    """By default linear layers are struck: here the smallest part."""
    model = nn.Sequential(Eight(400), nn.Linear(400, 1)).eval()
    trace(model, X, FLIP, seeds=[0])  # 3,204 and 1,600 bytes
    model.register_buffer("table", torch.zeros(402))
    said = r"^3204 of 6412 bytes of weights .* takes in \(table, 0.weight\)$"
    with pytest.warns(UserWarning, match=said):
        assert trace(model, X, FLIP, seeds=[0]).note
    assert not trace(model, X, FLIP, seeds=[0], only="1").note  # all of it is struck
    assert not trace(model, X, Upset("bitflip"), seeds=[0]).note  # weights are not the matter


def test_buffers_are_struck_where_it_is_asked_for():
    model = nn.Sequential(nn.Sequential(Eight(3, bias=False)), nn.Linear(3, 2)).eval()
    clean = X.double() @ model[0][0].weight.double().T
    SEEN.clear()
    found = trace(model, X, FLIP, seeds=range(30), buffers=True)
    assert [(each.layer, each.kind) for each in found.struck] == [("0.0", "Eight"), ("1", "Linear")]
    assert {each.upset for each in found.struck} == {"weights and buffers: bitflip x 1"}
    assert (found.buffers, found.note, found.left_out) == (True, "", ())
    errors = []
    for each in SEEN[2:32]:  # after the clean run and its repetition
        weight = torch.frombuffer(bytearray(each["weight"]), dtype=torch.int8).view(3, 4)
        y = X.double() @ weight.double().T
        errors.append(float((y[0] - clean[0]).norm() / clean[0].norm()))
    struck = found.struck[0]
    assert struck.passages[0].layer == "0.0"
    assert struck.passages[0].error.value == pytest.approx(np.median(errors))
    assert struck.passages[0].masked.value == 0
    assert {group.at for group in struck.by_bit} == set(range(8))
    assert struck.faults == 60
    # A layer without buffers is struck as ever.
    plain = trace(model, X, FLIP, seeds=range(30), only="1").as_dict()["struck"][0]
    assert plain | {"upset": ""} == found.as_dict()["struck"][1] | {"upset": ""}


def test_statistics_are_no_weights():
    norm = nn.BatchNorm1d(4, affine=False)
    model = nn.Sequential(norm, nn.Linear(4, 1), nn.BatchNorm1d(1)).eval()
    found = trace(model, X, FLIP, seeds=[0])
    assert ([each.layer for each in found.struck], found.note) == (["1"], "")
    assert trace(model, X, FLIP, seeds=[0], only="2").note == ""
    with pytest.raises(FaultError, match=r"'0' has no weights of its own but buffers, which buf"):
        trace(model, X, FLIP, only="0")
    asked = trace(model, X, Faults("random", 5), seeds=range(6), buffers=True)
    assert [each.layer for each in asked.struck] == ["0", "1", "2"]
    assert asked.struck[0].passages[0].error.value > 0


@pytest.mark.parametrize("kind", ["bitflip", "random", "stuck", "nonfinite", "zero"])
@pytest.mark.parametrize(
    "buffer",
    [
        torch.arange(1, 9, dtype=torch.uint8),
        torch.arange(1, 9, dtype=torch.int64),
        torch.arange(8) > 3,
        torch.arange(1, 9, dtype=torch.bfloat16),
        torch.arange(1, 9).view(2, 4).t().to(torch.int16),
        torch.ones(1, 4, 3, 3).to(memory_format=torch.channels_last),
        torch.tensor([7]),
        torch.tensor(7),
    ],
    ids=lambda buffer: f"{buffer.dtype}{tuple(buffer.shape)}",
)
def test_all_kinds_of_buffers(kind, buffer):
    model = held(empty=torch.zeros(0, 3), b=buffer)
    if kind == "nonfinite" and not buffer.is_floating_point():
        with pytest.raises(FaultError, match="'b'"):
            strike(model, "", Faults(kind, 1), 0, ((X,), {}), 2, 1, True)
        return
    options = {"value": 3.0} if kind == "stuck" else {}
    [struck], [right] = wrong(model, "", Faults(kind, 1, options=options))
    width = buffer.element_size()
    differ = in_words(struck["b"], width) != in_words(right["b"], width)
    assert differ.sum() == 1
    assert right["b"] == byte_view(buffer).tobytes()
    if kind == "bitflip":
        found = trace(model, X, Faults(kind, 1), only="*", buffers=True).struck[0]
        assert all(0 <= group.at < 8 * width for group in found.by_bit)


DTYPES = (torch.float32, torch.float16, torch.int8, torch.int32, torch.bool)


@given(
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4),
    sizes=st.lists(st.integers(0, 5), min_size=4, max_size=4),
    tied=st.booleans(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_a_trace_leaves_every_bit_as_it_was(dtypes, sizes, tied, seed, data):
    torch.manual_seed(seed)
    buffers = {
        f"b{i}": torch.randint(0, 2, (sizes[i], 3)).to(dtype) for i, dtype in enumerate(dtypes)
    }
    layer = held(**buffers)
    layer.weight = nn.Parameter(torch.rand(3, 3))
    other = held(tied=buffers["b0"] if tied else torch.zeros(1), view=layer.weight.data[1])
    model = nn.Sequential(layer, other).eval()
    before = state(model)
    kind = Faults(data.draw(st.sampled_from(["bitflip", "random", "multiflip"])), 1)
    struck, right = wrong(model, "0", kind, seed)
    fails = data.draw(st.booleans())

    def answer(y):
        answer.calls += 1
        if fails and answer.calls > 2:
            raise RuntimeError("no answer")
        return y.argmax(1)

    answer.calls = 0
    if fails:
        with pytest.raises(FaultError, match="no answer"):
            trace(model, X, kind, only="0", buffers=True, seeds=range(3), answer=answer)
    else:
        trace(model, X, kind, only="0", buffers=True, seeds=range(3), answer=answer)
    assert state(model) == before
    assert not any(module._forward_hooks for module in model.modules())
    # One word was wrong, under all of its names.
    changed = [name for name in struck[0] if struck[0][name] != right[0][name]]
    assert len(changed) == 1
    assert struck[1]["view"] == struck[0]["weight"][12:24]
    assert struck[1]["tied"] == (struck[0]["b0"] if tied else right[1]["tied"])


def test_what_shares_memory_is_struck_once():
    weight = nn.Parameter(torch.arange(1.0, 9.0))
    first = held(same=weight, alias=weight.data, turned=weight.data.view(2, 4).t())
    first.weight = weight
    first.register_buffer("part", weight.data[:4].view(torch.int32))
    model = nn.Sequential(first, held(again=weight.data, apart=weight.data.clone())).eval()
    # All eight words, and no other: the same one under another name would be drawn besides.
    with pytest.raises(FaultError, match="only 8 of the 9 elements"):
        strike(model, "0", Faults("bitflip", 9), 0, ((X,), {}), 2, 1, True)
    (one, two), (right, _) = wrong(model, "0", Faults("bitflip", 8))
    values, intact = (in_words(each["weight"], 4) for each in (one, right))
    assert (values != intact).all()
    assert one["alias"] == two["again"] == one["weight"]
    assert one["part"] == one["weight"][:16]
    assert one["turned"] == values.reshape(2, 4).T.tobytes()
    assert two["apart"] == right["weight"]


@pytest.mark.parametrize("fails", [False, True])
def test_weights_that_are_made_of_others_in_a_run_are_put_back(fails):
    layer = nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", 2)  # the mask is a buffer
    model = nn.Sequential(layer, nn.ReLU()).eval()
    model(X)
    before = layer.weight
    intact = before.clone()
    run = strike(model, "0", Faults("multiflip", 12), 0, ((X,), {}), 2, 1, True)
    if fails:
        model[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.forward()
    else:
        run.forward()
    assert layer.weight is before
    assert torch.equal(before, intact)


def test_buffers_that_a_run_replaces_are_copies():
    class Counting(Holder):
        def forward(self, x):
            self.steps += 1
            self.last = self.last + 1
            return super().forward(x)

    model = Counting().eval()
    model.register_buffer("steps", torch.tensor(0))
    model.register_buffer("last", torch.tensor(0))
    steps, last = model.steps, model.last
    strike(model, "", FLIP, 0, ((X,), {}), 2, 1, True).forward()
    assert model.steps is steps
    assert model.last is last
    assert (int(steps), int(last)) == (0, 0)


def test_tensors_of_inference_mode_are_struck():
    with torch.inference_mode():
        model = nn.Sequential(Eight(3, bias=False)).eval()
    found = trace(model, X, FLIP, seeds=range(6), buffers=True)
    assert found.struck[0].passages[0].masked.value == 0


@pytest.mark.parametrize(
    ("buffer", "says"),
    [
        (torch.ones(1).expand(8), r"0\.b has elements that share memory"),
        (torch.eye(3).to_sparse(), r"0\.b is torch\.sparse_coo"),
        (torch.ones(4, dtype=torch.complex64).conj(), r"0\.b is a view that is conjugated"),
    ],
)
def test_buffers_without_memory_of_their_own_are_refused(buffer, says):
    model = nn.Sequential(held(b=buffer)).eval()
    model[0].weight = nn.Parameter(torch.ones(9))
    trace(model, X, FLIP, only="0", seeds=range(2))
    with pytest.raises(WordError, match=says):
        trace(model, X, FLIP, only="0", buffers=True)


def test_weights_that_objects_hide_are_named():
    class Packed(Holder):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            destination[f"{prefix}packed"] = (torch.ones(99), None)

    model = nn.Sequential(Packed(), nn.Linear(4, 2)).eval()
    for buffers in (False, True):
        with pytest.warns(UserWarning, match=r"the others are in attributes .* \(0\.pa"):
            trace(model, X, FLIP, seeds=[0], buffers=buffers)
    with pytest.raises(FaultError, match=r"'0' has no weights of its own but in attributes"):
        trace(model, X, FLIP, only="0", buffers=True)


def test_buffers_are_for_faults_in_weights():
    with pytest.raises(FaultError, match="give Faults"):
        trace(nn.Sequential(nn.Linear(4, 2)).eval(), X, Upset("bitflip"), buffers=True)


def test_traces_of_before_have_no_buffers():
    found = trace(nn.Sequential(nn.Linear(4, 2)).eval(), X, FLIP, seeds=[0])
    old = {k: v for k, v in vars(found).items() if k not in ("buffers", "note")}
    assert pm.propagation.Trace(**old) == pm.propagation.Trace(**old, buffers=False, note="")


def test_weights_that_parametrizations_make_are_struck_in_what_they_are_made_of():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3, bias=False))
    model = nn.Sequential(layer).eval()
    before = copy.deepcopy(model.state_dict())
    found = trace(model, X, [Faults("zero", 15)], seeds=range(3))  # all of both
    [struck] = found.struck
    assert (struck.layer, struck.changed.value, found.note) == ("0", 1.0, "")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Peak(nn.Module):
    """Scales by the largest value that was ever seen, as observers of a quantization do."""

    def __init__(self, *, writes):
        super().__init__()
        self.writes = writes
        self.register_buffer("peak", torch.zeros(()))

    def forward(self, x):
        peak = torch.maximum(self.peak, x.detach().abs().max())
        if self.writes:
            self.peak.copy_(peak)
        else:
            self.peak = peak
        return x / peak


@pytest.mark.parametrize("writes", [True, False])
def test_what_a_wrong_run_writes_into_buffers_is_not_for_the_next(writes):
    torch.manual_seed(0)
    layers = nn.Linear(4, 4), Peak(writes=writes), nn.Linear(4, 3)
    model, x = nn.Sequential(*layers).eval(), torch.randn(5, 4)
    model(x)
    before, peak = state(model), model[1].peak
    kinds = [Upset("offset", size=100.0), Upset("bitflip")]
    both = trace(model, x, kinds, seeds=range(8), answer=lambda y: y)
    assert state(model) == before
    assert model[1].peak is peak
    alone = trace(model, x, kinds[1], seeds=range(8), answer=lambda y: y, only="2")
    assert both.struck[-1].changed == alone.struck[0].changed
    # As text: some are NaN, which equals nothing.
    assert repr(both.struck[-1].as_dict()) == repr(alone.struck[0].as_dict())


def test_what_a_wrong_run_leaves_elsewhere_is_told():
    class Remembering(nn.Module):
        largest = 0.0

        def forward(self, x):
            self.largest = max(self.largest, float(x.abs().max()))
            return x / self.largest

    model = nn.Sequential(nn.Linear(4, 4), Remembering()).eval()
    with pytest.raises(FaultError, match="'1' does not compute the same after runs with faults"):
        trace(model, X, Upset("offset", size=100.0))
