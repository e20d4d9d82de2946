"""Errors as they travel, against what the layers do by hand."""

import json
import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import parimend as pm
from parimend.errors import FaultError, SpecError
from parimend.experiment import Faults
from parimend.propagation import trace
from parimend.propagation.striking import UNKNOWN, strike
from parimend.propagation.summing import _decades
from parimend.upsets import Upset

OFFSET = Upset("offset", size=0.1)


class Noted(Upset):
    """Keeps what it made of which outputs."""

    def strike(self, y, axis, rng):
        wrong = super().strike(y, axis, rng)
        NOTES.append((y.double().numpy(), wrong.double().numpy()))
        return wrong


NOTES = []


def diagonal(scale, bias=0.0, width=4):
    layer = nn.Linear(width, width)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.eye(width))
        layer.bias.fill_(bias)
    return layer


def only(found, layer):
    [passage] = [each for each in found.struck[0].passages if each.layer == layer]
    return passage


def relative(wrong, right):
    return np.linalg.norm(wrong - right, axis=1) / np.linalg.norm(right, axis=1)


def test_a_linear_network_against_dense_matrices(rng):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))).double().eval()
    x = torch.from_numpy(rng.standard_normal((5, 6)))
    NOTES.clear()
    found = trace(model, x, Noted("offset", size=0.3), only="0", seeds=range(9))
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in model]
    errors = {"0": [], "1": [], "2": []}
    for right, wrong in NOTES:
        errors["0"].append(relative(wrong, right))
        for layer, (W, b) in zip("12", weights[1:], strict=True):
            right, wrong = right @ W.T + b, wrong @ W.T + b
            errors[layer].append(relative(wrong, right))
    assert len(NOTES) == 9
    for layer, expected in errors.items():
        middle = np.median(np.median(expected, axis=1))
        assert only(found, layer).error.value == pytest.approx(middle, rel=1e-6)
    gains = np.median(np.median(np.divide(errors["2"], errors["1"]), axis=1))
    assert only(found, "2").gain.value == pytest.approx(gains, rel=1e-6)
    assert math.isnan(only(found, "0").gain.value)  # what it reads is right
    assert only(found, "").error.value == only(found, "2").error.value


@given(scale=st.floats(0.1, 10), bias=st.floats(-1, 5), size=st.floats(1e-3, 1))
def test_the_gain_of_a_scaled_and_shifted_input(scale, bias, size):
    model = nn.Sequential(diagonal(1.0), diagonal(scale, bias)).double().eval()
    if abs(scale + bias) < 0.05:
        return
    x = torch.ones(3, 4, dtype=torch.float64)
    found = trace(model, x, Upset("offset", size=size), only="0", seeds=range(6))
    gain = only(found, "1").gain
    expected = scale / abs(scale + bias)
    for each in (gain.value, gain.low, gain.high):
        assert each == pytest.approx(expected, rel=1e-6)
    assert only(found, "0").error.value == pytest.approx(size / 2)  # one of four


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_masks_what_is_negative(inplace):
    first = diagonal(1.0)
    model = nn.Sequential(first, nn.ReLU(inplace), diagonal(1.0)).eval()
    x = torch.tensor([[-1.0, -1, -1, -1], [1, 1, 1, 1]])
    found = trace(model, x, Upset("offset", size=0.5), only="0")
    passage = only(found, "1")
    assert passage.masked.value == 0.5  # all errors in the first input, none in the second
    assert only(found, "").masked.value == 0.5
    [relu] = [each for each in found.layers if each.layer == "1"]
    assert relu.masks.value == 0.5
    assert relu.gain.value == pytest.approx((0 + 1) / 2)
    assert passage.rounding.value >= passage.masked.value


def test_decades():
    errors = np.array([0.0, 1e-12, 1e-5, 9.9e-5, 1.0, 3e20, np.inf, np.nan])
    expected = [0.0, 1e-8, 1e-5, 1e-5, 1.0, 1e8, np.inf, np.nan]
    np.testing.assert_array_equal(_decades(errors), expected)


