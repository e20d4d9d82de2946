"""Buffers that are put back as they were, of all kinds."""

import math

import pytest
import torch
from torch import nn
from torch.ao.quantization import PerChannelMinMaxObserver

from parimend.stores.alone import left_alone
from parimend.stores.buffers import Buffers


class Own(torch.Tensor):
    pass


def made_in_inference_mode():
    with torch.inference_mode():
        return torch.ones(3)


WRITTEN = {
    "scalar": lambda: torch.tensor(3),
    "truth values": lambda: torch.tensor([True, False]),
    "no numbers": lambda: torch.full((2,), math.nan),
    "turned": lambda: torch.randn(2, 3).t(),
    "in 8 bits": lambda: torch.randn(3).to(torch.float8_e4m3fn),
    "complex": lambda: torch.randn(3, dtype=torch.cfloat),
    "without gradients": made_in_inference_mode,
    "empty": lambda: torch.zeros(0),
}
OTHERS = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
    "expanded": lambda: torch.randn(1).expand(4),
    "conjugated": lambda: torch.randn(3, dtype=torch.cfloat).conj(),
    "meta": lambda: torch.empty(3, device="meta"),
    "own class": lambda: torch.randn(3).as_subclass(Own),
}


def held(buffer):
    module = nn.Module()
    module.register_buffer("b", buffer)
    module.register_buffer("none", None)
    return module


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_written_is_put_back(kind, fails):
    module = held(WRITTEN[kind]())
    buffer, before = module.b, bits(module.b)
    buffers = Buffers(module)
    for _ in range(2):
        try:
            with buffers.kept():
                with torch.inference_mode():
                    module.b.fill_(1.0)
                module.b = torch.zeros(7)
                module.none = torch.zeros(1)
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
        assert module.b is buffer
        assert bits(module.b) == before
        assert module.none is None


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*:UserWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_no_kind_is_in_the_way(kind):
    module = held(OTHERS[kind]())
    buffer = module.b
    with left_alone(module, "nothing"), Buffers(module).kept():
        module.b = torch.zeros(7)
    assert module.b is buffer


def test_buffers_that_get_another_size_or_are_expanded_are_put_back():
    model, base = nn.Module(), torch.ones(1)
    model.register_buffer("expanded", base.expand(4))
    model.register_buffer("base", base)
    model.observer = PerChannelMinMaxObserver()
    with Buffers(model).kept():
        base.fill_(5.0)
        model.observer(torch.randn(3, 4))
        assert model.observer.min_val.shape == (3,)
    assert model.expanded.tolist() == [1.0] * 4
    assert model.observer.min_val.shape == (0,)
