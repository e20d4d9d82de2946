"""Projecting parameters where they are, compared with the projection of their word."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from parimend import kernels
from parimend.carriers import Chosen
from parimend.codes import Sparse
from parimend.errors import WordError
from parimend.kernels import sparse_torch
from parimend.stores.shards import Shards
from parimend.training.projection import Projection
from parimend.words.layout import Part, Word, whole

CODE = Sparse(n=900, m=64, seed=1)


def parameters(rng, dtype=torch.float32, order=torch.contiguous_format):
    weight = torch.from_numpy(rng.normal(size=(10, 8, 3, 3))).to(dtype).to(memory_format=order)
    return {"weight": weight, "bias": torch.from_numpy(rng.normal(size=200)).to(dtype)}


def word():
    weight = Part("weight", "F32", (10, 8, 3, 3), 0, 720, -16)
    return Chosen(CODE, Word((weight, Part("bias", "F32", (200,), 10, 180))))


def value(tensors):
    weight = tensors["weight"].contiguous().double().numpy().ravel() * 2.0**16
    return np.concatenate([weight, tensors["bias"].double().numpy()[10:190]])


@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_projection_is_that_of_the_code(order, seed):
    tensors = parameters(np.random.default_rng(seed), torch.float64, order)
    outside = tensors["bias"][[*range(10), *range(190, 200)]].clone()
    before = value(tensors)
    projection = Projection(tensors, [word()], Shards(tensors))
    [checks] = projection.checks()
    np.testing.assert_allclose(checks, CODE.matvec(before), atol=1e-6)
    projection.project_([checks])
    np.testing.assert_allclose(value(tensors), CODE.project(before), rtol=1e-9, atol=1e-6)
    assert projection.residual() < 1e-9
    assert torch.equal(tensors["bias"][[*range(10), *range(190, 200)]], outside)
    assert tensors["weight"].is_contiguous(memory_format=order)


class Operations(TorchDispatchMode):
    """Counts what torch does, views apart."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += not function.is_view
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("layers", [1, 40])
def test_on_other_devices_a_word_takes_a_few_operations(rng, monkeypatch, layers):
    loops = kernels.on
    monkeypatch.setattr(
        kernels, "on", lambda *where: sparse_torch if len(where) == 2 else loops(*where)
    )
    shapes = [(900 // layers,)] * layers + [(900 % layers,)] * (layers > 1)
    tensors = {f"w{k}": torch.from_numpy(rng.normal(size=s)) for k, s in enumerate(shapes)}
    parts = tuple(whole(name, "F64", tuple(tensor.shape)) for name, tensor in tensors.items())
    projection = Projection(tensors, [Chosen(CODE, Word(parts))], Shards(tensors))
    projection.project_(projection.checks())  # makes what is kept
    tensors["w0"].add_(1.0)
    host = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: host.append(tensor) or tensor)
    with Operations() as operations:
        projection.project_(projection.checks())
    assert len(host) == 1  # the checks
    assert operations.count <= 30
    assert projection.residual() < 1e-6


def test_single_weights_are_read_set_and_told(rng):
    tensors = parameters(rng)
    projection = Projection(tensors, [word()], Shards(tensors))
    positions = np.array([0, 719, 720, 899])
    before = projection.get(0, positions)
    np.testing.assert_array_equal(before, value(tensors)[positions])
    now = np.array([1.0, -2.0, 3.0, -4.0])
    projection.set_(0, positions, now)
    np.testing.assert_array_equal(value(tensors)[positions], now)
    changes = projection.changes(0, positions, before, now)
    assert [(c.tensor, c.index) for c in changes] == [
        ("weight", (0, 0, 0, 0)),
        ("weight", (9, 7, 2, 2)),
        ("bias", (10,)),
        ("bias", (189,)),
    ]
    assert [c.value(c.original) for c in changes] == [2.0**-16, -(2.0**-15), 3.0, -4.0]


def test_what_is_no_number_or_out_of_range_is_wild(rng):
    tensors = parameters(rng)
    projection = Projection(tensors, [word()], Shards(tensors))
    assert projection.wild(0).size == 0
    tensors["weight"].view(-1)[[3, 700]] = torch.tensor([float("nan"), 2.0**3])
    tensors["bias"][[9, 10]] = float("-inf")  # the first is not in the word
    assert projection.wild(0).tolist() == [3, 700, 720]
    with pytest.raises(WordError, match="bias, weight has non-finite values after 7 steps"):
        projection.require_finite(projection.checks(), 7)