def test_rounding_is_told_from_nothing_at_all():
    model = nn.Sequential(diagonal(1.0), diagonal(1.0)).eval()
    found = trace(model, torch.ones(2, 4), Upset("relative", size=2e-7), only="0")
    assert only(found, "1").masked.value == 0
    assert only(found, "1").rounding.value == 1
    assert found.struck[0].by_size[0].at == 1e-7  # two units in the last place of one in four


class Block(nn.Module):
    """x + a x."""

    def __init__(self, a, inplace):
        super().__init__()
        self.branch, self.inplace = diagonal(a), inplace

    def forward(self, x):
        y = self.branch(x)
        if self.inplace:
            y += x
            return y
        return x + y


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("a", [0.0, 0.5])
def test_residual_blocks_add(a, inplace):
    model = nn.Sequential(diagonal(1.0), Block(a, inplace), diagonal(1.0, bias=1.0)).eval()
    found = trace(model, torch.ones(3, 4), OFFSET, only="0")
    assert only(found, "1").gain.value == pytest.approx(1.0)
    assert only(found, "1.branch").masked.value == (1.0 if a == 0 else 0.0)
    assert only(found, "1").masked.value == 0.0
    assert only(found, "2").gain.value == pytest.approx((1 + a) / (2 + a), rel=1e-5)
    # An error in the branch alone is smaller beside what is added to it.
    branch = trace(model, torch.ones(3, 4), OFFSET, only="1.branch")
    if a:
        assert only(branch, "1").error.value == pytest.approx(0.05 * a / (1 + a), rel=1e-5)


class Again(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = diagonal(1.0), diagonal(1.0)

    def forward(self, x):
        for _ in range(3):
            x = self.layer(x)
        return {"scores": self.head(x)}


def test_a_module_called_several_times_is_struck_in_one_call():
    model = Again().eval()
    found = trace(model, torch.ones(2, 4), OFFSET, only="layer", seeds=range(30))
    first, second, third = found.struck[0].passages[:3]
    assert [each.call for each in (first, second, third)] == [0, 1, 2]
    # Calls before the one that is struck do not count as masking.
    assert first.masked.value == second.masked.value == third.masked.value == 0
    assert first.error.value == pytest.approx(0.05)
    assert first.masked.high > second.masked.high > third.masked.high  # of fewer faults
    assert found.struck[0].faults == 60
    model.layer = diagonal(0.5, bias=1.0).eval()
    wrong = trace(model, torch.ones(2, 4), Faults("zero", 1), only="layer").struck[0]
    errors = [each.error.value for each in wrong.passages[:3]]
    assert min(errors) > 0
    assert len(set(errors)) == 3  # wrong in all of them


def test_faults_in_weights_are_those_of_the_kind(rng):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    x = torch.from_numpy(rng.standard_normal((7, 6), dtype=np.float32))
    with torch.no_grad():
        right = model(x).argmax(1)
    kind, seeds = Faults("bitflip", 1), range(40)
    found = trace(model, x, kind, seeds=seeds).struck[1]
    changed, bits = [], []
    for seed in seeds:
        run = strike(model, "2", kind, seed, ((x,), {}), 7, 1)
        with torch.no_grad():
            wrong = run.forward()
        answers = wrong.argmax(1).masked_fill(~wrong.isfinite().all(1), -1)
        changed.append((answers != right).numpy())
        bits.append(int(run.bits[0]))
    assert (found.layer, found.faults) == ("2", 280)
    assert found.changed.value == pytest.approx(np.mean(changed))
    assert {group.at for group in found.by_bit} == set(bits)
    assert sum(group.faults for group in found.by_bit) == 280
    assert sum(group.faults for group in found.by_size) == 280
    top = [row for row, bit in zip(changed, bits, strict=True) if bit == 30]
    [group] = [group for group in found.by_bit if group.at == 30]
    assert group.changed.value == np.mean(top)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_bits_are_named(dtype):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).to(dtype).eval()
    x = torch.ones(3, 4, dtype=dtype)
    for kind in (Upset("bitflip"), Faults("bitflip", 1)):
        found = trace(model, x, kind, only="0").struck[0]
        assert found.by_bit
        assert all(0 <= group.at < 8 * dtype.itemsize for group in found.by_bit)
        assert found.faults == sum(group.faults for group in found.by_bit)
    run = strike(model, "0", Upset("bitflip", bits=2), 0, ((x,), {}), 3, 1)
    run.forward()
    assert (run.bits == UNKNOWN).all()


