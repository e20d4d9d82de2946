"""Whatever the arithmetic, rounding is no fault, and faults are seen."""

import pytest
import torch
from torch import nn

from parimend.guards import guard_
from parimend.guards.arithmetic import arithmetic
from parimend.upsets import Upset, upset_


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(128, 96)


@pytest.fixture
def x():
    return torch.randn(100, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["old", "new"])
def in_bfloat16(request):
    """Float32 products may be rounded to 8 bits, said in either way that PyTorch has."""
    if request.param == "old":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        yield
        torch.set_float32_matmul_precision(before)
    else:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        yield
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"


class Coarse:
    """A processor that multiplies float32 numbers as if they were bfloat16."""

    def __init__(self, monkeypatch):
        def forward(module, x):
            W = module.weight.bfloat16().float()
            return nn.functional.linear(x.bfloat16().float(), W, module.bias)

        monkeypatch.setattr(nn.Linear, "forward", forward)


@pytest.mark.parametrize("sign", ["any", "positive"])
@pytest.mark.parametrize("impose", [False, True])
def test_products_in_bfloat16(layer, x, sign, impose, in_bfloat16, monkeypatch):
    Coarse(monkeypatch)
    with torch.no_grad():
        if sign == "positive":  # all outputs err in the same direction
            layer.weight.abs_()
            x = x.abs()
        with guard_(layer, 4, impose=impose, policy="record") as guards:
            layer(x)
            assert guards.events == ()
            assert 1e-3 < guards.floor[""] < 2
            with upset_(layer, Upset("offset", size=10 * guards.floor[""])):
                layer(x)
            assert len(guards.events) == len(x)


def test_settings_are_read_at_every_call(layer, x):
    with guard_(layer, 4) as guards:
        fine = guards.floor[""]
        torch.backends.mkldnn.matmul.fp32_precision = "tf32"
        try:
            assert guards.floor[""] > 100 * fine
        finally:
            torch.backends.mkldnn.matmul.fp32_precision = "ieee"
        assert guards.floor[""] == fine
        with torch.autocast("cpu", torch.bfloat16):
            assert guards.floor[""] > 1000 * fine


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("impose", [False, True])
def test_autocasting_is_checked_as_finely_as_a_narrow_layer(layer, x, dtype, impose):
    with (
        guard_(layer, 4, impose=impose) as guards,
        torch.autocast("cpu", dtype),
        torch.no_grad(),
    ):
        cast = guards.floor[""]
        with upset_(layer, Upset("offset", size=2.0 * cast)):
            layer(x)
        assert len(guards.events) == len(x)
    with guard_(layer.to(dtype), 4) as guards:
        assert 0.5 < guards.floor[""] / cast < 1.1


def test_float32_checks_of_narrow_outputs_may_be_coarse_too():
    y = torch.ones(1, dtype=torch.float16)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        found = arithmetic(y, convolution=False)
        assert (found.factors, found.checks) == (0.0, 2.0**-8)
        assert arithmetic(y, convolution=False) is found
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"


@pytest.mark.parametrize(
    ("dtype", "setting", "changed"),
    [
        (torch.bfloat16, "allow_bf16_reduced_precision_reduction", {"roundings": 1}),
        (torch.float16, "allow_fp16_reduced_precision_reduction", {"roundings": 1}),
        (torch.float16, "allow_fp16_accumulation", {"sums": 2.0**-11}),
    ],
)
def test_settings_of_a_gpu(monkeypatch, dtype, setting, changed):
    class Settings:
        allow_bf16_reduced_precision_reduction = True
        allow_fp16_reduced_precision_reduction = True
        allow_fp16_accumulation = False

    class There:
        is_cuda = True

    There.dtype = dtype
    monkeypatch.setattr(torch.backends.cuda, "matmul", Settings)
    usual = arithmetic(There, convolution=False)
    assert usual.roundings == 3
    monkeypatch.setattr(Settings, setting, not getattr(Settings, setting))
    assert arithmetic(There, convolution=False) == usual._replace(**changed)


def test_convolutions_have_a_setting_of_their_own():
    y = torch.ones(1)
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    try:
        assert arithmetic(y, convolution=True).factors == 2.0**-8
        assert arithmetic(y, convolution=False).factors == 0.0
        assert arithmetic(y.double(), convolution=True).factors == 0.0
    finally:
        torch.backends.mkldnn.conv.fp32_precision = "ieee"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocasting_rounds_inputs_and_weights(layer, x, dtype):
    with torch.no_grad(), torch.autocast("cpu", dtype):
        layer.weight.abs_()
        for scale in (1.0, 1e-6):
            with guard_(layer, 4) as guards:
                layer(scale * x.abs())
                assert guards.events == ()


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e-7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(96, 48, bias=False), (96,)),
        (lambda: nn.Conv2d(16, 32, 3, bias=False), (16, 6, 6)),
        (lambda: nn.Conv1d(256, 256, 3, groups=256), (256, 6)),
        (lambda: nn.ConvTranspose1d(32, 64, 3, groups=8, dilation=2), (32, 6)),
    ],
)
def test_rounding_alone_is_no_fault(make, shape, dtype, scale):
    torch.manual_seed(0)
    layer, x = make().to(dtype), (scale * torch.randn(200, *shape)).to(dtype)
    with guard_(layer, 4, policy="raise") as guards, torch.no_grad():
        layer(x)
        assert guards.events == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_that_are_taken_for_zero(layer, dtype):
    layer.bias = None
    x = torch.full((4, 128), 1e3 * torch.finfo(dtype).tiny, dtype=dtype)
    try:
        torch.set_flush_denormal(True)
        with guard_(layer.to(dtype), 4) as guards, torch.no_grad():
            layer(1e-3 * x), layer(x)
            assert guards.events == ()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_outputs_that_all_round_in_the_same_direction_are_no_fault(dtype):
    layer = nn.Linear(64, 512).to(dtype)
    nn.init.constant_(layer.weight, 0.1)
    nn.init.constant_(layer.bias, 0.3)
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    with guard_(layer, 1, policy="raise") as guards, torch.no_grad():
        layer(x)
        assert guards.events == ()
    with guard_(layer, 1) as guards, torch.no_grad():
        layer.weight[3] += 50.0
        layer(x)
        assert {e.action for e in guards.events} == {"suspect"}
