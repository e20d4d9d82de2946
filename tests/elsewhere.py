"""Weights that say that they are on another device, and what leaves it."""

import pytest
import torch
from torch.utils._pytree import tree_map

from parimend.stores.model import ModelTensors


class Distant(torch.Tensor):
    """A tensor that says that it is elsewhere, computes on the CPU, and counts what is brought."""

    device = torch.device("xla", 0)
    is_meta = False
    brought = 0  # bytes, of all of them

    @staticmethod
    def __new__(cls, inner):
        # Known to be without memory, so that nothing can look at it behind our back.
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="meta"
        )

    def __init__(self, inner):
        self.inner = inner

    def data_ptr(self):
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}

        def inner(x):
            return x.inner if isinstance(x, Distant) else x

        result = function(*tree_map(inner, args), **tree_map(inner, kwargs))
        if function is torch.ops.aten._to_copy.default and "device" in kwargs:
            cls.brought += result.numel() * result.element_size()
            return result
        return tree_map(lambda x: cls(x) if isinstance(x, torch.Tensor) else x, result)


def state():
    torch.manual_seed(0)
    return {
        "weight": torch.randn(300, 200),
        "turned": torch.randn(40, 30, 20).permute(2, 0, 1),
        "half": torch.randn(7).bfloat16(),
        "scale": torch.tensor(0.5),
        "none": torch.empty(0, 3),
    }


@pytest.fixture
def brought(monkeypatch):
    """How many bytes left the device; what is written to it goes to the tensors inside."""
    write = ModelTensors.write

    def write_inside(self, *args):
        write(ModelTensors({name: tensor.inner for name, tensor in self.held.items()}), *args)

    monkeypatch.setattr(ModelTensors, "write", write_inside)
    Distant.brought = 0
    return lambda: Distant.brought