def state(model):
    return {name: each.numpy().tobytes() for name, each in model.state_dict().items()}


def test_nothing_of_the_model_is_changed(rng):
    model = Again().eval()
    before = state(model)

    def clumsy(output):
        clumsy.calls += 1
        if clumsy.calls > 3:
            raise RuntimeError("no answer")
        return output["scores"].argmax(1)

    for kind in (OFFSET, Faults("random", 3)):
        clumsy.calls = 0
        with pytest.raises(FaultError, match="seed 1, there is no answer: RuntimeError: no answer"):
            trace(model, torch.ones(2, 4), kind, answer=clumsy)
        trace(model, torch.ones(2, 4), kind)
        assert state(model) == before
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert "forward" not in vars(module)


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.one = self.other = nn.Linear(4, 4)

    def forward(self, x):
        return self.other(self.one(x).relu())


def test_a_module_under_two_names_is_put_back():
    model = Twice().eval()
    weight, before = model.one.weight, state(model)
    found = trace(model, torch.ones(2, 4), Faults("random", 20), seeds=range(3))
    assert found.struck[0].passages[0].error.value > 0  # it was wrong under both
    assert model.one.weight is weight
    assert weight.requires_grad
    assert state(model) == before


def compiled(model, how):
    if how == "all":
        return torch.compile(model, backend="eager")
    if how == "part":
        model[2] = torch.compile(model[2], backend="eager")
    if how == "in place":
        model.compile(backend="eager")
    return nn.DataParallel(model) if how == "parallel" else model


@pytest.mark.parametrize("how", ["all", "part", "in place", "parallel"])
def test_compiled_and_wrapped_models_are_traced_as_they_are_written(how):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    kinds = [Upset("bitflip"), Faults("bitflip", 1)]
    right = trace(plain, torch.ones(2, 4), kinds, only="0", seeds=range(3))
    found = trace(compiled(plain, how), torch.ones(2, 4), kinds, only="0", seeds=range(3))
    assert found.struck[0].changed == right.struck[0].changed
    assert found.struck[1].by_bit == right.struck[1].by_bit


class Masked(nn.Module):
    """Puts out what is not to be chosen, as attention and decoders do."""

    def __init__(self, mask):
        super().__init__()
        self.layer, self.mask = diagonal(1.0), mask

    def forward(self, x):
        return self.layer(x).masked_fill(torch.tensor([False, False, False, True]), self.mask)


@pytest.mark.parametrize("mask", [-math.inf, math.nan])
def test_what_ought_to_be_no_number_hides_no_error(mask):
    upset = Upset("relative", count=4, size=0.5)
    found = trace(Masked(mask).eval(), torch.ones(2, 4), upset, seeds=range(6))
    assert only(found, "").masked.value == 0
    assert only(found, "").error.value == pytest.approx(0.5)


class Careful(nn.Module):
    """Does without a layer that finds its input senseless."""

    def __init__(self):
        super().__init__()
        self.strict, self.last = Strict(), diagonal(1.0)

    def forward(self, x):
        with suppress(ValueError):
            self.strict(torch.ones_like(x))
        return 2 * self.last(x)


class Strict(nn.Module):
    def forward(self, x):
        raise ValueError("senseless")


def test_where_no_fault_left_an_error_no_answer_changes_most():
    model = nn.Sequential(diagonal(0.0), nn.Linear(4, 2)).eval()
    found = trace(model, torch.ones(2, 4), [Upset("relative"), Faults("nonfinite", 1)])
    assert math.isnan(found.struck[0].changed.value)  # of zero, a relative error is none
    assert "nan" not in repr(found)
    alone = trace(model, torch.ones(2, 4), Upset("relative"), only="0")
    assert repr(alone).endswith("at 0: nan (0 - 1)>")


def test_calls_that_a_model_lets_fail_do_not_mix_up_others():
    model = nn.Sequential(diagonal(1.0), Careful()).eval()
    found = trace(model, torch.ones(2, 4), OFFSET, only="0", seeds=range(6))
    assert only(found, "1").gain.value == pytest.approx(1.0)


