"""Balanced budgets: which bits are strong, that a plan is carried out, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from torch import nn

import parimend as pm
from parimend.carriers import Sidecar
from parimend.dtypes import DTYPES
from parimend.errors import CalibrationError, MismatchError, SpecError, WordError
from parimend.impose.moments import second_moments
from parimend.planner.balance import CHANCE, balance
from parimend.planner.sensitivity import sensitivity
from parimend.planner.striking import Strike, struck
from parimend.risk.pace import Pace
from parimend.scrub.schedule import pace_for
from parimend.stores.model import ModelTensors
from parimend.words.layout import Part, whole

ERRORS = 210


class Net(nn.Module):
    """20 - 60 - 12 with a norm between, whose tensors are of no layer that has moments."""

    def __init__(self):
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(20, 60), nn.LayerNorm(60), nn.Linear(60, 12)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.hidden(x))))


def network(seed=0):
    torch.manual_seed(seed)
    return Net()


@pytest.fixture(scope="module")
def inputs():
    return [torch.randn(600, 20, generator=torch.Generator().manual_seed(1))]


@pytest.fixture(scope="module")
def found(inputs):
    return balance(network(), ERRORS, inputs, trials=15)


def bits_of(model):
    return {name: t.detach().clone().view(torch.int32) for name, t in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


class TestSensitivity:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_against_a_plain_oracle(self, dtype):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 3)).to(dtype)
        x = torch.randn(700, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
        tensors = ModelTensors(dict(model.named_parameters()))
        bits = sensitivity(tensors, second_moments(model, [x]))
        seen = torch.cat([x, torch.ones(700, 1)], 1).double().square().mean(0)
        weight, bias = (p.detach().double() for p in model.parameters())
        power = float((weight**2 * seen[:4]).sum() + (bias**2 * seen[4]).sum())
        kind = DTYPES[{4: "F32", 2: "BF16", 8: "F64"}[dtype.itemsize]]
        for tensor, bit, elements, damage in bits:
            values = model.get_parameter(tensor).detach().flatten()
            shares = []
            for k, value in enumerate(values):
                pattern = value.reshape(1).view(torch.uint8).numpy().view(kind.unsigned)
                [new] = kind.decode(pattern ^ kind.unsigned.type(1 << bit))
                pull = float(seen[k % 4] if tensor == "0.weight" else seen[4])
                moved = (new - float(value)) ** 2 if abs(new) < 1e100 else math.inf
                shares.append(min(moved * pull / power, 1.0))
            assert elements == len(values)
            assert damage == pytest.approx(np.mean(shares), rel=1e-6)
        assert [bit.damage for bit in bits] == sorted((b.damage for b in bits), reverse=True)

    def test_tensors_of_no_layer_come_first(self, inputs):
        model = network()
        bits = sensitivity(
            ModelTensors(dict(model.named_parameters())), second_moments(model, inputs)
        )
        unknown = [bit for bit in bits if math.isinf(bit.damage)]
        assert bits[: len(unknown)] == unknown
        assert {bit.tensor for bit in unknown} == {"norm.weight", "norm.bias"}
        assert len(bits) == 6 * 32


class TestStrikes:
    def test_bits_of_planes_alone_are_flipped_and_put_back(self):
        model = network()
        before, tensors = bits_of(model), ModelTensors(dict(model.named_parameters()))
        planes = [
            Part("head.weight", "F32", (12, 60), 60, 600, mask=0x80000001),
            whole("norm.bias", "F32", (60,)),
        ]
        with struck(tensors, [Strike(planes, 0.1)], seed=4) as flips:
            changed = {k: (v ^ before[k]).flatten() for k, v in bits_of(model).items()}
            assert {k for k, v in changed.items() if v.any()} == {"head.weight", "norm.bias"}
            head = changed["head.weight"].numpy().view(np.uint32)
            assert not (head & ~np.uint32(0x80000001)).any()
            assert not head[:60].any()
            assert not head[660:].any()
            assert flips == sum(
                int(c).bit_count()
                for c in [*head.tolist(), *(changed["norm.bias"].numpy().view(np.uint32).tolist())]
            )
        assert same(bits_of(model), before)

    def test_there_are_as_many_as_the_rate_says(self):
        tensors = ModelTensors({"w": torch.zeros(100, 100)})
        counts = []
        for seed in range(300):
            with struck(tensors, [Strike(tensors.whole(), 1e-4)], seed) as flips:
                counts.append(flips)
        assert np.mean(counts) == pytest.approx(32, abs=4 * math.sqrt(32 / 300))
        assert np.var(counts) == pytest.approx(32, rel=0.4)

    def test_an_error_puts_everything_back(self):
        tensors = ModelTensors({"w": torch.zeros(100)})
        with pytest.raises(KeyError), struck(tensors, [Strike(tensors.whole(), 0.5)], 0):
            raise KeyError
        assert not tensors.held["w"].any()


class TestBalance:
    def test_exponents_are_strong_and_low_mantissa_bits_are_not(self, found):
        for name in ("hidden.weight", "head.weight"):
            assert found.masks[name] & 1 << 30
            assert not found.masks[name] & 0xFFFF
        assert found.masks["norm.weight"] == found.masks["norm.bias"] == 0  # all bits
        assert found.gain >= 2

    def test_a_plan_is_carried_out(self, found):
        model = network()
        before = bits_of(model)
        seal = pm.protect_(model, found)
        assert seal.covered == sum(p.numel() for p in model.parameters())
        assert [w.code.guaranteed for w in seal.words] == list(found.budgets)
        strong = found.request.balance.shares[0].word
        with struck(ModelTensors(dict(model.named_parameters())), [Strike(strong, 0)], 0):
            mask = torch.tensor(1 << 30, dtype=torch.int32)
            model.hidden.weight.data.view(torch.int32).view(-1)[: found.budgets[0]] ^= mask
            report = pm.repair_(model, seal)
        assert report.verdict == "corrected"
        assert same(bits_of(model), before)

    @pytest.mark.parametrize("seed", range(5))
    def test_the_floor_holds_wherever_damage_falls(self, found, seed, rng):
        model = network()
        before, seal = bits_of(model), pm.protect_(model, found)
        flat = [p.data.view(torch.int32).view(-1) for p in model.parameters()]
        for _ in range(found.request.errors):
            tensor = flat[rng.integers(len(flat))]
            tensor[rng.integers(len(tensor))] ^= int(rng.integers(1, 1 << 31))
        assert pm.repair_(model, seal).verdict.ok
        assert same(bits_of(model), before)

    def test_it_takes_no_more_bytes_than_the_even_budget(self, found):
        even = pm.protect_(network(), ERRORS)
        balanced = pm.protect_(network(), found)
        assert found.nbytes == len(even.to_bytes())
        assert found.nbytes - 40 < len(balanced.to_bytes()) <= found.nbytes

    def test_a_scrubber_counts_every_bit_once(self, found, monkeypatch):
        seen = []
        monkeypatch.setattr(Pace, "of", lambda words, *_: seen.extend(words))
        pace_for(pm.protect_(network(), found), 1e-3, 1e-9, None)
        every = 32 * sum(p.numel() for p in network().parameters())
        assert sum(word.bits * word.times for word in seen) == pytest.approx(every, abs=16)

    def test_the_budget_holds_the_flips_of_its_bits(self, found):
        strong = found.request.balance.shares[0]
        bits = sum(part.count * part.bits for part in strong.word)
        assert poisson.sf(strong.errors, found.rate * bits) == pytest.approx(CHANCE, rel=1e-6)
        every = 32 * sum(p.numel() for p in network().parameters())
        assert poisson.sf(ERRORS, found.even_rate * every) == pytest.approx(CHANCE, rel=1e-6)

    def test_what_is_measured_is_what_is_promised(self, found):
        assert found.balanced.trials == found.even.trials == 15
        assert found.balanced.loss <= 0.015
        assert found.even.loss > 0.2  # at that rate it repairs nothing
        assert (found.balanced.lost, found.even.lost) == (0, 15)

    def test_what_adds_up_over_many_checks_makes_more_bits_strong(self, inputs, found):
        lasting = balance(network(), ERRORS, inputs, checks=30, trials=8)
        assert found.even_rate <= lasting.rate < found.rate
        assert (lasting.checks, lasting.balanced.loss <= 0.015) == (30, True)

    def test_nothing_is_gained_where_nothing_is_known(self, inputs):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.rand(20, 9))

            def forward(self, x):
                return x @ self.scale

        even = balance(Scaled(), ERRORS, inputs, trials=2)
        assert (even.gain, even.masks, even.budgets) == (1.0, {}, (ERRORS,))
        seal = pm.protect_(Scaled(), even)
        assert len(seal.words) == 1

    def test_numbers_of_numpy_are_numbers(self, inputs):
        own, numpys = (
            balance(network(), ERRORS, inputs, trials=4, tolerance=tolerance)
            for tolerance in (2.0**-6, np.float32(2.0**-6))
        )
        assert own == numpys

    def test_any_seed_will_do(self, inputs):
        last = (1 << 64) - 1
        assert balance(network(), ERRORS, inputs, trials=4, seed=last).request.seed == last

    def test_the_model_is_left_as_it_is(self, inputs):
        model = network().train()
        before = bits_of(model)
        again = balance(model, ERRORS, inputs, trials=5)
        assert same(bits_of(model), before)
        assert model.training
        assert again == balance(model, ERRORS, inputs, trials=5)
        told = json.loads(again.to_json())
        assert told["budgets"] == list(again.budgets)
        assert told["masks"]["norm.bias"] == "0x0"

    def test_a_metric_and_batches_of_other_kinds(self, inputs):
        [x] = inputs
        model, calls = network(), []

        def metric(model):
            calls.append(model.training)
            return -float(model(x[:10]).detach().nan_to_num().abs().clamp(max=9).mean())

        found = balance(model, ERRORS, ({"x": part} for part in x.split(200)), metric, trials=5)
        assert found.masks["head.weight"] & 1 << 30
        assert set(calls) == {False}


class TestRefusals:
    def test_too_few_inputs(self):
        with pytest.raises(CalibrationError, match=r"30 calibration inputs .* give 500 or more"):
            balance(network(), ERRORS, [torch.randn(30, 20)])

    @pytest.mark.parametrize("value", [math.nan, -math.inf])
    def test_a_metric_that_gives_no_number(self, inputs, value):
        with pytest.raises(SpecError, match=f"the metric gives {value}: a score must be a finite"):
            balance(network(), ERRORS, inputs, lambda model: value)
        loss = iter([1.0, 0.9, value])
        with pytest.raises(SpecError, match=f"the metric gives {value}"):
            balance(network(), ERRORS, inputs, lambda model: next(loss))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"errors": 0}, "errors must be at least 1, not 0"),
            ({"errors": 2.5}, "errors must be a whole number"),
            ({"errors": 20}, "errors=20 take [0-9]+ bytes, too few for two words of 4 errors"),
            ({"floor": 0}, "floor must be at least 1, not 0"),
            ({"checks": 0}, "checks must be from 1 to 1000000, not 0"),
            ({"trials": 1}, "trials must be from 2 to 1000000, not 1"),
            (
                {"tolerance": 0.0},
                "tolerance must be what damage may cost, a number above 0, not 0.0",
            ),
            ({"tolerance": math.nan}, "a number above 0, not nan"),
            ({"tolerance": "x"}, "a number above 0, not a str"),
        ],
    )
    def test_arguments_that_make_no_sense(self, inputs, options, message):
        with pytest.raises(SpecError, match=message):
            balance(network(), **{"errors": ERRORS, "calibration": inputs, "trials": 2} | options)

    def test_models_that_cannot_be_run_or_protected(self, inputs):
        with pytest.raises(SpecError, match=r"model must be a torch\.nn.Module, which can be run"):
            balance({"w": torch.ones(3)}, ERRORS, inputs)
        with pytest.raises(WordError, match="no tensors to protect"):
            balance(nn.Flatten(), ERRORS, inputs)
        with pytest.raises(SpecError, match="puts out a Tensor without classes: give a metric"):
            balance(nn.Sequential(nn.Linear(20, 3), nn.Flatten(0)), ERRORS, inputs)

    def test_a_plan_for_another_model(self, found):
        other = network()
        other.head = nn.Linear(60, 13)
        with pytest.raises(
            MismatchError, match=r"head\.weight is F32 \[13, 60\], but the plan was"
        ):
            pm.protect_(other, found)
        with pytest.raises(MismatchError, match=r"plan is of hidden\.weight, which is not there"):
            pm.protect_(nn.Linear(3, 4), found)
        with pytest.raises(SpecError, match="give no carrier or option beside it"):
            pm.protect_(network(), found, pm.LowBits())
        assert isinstance(found.request.carrier, Sidecar)


def moves(model):
    with torch.no_grad():
        model.hidden.weight.mul_(0.999)


def replaces(model):
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())


def replaces_if_damaged(model):
    if not torch.equal(model.head.weight, network().head.weight):
        replaces(model)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (moves, "the metric changes hidden.weight, which trials would take for damage"),
        (replaces, "the metric changes head.weight, which"),
        (replaces_if_damaged, "the metric of a damaged model changes head.weight, which"),
        (lambda model: model.norm.train(), "the metric leaves the model in training mode"),
    ],
)
def test_a_metric_leaves_the_model_as_it_is(inputs, how, says):
    def metric(model):
        score = float(model(inputs[0]).detach().sum(1).sign().mean().nan_to_num())
        how(model)
        return score

    with pytest.raises(SpecError, match=says):
        balance(network(), ERRORS, inputs, metric, trials=2)


def test_what_damaged_models_write_into_buffers_is_not_for_the_next_trial(inputs):
    class Peak(nn.Module):
        def __init__(self, *, keeps):
            super().__init__()
            self.keeps = keeps
            self.register_buffer("peak", torch.zeros(()))

        def forward(self, x):
            peak = torch.maximum(self.peak, x.detach().abs().max())
            if self.keeps:
                self.peak.copy_(peak)
            return (x / peak * 255.0).round()

    def of(keeps):
        model = network()
        model.norm = Peak(keeps=keeps)
        return balance(model, ERRORS, inputs, trials=5)

    kept, anew = of(True), of(False)
    assert (kept.rate, kept.balanced, kept.even) == (anew.rate, anew.balanced, anew.even)
