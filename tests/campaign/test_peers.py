"""Weights that other people's injectors corrupt are repaired, bit for bit."""

import copy

import pytest
import torch

import parimend as pm
from parimend.experiment import same_bits
from parimend.outcomes import Verdict


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )


@pytest.mark.parametrize("carrier", [pm.Sidecar(), pm.LowBits()], ids=lambda each: each.name)
def test_pytorchfi(carrier):
    from pytorchfi.core import fault_injection
    from pytorchfi.weight_error_models import random_weight_inj

    intact = network()
    seal = pm.protect_(intact, 4, carrier)
    injector = fault_injection(
        intact, 1, input_shape=[1, 8, 8], layer_types=[torch.nn.Conv2d, torch.nn.Linear]
    )
    for layer in (0, 1):
        corrupted = random_weight_inj(injector, corrupt_layer=layer, min_val=-100, max_val=100)
        assert not same_bits(corrupted, intact)
        assert pm.repair_(corrupted, seal).verdict is Verdict.CORRECTED
        assert same_bits(corrupted, intact)


@pytest.mark.parametrize("carrier", [pm.Sidecar(), pm.LowBits()], ids=lambda each: each.name)
def test_mrfi(carrier):
    from mrfi import MRFI, EasyConfig

    intact = network()
    seal = pm.protect_(intact, 8, carrier)
    corrupted = copy.deepcopy(intact)
    config = EasyConfig.load_preset("float_weight_fi")
    config.set_selector(0, {"method": "RandomPositionByNumber", "n": 3})
    config.faultinject[0]["module_name"] = []
    with torch.no_grad():
        MRFI(corrupted, config)(torch.ones(2, 1, 8, 8))
    assert not same_bits(corrupted, intact)
    assert pm.repair_(corrupted, seal).verdict is Verdict.CORRECTED
    assert same_bits(corrupted, intact)