def test_a_model_that_fails_on_damage_is_named_with_what_was_struck():
    class Picky(nn.Module):
        def forward(self, x):
            if (x > 100).any():
                raise ValueError("too large")
            return x

    model = nn.Sequential(diagonal(1.0), Picky()).eval()
    with pytest.raises(FaultError, match=r"^0: struck with seed 0, .* ValueError: too large"):
        trace(model, torch.ones(2, 4), Upset("stuck", size=1e3))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated")
def test_torchscript_is_refused_and_left_as_it_is():
    model = nn.Sequential(diagonal(1.0), torch.jit.script(nn.ReLU())).eval()
    with pytest.raises(FaultError, match="module '1' is TorchScript"):
        trace(model, torch.ones(2, 4), OFFSET)
    assert not model._forward_pre_hooks


def test_an_answer_is_kept_whatever_the_model_writes_later():
    class Reusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = diagonal(1.0), torch.empty(2, 4)

        def forward(self, x):
            return self.out.copy_(self.layer(x))

    found = trace(Reusing().eval(), torch.ones(2, 4), OFFSET, answer=lambda y: y)
    assert found.struck[0].changed.value == 1


def test_answers_that_are_no_number_twice_are_the_same():
    model = nn.Sequential(diagonal(1.0)).eval()
    found = trace(model, X, OFFSET, answer=lambda y: torch.full_like(y, torch.nan))
    assert found.struck[0].changed.value == 0


@pytest.mark.parametrize(
    ("later", "says"),
    [
        (lambda y: torch.rand(2), "the answer is not the same twice"),
        (lambda y: None, r"must be a tensor with 2 samples .* not NoneType"),
        (lambda y: torch.zeros(2, 3), r"the answer is \[2, 3\], and \[2\] in the run before"),
        (lambda y: y.numpy().tolist(), "not list"),
    ],
)
def test_an_answer_is_one_of_all_runs(later, says):
    calls = []

    def answer(y):
        calls.append(y)
        return later(y) if len(calls) > 1 else torch.zeros(2)

    model = nn.Sequential(diagonal(1.0)).eval()
    with pytest.raises(FaultError, match=says):
        trace(model, X, OFFSET, answer=answer)


def test_an_interrupt_as_a_hook_is_put_on_leaves_none(interrupt_at):
    model = nn.Sequential(diagonal(1.0), nn.ReLU()).eval()
    for count in range(1, 6):  # those that watch, and then one that strikes
        interrupt_at(count)
        with pytest.raises(KeyboardInterrupt):
            trace(model, torch.ones(2, 4), OFFSET)
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._forward_pre_hooks_with_kwargs


def test_the_same_seeds_give_the_same_trace_in_any_order():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    x, kinds = torch.rand(3, 1, 6, 6), [Upset("bitflip"), Faults("bitflip", 2)]
    one, other = (trace(model, x, kinds, seeds=seeds) for seeds in ([1, 2, 3], [3, 1, 2]))
    assert one.to_json() == other.to_json()
    assert json.loads(one.to_json())["faults"] == 3
    assert [(each.layer, each.upset) for each in one.struck] == [
        (layer, upset) for layer in "03" for upset in ("bitflip", "weights: bitflip x 2")
    ]
    assert "4 struck, 3 faults each" in repr(one)
    assert one._repr_html_().count("<table>") == 2


def test_upsets_of_one_sample_count_that_sample_alone():
    model = nn.Sequential(diagonal(1.0), diagonal(1.0)).eval()
    found = trace(model, torch.ones(5, 4), Upset("row"), only="0", seeds=range(10))
    assert found.struck[0].faults == 10
    assert only(found, "").masked.value == 0


def test_a_transformer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)).eval()
    found = trace(model, (torch.randn(4, 5, 8),), Upset("bitflip"), seeds=range(6))
    struck = [each.layer for each in found.struck]
    assert struck == ["0.layers.0.linear1", "0.layers.0.linear2"] + [
        "0.layers.1.linear1",
        "0.layers.1.linear2",
        "1",
    ]
    behind = {each.layer for each in found.struck[0].passages}
    assert {"0.layers.0.norm2", "0.layers.1.self_attn", "0.layers.1.norm1", ""} <= behind


