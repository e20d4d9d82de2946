"""The contract of all rules: they say what their layers compute."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from parimend.layers import attention
from parimend.layers.registry import PRODUCTS, declared_product, product_of
from tests.layers.cases import LAYERS

MORE = {
    "conv1d, even, same": (nn.Conv1d(4, 6, 4, padding="same", dilation=2, groups=2), (2, 4, 9)),
    "conv2d, circular": (
        nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), padding_mode="circular"),
        (2, 4, 8, 7),
    ),
    "conv3d, uneven": (
        nn.Conv3d(2, 4, (2, 3, 1), (1, 2, 1), (1, 1, 0), groups=2),
        (3, 2, 4, 5, 3),
    ),
    "transposed 2d, uneven": (
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (0, 2), groups=2, dilation=(1, 2)),
        (2, 4, 5, 3),
    ),
    "transposed 1d, cut off": (nn.ConvTranspose1d(2, 3, 2, padding=3), (2, 2, 9)),
}
PROJECTED = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
PROJECTIONS = {"q_proj": 8, "k_proj": 6, "v_proj": 4, "out_proj": 8}


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def case(name):
    """A rule, the layer, its weight and bias, and inputs, in float64."""
    if name in PROJECTIONS:
        weight, bias = attention.parameters_of(copy.deepcopy(PROJECTED).double(), name)
        x = random(5, 3, PROJECTIONS[name])
        return attention.PROJECTION, lambda x: F.linear(x, weight, bias), weight, bias, x
    layer, shape = (LAYERS | MORE)[name]
    layer = copy.deepcopy(layer).double()
    return product_of(layer), layer, layer.weight, layer.bias, random(*shape)


@pytest.fixture(params=[*LAYERS, *MORE, *PROJECTIONS])
def layer(request):
    with torch.no_grad():
        yield case(request.param)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3, 6])
def test_so_many_places_of_a_transposed_kernel_meet(kernel, stride, dilation):
    layer = nn.ConvTranspose2d(1, 1, (kernel, 2), (stride, 2), bias=False, dilation=(dilation, 2))
    nn.init.ones_(layer.weight)
    assert product_of(layer).overlaps == int(layer(torch.ones(1, 1, 40, 9)).max())
    assert product_of(nn.Conv2d(1, 1, kernel)).overlaps == 0


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_matrix_times_what_it_is_multiplied_with_is_the_output(layer):
    product, run, weight, bias, x = layer
    y = run(x)
    rows = product.unfold(product.samples(x), product.size(y))
    W = product.matrix(weight)
    assert rows.shape[0] == W.shape[0] == product.groups
    found = W @ rows.mT  # (groups, outputs / groups, samples * positions)
    split = product.split(y)
    found = found.flatten(0, 1).reshape(split.shape[1], len(split), -1).transpose(0, 1)
    close(found if bias is None else found + bias[:, None], split)


def test_the_axis_is_that_of_the_outputs(layer):
    product, run, weight, _, x = layer
    y = run(x)
    assert y.shape[product.axis] == product.matrix(weight)[..., 0].numel()
    assert product.size(y) == y.shape[y.ndim - product.dims :]
    rows = y.movedim(product.axis, -1)
    close(rows.reshape(-1, rows.shape[-1]), product.split(y).mT.flatten(0, 1))


def test_weights_come_back_from_their_matrix(layer):
    product, _, weight, _, _ = layer
    assert torch.equal(product.weight(product.matrix(weight), weight), weight)
    numbers = torch.arange(weight.numel()).reshape(weight.shape)
    assert torch.equal(product.weight(product.matrix(numbers), numbers), numbers)


def test_it_runs_again(layer):
    product, run, weight, bias, x = layer
    y = run(x)
    again = product.run(product.samples(x), weight, bias, product.size(y))
    close(product.split(again), product.split(y))


def test_other_rows_are_multiplied_with_the_same_inputs(layer):
    product, run, weight, _, x = layer
    size, samples = product.size(run(x)), product.samples(x)
    rows, bias = random(product.groups, 3, product.matrix(weight).shape[-1]), random(3)
    expected = (rows @ product.unfold(samples, size).mT).sum(0)
    expected = expected.reshape(3, len(samples), -1).transpose(0, 1) + bias[:, None]
    for multiply in (product.multiply, product.multiply_fused):
        found = multiply(samples, rows, bias, size)
        close(found.flatten(2) if size else found[..., None], expected)
        found = multiply(samples, rows[:, :1], None, size)
        without = (expected - bias[:, None])[:, :1]
        close(found.flatten(2) if size else found[..., None], without)


def test_an_output_size_that_was_asked_for():
    layer, x = nn.ConvTranspose2d(2, 3, 3, stride=3).double(), random(2, 2, 4, 5)
    product = product_of(layer)
    with torch.no_grad():
        y = layer(x, output_size=(14, 17))
        found = product.matrix(layer.weight) @ product.unfold(x, product.size(y)).mT
        found = found[0].reshape(3, 2, -1).transpose(0, 1) + layer.bias[:, None]
        close(found, product.split(y))
        close(product.run(x, layer.weight, layer.bias, product.size(y)), y)


def test_every_layer_type_is_among_them():
    assert {type(layer) for layer, _ in (LAYERS | MORE).values()} == set(PRODUCTS)


def test_a_forward_of_its_own_may_compute_something_else():
    class Quantized(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.round(), self.bias)

    wrapped = nn.Linear(2, 3)
    wrapped.forward = lambda x: x
    for layer in (Quantized(2, 3), wrapped):
        assert product_of(layer) is None
        assert declared_product(layer) == product_of(nn.Linear(2, 3))
    assert declared_product(nn.Embedding(2, 3)) is product_of(nn.ReLU()) is None
