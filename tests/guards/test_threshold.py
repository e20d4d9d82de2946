"""Thresholds hold: measured on every kind of input, with the same kernels that models use."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from parimend.guards import guard_
from parimend.guards.arithmetic import Arithmetic
from parimend.guards.threshold import Spread, Threshold
from parimend.upsets import Upset, upset_


@settings(max_examples=25)
@given(
    inputs=st.integers(1, 700),
    outputs=st.integers(9, 300),
    k=st.sampled_from([1, 2, 8]),
    batch=st.sampled_from([1, 7, 64]),
    kind=st.sampled_from(["normal", "relu", "constant", "sparse", "tiny", "large"]),
    impose=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_false_alarm_and_errors_above_the_floor_are_seen(
    inputs, outputs, k, batch, kind, impose, seed
):
    torch.manual_seed(seed)
    layer, x = nn.Linear(inputs, outputs), torch.randn(batch, inputs)
    x = {
        "normal": x,
        "relu": x.relu(),
        "constant": 1 + 0.01 * x,
        "sparse": x * (torch.rand_like(x) < 0.1),
        "tiny": 1e-12 * x,
        "large": 1e12 * x,
    }[kind]
    with guard_(layer, k, impose=impose) as guards, torch.no_grad():
        y = layer(x)
        assert guards.events == ()
        if kind in ("normal", "relu") and inputs > 8:
            spread = y.square().sum(1).max().sqrt() / y.square().mean().sqrt() / outputs**0.5
            size = 3 * float(spread) * guards.floor[""]
            with upset_(layer, Upset("offset", size=size), seed=seed):
                layer(x)
            assert len(guards.events) == batch


def test_coarser_arithmetic_has_a_higher_threshold():
    one, none = torch.ones(1, 1, 1).double(), torch.zeros(1, 1, 1).double()
    spread = Spread(one, none, none[0], 1.0, 512, 512, 64)

    def tau(**arithmetic):
        return Threshold.of(spread, Arithmetic(**arithmetic)).tau

    full, half, brain = torch.float32, torch.float16, torch.bfloat16
    rising = [
        tau(output=full),
        tau(output=half, roundings=1),
        tau(output=half, roundings=3),
        tau(output=full, factors=2.0**-10, checks=2.0**-10),
        tau(output=brain, roundings=1),
        tau(output=half, sums=2.0**-11, roundings=3),
    ]
    assert rising == sorted(set(rising))


@pytest.mark.parametrize("k", [1, 8])
def test_no_false_alarm_on_real_inputs(digits_or_mnist, k):
    x = digits_or_mnist.train_x
    x = torch.from_numpy(x[:4000].copy())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 256), nn.LeakyReLU(), nn.Linear(256, 10))
    with guard_(model, k) as guards, torch.no_grad():
        for batch in (*x[:50].split(1), *x.split(500)):
            model(batch)
    assert guards.events == ()


def test_one_wrong_output_per_sample_costs_no_accuracy(digits_or_mnist):
    x = digits_or_mnist.train_x
    x = torch.from_numpy(x[:500].copy())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 10))
    with torch.no_grad():
        right = model(x).argmax(1)
        for upset in (Upset("bitflip"), Upset("offset", size=30.0), Upset("tile", size=8)):
            with upset_(model, upset, seed=2):
                unguarded = model(x).argmax(1)
                with guard_(model, 4):
                    assert (model(x).argmax(1) == right).all()
            if upset.kind == "offset":
                assert (unguarded != right).any()