def test_places_without_samples_are_left_out():
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.place, self.head = nn.Embedding(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x + self.place(torch.arange(1, 2)))

    found = trace(Places().eval(), {"x": torch.ones(3, 4)}, OFFSET)
    assert found.left_out == ("place",)
    assert [each.layer for each in found.struck] == ["head"]


def test_it_is_reached_from_the_package():
    assert pm.propagation.trace is trace


TINY = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
X = torch.ones(2, 4)


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand(())


class Uncalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((nn.Sequential(nn.Linear(4, 4)), X, OFFSET), "training mode: call model.eval"),
        ((nn.Sequential(nn.Linear(4, 4), Random()).eval(), X, OFFSET), "'1' does not compute"),
        ((nn.Sequential(nn.LazyLinear(3)).eval(), X, OFFSET), "nothing yet in 0.weight"),
        ((nn.Linear(4, 3, device="meta").eval(), X, OFFSET), "nothing yet in weight, bias, lazy"),
        ((nn.Identity().eval(), X, OFFSET), "no linear layer or convolution is called"),
        ((TINY, X, OFFSET, {"only": "head"}), "no module matches 'head'; there are"),
        ((Uncalled().eval(), X, OFFSET, {"only": "spare"}), "'spare' is not called"),
        ((TINY, X, Faults("sign", 1), {"only": "1"}), "'1' has no weights of its own"),
        ((TINY, "text", OFFSET), "inputs must be a tensor"),
        ((TINY, torch.ones(0, 4), OFFSET), "at least one sample"),
        ((TINY, torch.ones(2, 5), OFFSET), "does not run on these inputs: RuntimeError: mat1"),
        ((TINY, X, []), "there is nothing to do"),
        ((TINY, X, OFFSET, {"seeds": []}), "there is nothing to do"),
        ((TINY, X, OFFSET, {"seeds": [0, 1 << 32]}), "seeds are below 2.32"),
        ((TINY, X, OFFSET, {"seeds": [3, 3]}), "would count one fault as two"),
        ((TINY, X, Faults("bitflip", 0)), "strike nothing"),
        ((nn.Flatten(0).eval(), X, OFFSET), "must give a floating-point tensor"),
        ((TINY, X, Upset("bitflip", count=9)), "^0: a sample has 4 outputs, not 9"),
        (
            (nn.LSTM(4, 4, batch_first=True).eval(), torch.ones(2, 3, 4), OFFSET, {"only": "*"}),
            "the model: outputs are a tuple",
        ),
        ((TINY, X, OFFSET, {"answer": torch.sum}), r"2 samples along its first axis, not \[\]"),
        ((nn.Linear(4, 4, dtype=torch.cfloat).eval(), X.cfloat(), OFFSET), "floating-point tensor"),
        ((TINY, X, Faults("bitflip", 900)), "900"),
        ((TINY, X, Faults("melt", 1)), "unknown kind of damage 'melt'"),
    ],
)
def test_misuse(arguments, says):
    model, inputs, upsets, *options = arguments
    with pytest.raises(FaultError, match=says):
        trace(model, inputs, upsets, **(options[0] if options else {}))


@pytest.mark.parametrize(
    "arguments",
    [
        ("model", X, OFFSET),
        (TINY, X, ["bitflip"]),
        (TINY, X, OFFSET, {"seeds": 5}),
        (TINY, X, OFFSET, {"seeds": [-1]}),
        (TINY, X, OFFSET, {"seeds": [1.5]}),
    ],
)
def test_other_types(arguments):
    model, inputs, upsets, *options = arguments
    with pytest.raises(SpecError, match="must be"):
        trace(model, inputs, upsets, **(options[0] if options else {}))


@pytest.mark.parametrize("kind", ["stuck", "tile"])
def test_what_strikes_all_inputs_at_once_is_one_draw(kind):
    """One output of eight matters: of eight draws it is often none, whatever the inputs say."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[:, 0] = torch.tensor([9.0, -9.0])
        model[1].bias.zero_()
    upset = Upset(kind, size=10.0 if kind == "stuck" else 1)
    few = trace(model, torch.randn(100, 4), upset, only="0", seeds=range(8)).struck[0].changed
    assert few.high - few.low > 0.2
