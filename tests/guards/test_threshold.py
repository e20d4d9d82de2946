"""Thresholds hold: measured on every kind of input, with the same kernels that models use."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from parimend.guards import guard_
from parimend.guards.arithmetic import Arithmetic
from parimend.guards.threshold import Noise, Threshold
from parimend.upsets import Upset, upset_


@settings(max_examples=25)
@given(
    inputs=st.integers(1, 700),
    outputs=st.integers(9, 300),
    k=st.sampled_from([1, 2, 8]),
    blocks=st.sampled_from([1, 4]),
    batch=st.sampled_from([1, 7, 64]),
    kind=st.sampled_from(["normal", "relu", "constant", "sparse", "tiny", "large"]),
    impose=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_false_alarm_and_errors_above_the_floor_are_seen(
    inputs, outputs, k, blocks, batch, kind, impose, seed
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
    with guard_(layer, k, blocks=blocks, impose=impose) as guards, torch.no_grad():
        y = layer(x)
        assert guards.events == ()
        if kind in ("normal", "relu") and inputs > 8:
            [(guard, *_)] = guards._layers.values()
            of_block = y.reshape(-1, guard.code.n).square().mean(1).max().sqrt()
            spread = of_block / y.square().mean().sqrt()
            size = 3 * float(spread) * guards.floor[""]
            with upset_(layer, Upset("offset", size=size), seed=seed):
                layer(x)
            assert len(guards.events) == batch


@settings(max_examples=20)
@given(
    dtype=st.sampled_from(["bfloat16", "float16"]),
    cast=st.booleans(),
    inputs=st.integers(1, 300),
    outputs=st.integers(9, 200),
    k=st.sampled_from([1, 4]),
    blocks=st.sampled_from([1, 3, 8]),
    kind=st.sampled_from(["normal", "relu", "outliers", "constant", "powers", "tiny", "zero"]),
    seed=st.integers(0, 99),
)
def test_narrow_arithmetic(dtype, cast, inputs, outputs, k, blocks, kind, seed):
    torch.manual_seed(seed)
    dtype = getattr(torch, dtype)
    layer, x = nn.Linear(inputs, outputs), torch.randn(64, inputs)
    x = {
        "normal": x,
        "relu": x.relu(),
        "outliers": torch.where(torch.rand_like(x) < 0.01, 1e3 * x, x),
        "constant": 1 + 0.001 * x,
        "powers": 2.0 ** (3 * x).round(),
        "tiny": 1e-6 * x,
        "zero": 0 * x,
    }[kind]
    if not cast:
        layer, x = layer.to(dtype), x.to(dtype)
    with (
        guard_(layer, k, blocks=blocks, policy="raise") as guards,
        torch.no_grad(),
        torch.autocast("cpu", dtype, enabled=cast),
    ):
        assert layer(x).dtype == dtype
        assert guards.events == ()


def test_blocks_lower_the_floor_and_locate():
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 4096).bfloat16(), torch.randn(9, 16).bfloat16()
    floors = {}
    for blocks in (1, 8, 16):
        with guard_(layer, blocks=blocks) as guards, torch.no_grad():
            floors[blocks] = guards.floor[""]
            if blocks > 1:
                right = layer(x)
                with upset_(layer, Upset("offset", size=1.5 * floors[blocks])):
                    torch.testing.assert_close(layer(x), right, rtol=0.01, atol=0.01)
                assert len(guards.events) == len(x)
                assert {e.kind for e in guards.events} == {"corrected"}
                assert all(len(e.channels) == 1 for e in guards.events)
    assert floors[8] < 0.5 < floors[1]
    assert floors[16] < 0.8 * floors[8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_one_output_that_dwarfs_all_others_hides_no_more_than_the_floor_says(k, dtype):
    torch.manual_seed(0)
    layer = nn.Linear(2000, 64).to(dtype)
    x = layer.weight.detach()[0] * (1 + torch.rand(300, 1)).to(dtype)
    with guard_(layer, k, policy="record") as guards, torch.no_grad():
        y = layer(x)
        rest = y[:, 1:].float().square().sum(1)
        assert (y[:, 0].float().square() > 3 * rest).all()
        spread = y.float().square().mean(1).max().sqrt() / y.float().square().mean().sqrt()
        size = float(spread) * guards.floor[""] * (2 * k) ** 0.5
        with upset_(layer, Upset("offset", size=size)):
            layer(x)
        assert {event.sample for event in guards.events} == {(i,) for i in range(len(x))}


@pytest.mark.parametrize(
    ("outputs", "k", "blocks"),
    [(32, 1, 4), (24, 1, 3), (18, 8, 2), (31, 1, 1), (15, 1, 1), (7, 1, 1), (9, 8, 1)],
)
def test_as_many_blocks_as_come_out_even(outputs, k, blocks):
    with guard_(nn.Linear(5, outputs), k, blocks=4) as guards:
        [(guard, *_)] = guards._layers.values()
        assert guard.checks.blocks == blocks


@pytest.mark.parametrize("outputs", [16, 30, 32])
@pytest.mark.parametrize("k", [1, 4])
def test_no_block_is_so_narrow_that_healthy_outputs_are_stopped(outputs, k):
    torch.manual_seed(0)
    layer, x = nn.Linear(16, outputs, bias=False), torch.randn(100_000, 16)
    with torch.no_grad(), guard_(layer, k, blocks=outputs, policy="raise") as guards:
        layer(x)
        assert guards.screened == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks_of_convolutions(layout):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 24, 3, groups=2).to(memory_format=layout)
    x = torch.randn(5, 8, 9, 7).to(memory_format=layout)
    with guard_(layer, 2, blocks=3) as guards, torch.no_grad():
        right = layer(x).clone()
        assert guards.events == ()
        with upset_(layer, Upset("offset", size=2.0)):
            torch.testing.assert_close(layer(x), right)
        assert {e.kind for e in guards.events} == {"corrected"}


def test_coarser_arithmetic_has_a_higher_threshold():
    one, none = torch.ones(1, 1, 1).double(), torch.zeros(1, 1, 1).double()
    noise = Noise(one, none, none[0], 1.0, 512, 512, 64)

    def tau(**arithmetic):
        return Threshold.of(noise, Arithmetic(**arithmetic)).tau

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
