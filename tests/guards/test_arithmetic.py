"""Whatever the arithmetic, rounding is no fault, and faults are seen."""

import copy
from contextlib import contextmanager

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from parimend.guards import guard_
from parimend.guards.arithmetic import arithmetic
from parimend.layers.registry import product_of
from parimend.removable import Hook
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
    layer, x = make().to(dtype), (scale * torch.randn(60, *shape)).to(dtype)
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
@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
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
        assert {e.kind for e in guards.events} == {"suspect"}


TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NARROW = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@contextmanager
def with_library(there):
    """`torch.backends.mkldnn.flags`, which sets, and warns of, much else."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(there)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@settings(max_examples=25)
def is_filled(layer, x, y):
    """Whether outputs that no product reaches are set: some of PyTorch 2.13, in bfloat16 with
    output padding, are what was in memory before, and guards tell it.
    """
    exact = copy.deepcopy(layer).double()
    with torch.autocast("cpu", enabled=False):
        right = exact(x.double())
        exact.weight.abs_()
        if exact.bias is not None:
            exact.bias.zero_()
        untouched = exact(x.abs().double()) == 0
    return torch.equal(y[untouched], right[untouched].to(y.dtype))


@given(
    dims=st.sampled_from([1, 2, 3]),
    dtype=st.sampled_from([*NARROW]),
    cast=st.booleans(),
    groups=st.sampled_from([1, 4]),
    geometry=st.lists(
        st.tuples(*(st.integers(1, most) for most in (5, 3, 2)), st.booleans()),
        min_size=3,
        max_size=3,
    ),
    bias=st.booleans(),
    library=st.booleans(),
    weights=st.sampled_from(["normal", "one place", "positive"]),
    kind=st.sampled_from(["normal", "relu", "sparse", "tiny"]),
    seed=st.integers(0, 99),
)
def test_narrow_sums_of_overlapping_products(
    dims, dtype, cast, groups, geometry, bias, library, weights, kind, seed
):
    torch.manual_seed(seed)
    kernel, stride, dilation, bordered = zip(*geometry[:dims], strict=True)
    steps = zip(stride, dilation, bordered, strict=True)
    border = [more * (max(step, wide) - 1) for step, wide, more in steps]
    layer = TRANSPOSED[dims - 1](8, 16, kernel, stride, 0, border, groups, bias, dilation)
    x = torch.randn(2, 8, *[6] * dims)
    with torch.no_grad():
        if weights == "one place":  # all partial sums are as large as the output
            layer.weight.flatten(2)[..., 1:] = 0.0
        elif weights == "positive":
            layer.weight.abs_()
    x = {
        "normal": x,
        "relu": x.relu(),
        "sparse": x * (torch.rand_like(x) < 0.1),
        "tiny": 1e-5 * x,
    }[kind]
    if not cast:
        layer, x = layer.to(NARROW[dtype]), x.to(NARROW[dtype])
    with (
        guard_(layer, 4, policy="record") as guards,
        torch.no_grad(),
        torch.autocast("cpu", NARROW[dtype], enabled=cast),
        with_library(library),
    ):
        y = layer(x)
        assert y.dtype == NARROW[dtype]
        assume(is_filled(layer, x, y))
        assert guards.events == ()
        # One wrong output, a few times the floor of the place with the largest outputs.
        size = 3 * guards.floor[""] * float(y.float().square().mean(1).max().sqrt())

        def hook(module, args, y):
            y[1].view(-1)[seed % y[1].numel()] += size

        layer.register_forward_hook(Hook(hook), prepend=True)
        layer(x)
        if kind != "tiny":  # next to the smallest numbers, where their distance is what counts
            [event] = guards.events
            assert event.sample == (1,)


def test_what_a_library_convolves_is_rounded_once(monkeypatch):
    y = torch.ones(1, dtype=torch.bfloat16)
    for there, reaches, roundings in [(True, False, 1), (True, True, 10), (False, False, 10)]:
        monkeypatch.setattr("parimend.guards.arithmetic._is_supported", lambda dtype, t=there: t)
        assert arithmetic(y, True, 9, reaches).roundings == roundings
        assert arithmetic(y, True, 0, reaches).roundings == 1
        assert arithmetic(y.float(), True, 9, reaches).roundings == 0
        assert arithmetic(y, True, 9, reaches) is arithmetic(y, True, 9, reaches)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (5, 1, 1), (5, 2, 2), (4, 3, 1)]
)
def test_roundings_bound_what_overlapping_sums_err_by(kernel, stride, dilation, bias):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(16, 16, kernel, stride, bias=bias, dilation=dilation).half()
    x = torch.randn(4, 16, 16, 16).half()
    product = product_of(layer)
    with torch.no_grad(), with_library(False):
        y = layer(x).double()
        used = arithmetic(y.half(), True, product.overlaps, product.reaches)
        error = (y - layer.double()(x.double())).square().mean() / y.square().mean()
    # Rounding errs by up to u times the power of two below a number, about u^2 / 6 in the mean.
    assert 0.4 < float(error) / (used.roundings * 2.0**-22 / 6) < 1.25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(64),
        torch.randn(64, 30).T,
        torch.randn(6, 5, 64),
        torch.randn(5, 6, 64).transpose(0, 1),
        torch.randn(2, 3, 5, 64),
        torch.randn(2, 64, 3, 5).permute(0, 2, 3, 1),
    ],
    ids=lambda x: f"{tuple(x.shape)}, {tuple(x.stride())}",
)
def test_a_bias_may_be_added_to_rounded_outputs(x, bias, dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 48, bias=bias).to(dtype), x.to(dtype)
    with guard_(layer, policy="raise") as guards, torch.no_grad():
        y, product = layer(x), layer(x) if not bias else nn.functional.linear(x, layer.weight)
        apart = bias and torch.equal(y, product + layer.bias)
        [(guard, *_)] = guards._layers.values()
        assert guard.checks.threshold(y, x).roundings == 1 + apart
        assert guard.checks.threshold(y).roundings == 1
        assert guard.checks.threshold(y.float(), x).roundings == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_equal_projections_of_an_attention_are_no_fault(dtype):
    attention = nn.MultiheadAttention(32, 2).to(dtype)
    for parameter in attention.parameters():
        nn.init.constant_(parameter, 0.37)
    with torch.no_grad(), guard_(attention, 2, blocks=2, policy="raise") as guards:
        for seed in range(10):
            x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)
            attention(x, x, x.transpose(0, 1).contiguous().transpose(0, 1))
        assert guards.events == ()
        assert guards.screened > 0
