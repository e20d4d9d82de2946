"""Products with a sparse H, the same on every kind of device: compared with the dense matrix."""

import numpy as np
import pytest
import torch

from parimend import kernels
from parimend.codes import Sparse
from parimend.kernels import sparse_numba, sparse_torch

CODE = Sparse(n=300, m=48, seed=3, weights=((2, 500), (3, 400), (9, 100)), own=3)
H = CODE.dense().astype(float)


@pytest.mark.parametrize(
    "dtypes", [[torch.float32], [torch.float64], [torch.float32, torch.float64]]
)
@pytest.mark.parametrize("kind", [sparse_numba, sparse_torch])
@pytest.mark.parametrize(
    "pieces",
    [
        [slice(0, 300)],
        [slice(37, 190), slice(5, 5), slice(0, 30)],
        [np.array([7, 3, 299]), np.empty(0, np.int64)],
        [slice(5, 5)],
    ],
    ids=str,
)
def test_they_are_those_of_the_dense_matrix(rng, dtypes, kind, pieces):
    steps = [2.0**-k for k in range(len(pieces))]
    word = rng.normal(size=300)
    values = [
        torch.from_numpy(word[each] * step).to(dtypes[k % len(dtypes)])
        for k, (each, step) in enumerate(zip(pieces, steps, strict=True))
    ]
    columns = [(CODE.columns.take(each), step) for each, step in zip(pieces, steps, strict=True)]
    products = kind.Products(columns, CODE.m, CODE.unit, values[0].device)
    found = products.multiply(values)
    assert found.dtype == np.float64
    parts = list(zip(pieces, steps, values, strict=True))
    checks = sum(H[:, each] @ (v.double().numpy() / step) for each, step, v in parts) / CODE.unit
    np.testing.assert_allclose(found, checks, rtol=1e-12, atol=1e-13)
    y = rng.normal(size=CODE.m)
    expected = [
        v.double().numpy() - step * (H[:, each].T @ y) / CODE.unit for each, step, v in parts
    ]
    products.subtract_transposed(y, values)
    for v, right in zip(values, expected, strict=True):
        accuracy = 1e-6 if v.dtype == torch.float32 else 1e-14
        np.testing.assert_allclose(v.numpy(), right, rtol=0, atol=accuracy)


def test_every_device_but_the_cpu_takes_operations_of_torch():
    assert kernels.on("sparse", "cpu") is sparse_numba
    assert kernels.on("sparse", "cuda") is kernels.on("sparse", "mps") is sparse_torch
