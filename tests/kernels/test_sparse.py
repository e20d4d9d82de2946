"""Products with a sparse H, the same on every kind of device: compared with the dense matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend import kernels
from parimend.codes import Sparse
from parimend.hashing import stream_key, words
from parimend.kernels import hashing_numba, sparse_numba, sparse_torch

CODE = Sparse(n=300, m=48, seed=3, weights=((2, 500), (3, 400), (9, 100)), own=3)
H = CODE.dense().astype(float)
MASK = (1 << 64) - 1


def below(bits, bound):
    return (bits >> 32) * bound >> 32


def plain_supports(lengths, m, imposed, own, key):
    """One column after the other, as the construction is defined."""
    stream = words(key, 0, 20_000).tolist()
    hashed = [int(hashing_numba.word.py_func(key, np.uint64(MASK - check))) for check in range(m)]
    load, seen, found, at = [0] * m, set(), [], 0
    for i, length in enumerate(lengths):
        owner = [i // own] if i // own < imposed else []
        low, tries = (owner[0] + 1 if owner else 0), 0
        while True:
            support = list(owner)
            while len(support) < length:
                k, other = (low + below(stream[at + j], m - low) for j in (0, 1))
                at += 2
                if tries < 8 and load[other] < load[k]:
                    k = other
                if k not in support:
                    support.append(k)
            mark = sum(hashed[check] for check in support) & MASK | 1
            if mark not in seen:
                break
            tries += 1
        seen.add(mark)
        for check in support:
            load[check] += 1
        found += sorted(support)
    return found


@settings(max_examples=40)
@given(
    m=st.integers(7, 12),
    light=st.integers(2, 3),
    counts=st.tuples(st.integers(1, 15), st.integers(0, 15)),
    imposed=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_columns_drawn_ahead_are_those_drawn_one_by_one(m, light, counts, imposed, seed):
    lengths = [light] * counts[0] + [light + 1] * counts[1]
    start = np.concatenate([[0], np.cumsum(lengths)])
    row, seen = np.empty(start[-1], np.int32), np.zeros(64, np.uint64)
    key = stream_key(seed, 5)
    with np.errstate(over="ignore"):
        expected = plain_supports(lengths, m, imposed, 2, key)
    sparse_numba.draw_supports(start, row, m, imposed, 2, key, seen)
    assert row.tolist() == expected
    assert np.count_nonzero(seen) == len(lengths)


def test_columns_are_moved(rng):
    lengths = rng.integers(0, 5, 50)
    start = np.concatenate([[0], np.cumsum(lengths)])
    row, order = rng.integers(0, 99, start[-1]).astype(np.int32), rng.permutation(50)
    moved, ends = np.empty_like(row), np.empty_like(start)
    sparse_numba.permute(start, row, order, ends, moved)
    for i, k in enumerate(order):
        np.testing.assert_array_equal(moved[ends[k] : ends[k + 1]], row[start[i] : start[i + 1]])


def test_the_lower_triangle_of_the_gram_matrix():
    found = sparse_numba.gram(*CODE.columns, CODE.m, 1 / CODE.unit)
    np.testing.assert_allclose(found, np.tril((H / CODE.unit) @ (H / CODE.unit).T), rtol=1e-12)


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
