"""Every layer type: what it puts out is unchanged, an error is seen, located and corrected."""

import copy

import pytest
import torch
from torch import nn

from parimend.guards import guard_
from parimend.kernels import screen_torch
from parimend.upsets import Upset, upset_
from tests.layers.cases import LAYERS


@pytest.fixture(params=LAYERS, autouse=True)
def case(request):
    layer, shape = LAYERS[request.param]
    generator = torch.Generator().manual_seed(1)
    return copy.deepcopy(layer), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("impose", [False, True])
def test_without_a_fault_nothing_happens(case, k, impose):
    layer, x = case
    right = layer(x)
    with guard_(layer, k, impose=impose) as guards:
        y = layer(x)
        assert guards.events == ()
        assert guards.screened == 0
        [cover] = guards.coverage()
        assert cover.cover == ("imposed" if impose else "kept")
    if not impose:
        assert torch.equal(y, right)
    assert torch.equal(layer(x), y)


@pytest.mark.parametrize("impose", [False, True])
def test_imposed_outputs_lie_in_the_code(case, impose):
    layer, x = case
    with guard_(layer, 3, impose=impose) as guards:
        [(guard, *_)] = guards._layers.values()
        y = guard.product.split(layer(x)).double()
        s = torch.einsum("kc,ncp->nkp", torch.from_numpy(guard.code.matrix.copy()), y)
        want = (
            torch.zeros_like(s)
            if impose
            else guard.checks.target(x, layer(x).shape[-guard.product.dims or 9 :], torch.float64)
        )
        torch.testing.assert_close(s, want.double(), rtol=0, atol=1e-5)


def batched(layer, x):
    """Faults count samples along the first axis."""
    return x.unsqueeze(0) if x.dim() == 1 or (x.dim() == 3 and isinstance(layer, nn.Conv2d)) else x


@pytest.mark.parametrize("kind", ["offset", "row", "stuck"])
@pytest.mark.parametrize(("k", "impose"), [(1, True), (4, True), (4, False)])
def test_an_error_is_corrected(case, k, impose, kind):
    layer, x = case
    x = batched(layer, x)
    with guard_(layer, k, impose=impose) as guards, torch.no_grad():
        right = layer(x)
        with upset_(layer, Upset(kind, size=0.05 if kind == "offset" else 3.0)):
            y = layer(x)
        assert guards.events
        assert {e.kind for e in guards.events} <= {"corrected", "recomputed"}
        if k == 4 and kind == "offset":
            assert all(e.kind == "corrected" and len(e.channels) == 1 for e in guards.events)
        torch.testing.assert_close(y, right, rtol=0, atol=1e-5)


def test_other_memory_orders_are_checked_the_same_way(case):
    layer, x = case
    if x.dim() != 4 or not isinstance(layer, nn.Conv2d):
        return
    with guard_(layer, 4) as guards, torch.no_grad():
        right = layer(x)
        for order in (torch.channels_last, torch.contiguous_format):
            layer.to(memory_format=order)
            with upset_(layer, Upset("offset", size=0.05)):
                y = layer(x.to(memory_format=order))
            torch.testing.assert_close(y, right, rtol=0, atol=1e-5)
        assert len(guards.events) == 2 * len(x)


@pytest.mark.parametrize("impose", [False, True])
def test_another_device_screens_with_operations_of_torch(case, impose, monkeypatch):
    layer, x = case
    x = batched(layer, x)
    asked = []
    monkeypatch.setattr(
        "parimend.kernels.on", lambda operation, device: asked.append(operation) or screen_torch
    )
    with guard_(layer, 3, impose=impose, policy="record") as guards, torch.no_grad():
        layer(x)
        assert asked == ["screen"]
        assert guards.events == ()
        assert guards.screened == 0
        with upset_(layer, Upset("stuck", size=3.0)):
            layer(x)
        assert guards.events
