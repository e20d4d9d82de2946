"""Products with a sparse H, the same on every kind of device: compared with the dense matrix."""

import numpy as np
import pytest
import torch

from parimend import kernels
from parimend.codes import Sparse
from parimend.kernels import sparse_numba, sparse_torch

CODE = Sparse(n=300, m=48, seed=3, weights=((2, 500), (3, 400), (9, 100)), own=3)
H = CODE.dense().astype(float)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [sparse_numba, sparse_torch])
@pytest.mark.parametrize(
    "elements",
    [slice(0, 300), slice(37, 190), slice(5, 5), np.array([7, 3, 299]), np.empty(0, np.int64)],
    ids=str,
)
def test_they_are_those_of_the_dense_matrix(rng, dtype, kind, elements):
    part = H[:, elements]
    values = torch.from_numpy(rng.normal(size=part.shape[1])).to(dtype)
    products = kind.Products(*CODE.columns.take(elements), CODE.m, values.device)
    found = products.multiply(values)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, part @ values.double().numpy(), rtol=1e-12, atol=1)
    y = rng.normal(size=CODE.m) / CODE.unit
    expected = values.double().numpy() - part.T @ y
    products.subtract_transposed(y, values)
    accuracy = 1e-6 if dtype == torch.float32 else 1e-14
    np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=accuracy)


def test_every_device_but_the_cpu_takes_operations_of_torch():
    assert kernels.on("sparse", "cpu") is sparse_numba
    assert kernels.on("sparse", "cuda") is kernels.on("sparse", "mps") is sparse_torch
