"""The surgeon, against dense linear algebra."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from parimend.codes import RealCode, Sparse
from parimend.codes.gaussian import Gaussian
from parimend.errors import MismatchError, SpecError
from parimend.impose import moments as moments_module
from parimend.impose.moments import CalibrationWarning, Moments, second_moments
from parimend.impose.surgeon import BlockMetric, project
from parimend.layers.linear import LinearProduct
from parimend.words.layout import Part, split, whole

Floats = NDArray[np.float64]


class Net(nn.Module):
    """One of each kind: grouped convolution, norm, Linear with and without bias, something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(24, 7)
        self.head = nn.Linear(7, 5, bias=False)
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.head(torch.relu(self.fc(x))) * self.gain.mean()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(1)
    return Net()


@pytest.fixture(scope="module")
def moments(net: Net) -> Moments:
    torch.manual_seed(2)
    return second_moments(net, [torch.randn(500, 4, 4, 4) + 0.5])


def parts_of(net: nn.Module, *names: str) -> list[Part]:
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    chosen = [whole(name, "F32", shapes[name]) for name in names or shapes]
    return [dataclasses.replace(p, exponent=-4 - i) for i, p in enumerate(chosen)]


def cut(part: Part, start: int, count: int) -> Part:
    return dataclasses.replace(part, start=start, count=count)


def dense_metric(moments: Moments, parts: Sequence[Part], damping: float) -> Floats:
    """M, element by element: two elements meet if they belong to one row of one layer."""
    n = sum(part.count for part in parts)
    M = np.diag(np.full(n, moments.scale))
    elements = [(part, part.index(i)) for part in parts for i in range(part.count)]
    for i, (a, at) in enumerate(elements):
        layer = moments.layers.get(a.name)
        for j, (b, bt) in enumerate(elements):
            if layer is not None and moments.layers.get(b.name) is layer and at[0] == bt[0]:
                S = layer.moment[at[0] // (layer.shape[0] // len(layer.moment))]
                S = S if S.ndim == 2 else np.diag(S)
                S = S + damping * np.mean(layer.diagonal) * np.eye(len(S))
                row, column = (
                    np.ravel_multi_index(t[1:], layer.shape[1:]) if len(t) > 1 else -1
                    for t in (at, bt)
                )
                M[i, j] = S[row, column]
    steps = np.array([math.ldexp(1.0, part.exponent) for part, _ in elements])
    return M * np.outer(steps, steps)


def kkt(H: Floats, M: Floats, x: Floats, target: Floats) -> Floats:
    """Minimum of (x' - x)^T M (x' - x) with H x' = target, with the multipliers."""
    M = M / np.abs(M).max()
    system = np.block([[2 * M, H.T], [H, np.zeros((len(H), len(H)))]])
    return np.linalg.solve(system, np.concatenate([2 * M @ x, target]))[: len(x)]


def matrix(code: RealCode) -> Floats:
    return np.column_stack([code.matvec(unit) for unit in np.eye(code.n)])


def codes_for(n: int) -> list[RealCode]:
    """A dense code, and a sparse one where there is one."""
    sparse = [Sparse(n=n, m=n // 5, own=2, free=8, weights=((3, 1000),))] if n > 50 else []
    return [Gaussian(n=n, m=n // 3), *sparse]


WORDS = {
    "linear": lambda net: parts_of(net, "fc.weight", "fc.bias"),
    "bias first": lambda net: parts_of(net, "fc.bias", "head.weight", "fc.weight"),
    "weight alone": lambda net: parts_of(net, "fc.weight"),
    "no weight": lambda net: parts_of(net, "gain", "fc.bias", "norm.bias", "norm.weight"),
    "grouped convolution": lambda net: parts_of(net, "conv.weight", "conv.bias"),
    "everything": lambda net: parts_of(net),
    "cut rows": lambda net: [
        cut(parts_of(net, "fc.weight")[0], 17, 90),
        cut(parts_of(net, "fc.bias")[0], 2, 3),
        cut(parts_of(net, "conv.weight")[0], 40, 31),
    ],
    "two cuts of one row": lambda net: [
        cut(parts_of(net, "fc.weight")[0], 26, 10),
        cut(parts_of(net, "fc.weight")[0], 3, 5),
        cut(parts_of(net, "fc.weight")[0], 38, 30),
    ],
    "one row": lambda net: split(parts_of(net, "fc.weight", "fc.bias"), "row")[3],
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("damping", [1e-2, 1.0])
def test_dense_oracle(word: str, damping: float, net: Net, moments: Moments) -> None:
    parts = WORDS[word](net)
    M = dense_metric(moments, parts, damping)
    metric = BlockMetric(moments, parts, damping)
    rng = np.random.default_rng(0)
    v = rng.normal(size=len(M))
    np.testing.assert_allclose(M @ metric.solve(v), v, atol=1e-9)
    for code in codes_for(len(M)):
        x = 1e4 * rng.normal(size=code.n)
        for target in (None, code.matvec(1e3 * rng.normal(size=code.n))):
            before = x.copy()
            moved = project(code, x, metric, target)
            np.testing.assert_array_equal(x, before)
            goal = np.zeros(code.m) if target is None else target
            assert np.abs(code.matvec(moved) - goal).max() < 1e-9
            np.testing.assert_allclose(moved, kkt(matrix(code), M, x, goal), atol=1e-3)


def test_layers_with_a_diagonal_only(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    monkeypatch.setattr(moments_module, "LARGEST", 0)
    with pytest.warns(CalibrationWarning, match="too large"):
        moments = second_moments(net, [torch.randn(500, 4, 4, 4)])
    parts = WORDS["cut rows"](net)
    M = dense_metric(moments, parts, 0.01)
    v = np.random.default_rng(0).normal(size=len(M))
    np.testing.assert_allclose(M @ BlockMetric(moments, parts, 0.01).solve(v), v, atol=1e-9)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    damping=st.floats(1e-6, 1e3),
    start=st.integers(0, 60),
    count=st.integers(10, 100),
    tenths=st.integers(1, 9),
)
def test_never_costs_more_than_the_plain_projection(
    seed: int, damping: float, start: int, count: int, tenths: int
) -> None:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(12, 9)) * 10 ** rng.uniform(-3, 3, 9)  # rank 9 of 12
    layer = moments_module.LayerMoments(
        "w", "b", (14, 11), (factor @ factor.T)[None], LinearProduct()
    )
    moments = Moments(9, {"w": layer, "b": layer})
    parts = [
        Part("w", "F32", (14, 11), start, min(count, 154 - start), -3),
        Part("b", "F32", (14,), 2, 7, 1),
        Part("other", "F32", (5,), 0, 5, 0),
    ]
    M = dense_metric(moments, parts, damping)
    code = Gaussian(n=len(M), m=max(1, len(M) * tenths // 10), seed=seed)
    x = rng.normal(size=code.n)
    moved = project(code, x, BlockMetric(moments, parts, damping))
    assert np.abs(code.matvec(moved)).max() < 1e-9
    best, plain = (d @ M @ d for d in (moved - x, code.project(x) - x))
    assert best <= plain * (1 + 1e-9)


class Identity:
    def solve(self, v: Floats) -> Floats:
        return v


@pytest.mark.parametrize("code", codes_for(100))
def test_without_preferences_it_is_the_plain_projection(code: RealCode) -> None:
    x = np.random.default_rng(1).normal(size=code.n)
    np.testing.assert_allclose(project(code, x, Identity()), code.project(x), atol=1e-7)


@pytest.mark.parametrize("code", codes_for(100))
def test_the_first_checks_alone_are_met(code: RealCode) -> None:
    x, rows = np.random.default_rng(1).normal(size=code.n), code.m // 2
    np.testing.assert_allclose(
        project(code, x, Identity(), rows=rows), code.project(x, rows=rows), atol=1e-7
    )
    assert np.abs(code.matvec(project(code, x, Identity(), rows=rows)))[:rows].max() < 1e-9


def test_a_word_of_the_code_stays() -> None:
    code = codes_for(100)[0]
    assert not project(code, np.zeros(100), Identity()).any()
    x = code.project(np.random.default_rng(1).normal(size=100))
    np.testing.assert_allclose(project(code, x, Identity()), x, atol=1e-12)
    np.testing.assert_allclose(project(code, x, Identity(), code.matvec(x)), x, atol=1e-12)


def test_a_word_for_each_row_is_the_same_metric(net: Net, moments: Moments) -> None:
    parts = parts_of(net, "conv.weight", "conv.bias", "gain")
    rows = split(parts, "row")
    v = np.random.default_rng(0).normal(size=sum(p.count for row in rows for p in row))
    cuts = np.cumsum([sum(p.count for p in row) for row in rows])[:-1]
    alone = [
        BlockMetric(moments, row).solve(w) for row, w in zip(rows, np.split(v, cuts), strict=True)
    ]
    together = BlockMetric(moments, [p for row in rows for p in row]).solve(v)
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-9)


def test_misuse_is_refused(net: Net, moments: Moments) -> None:
    parts = parts_of(net, "fc.weight", "fc.bias")
    for damping in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(SpecError, match="damping must be a number above 0"):
            BlockMetric(moments, parts, damping)
    for other in (whole("fc.weight", "F32", (24, 7)), whole("fc.bias", "F32", (8,))):
        with pytest.raises(MismatchError, match=other.name):
            BlockMetric(moments, [other])
    metric = BlockMetric(moments, parts)
    with pytest.raises(SpecError, match="finite"):
        project(codes_for(175)[0], np.full(175, np.nan), metric)
    with pytest.raises(MismatchError, match=r"of shape \(175,\), not \(100,\)"):
        project(codes_for(100)[0], np.ones(100), metric)
    with pytest.raises(SpecError, match=r"has shape \(175,\), not \(100,\)"):
        project(codes_for(175)[0], np.ones(100), metric)


def test_targets_that_cannot_be_met_are_refused() -> None:
    class Twice(Gaussian):
        def matvec(self, x: Floats) -> Floats:
            return np.tile(self.matrix[0] @ x, 2)

        def rmatvec(self, y: Floats) -> Floats:
            return self.matrix[0] * y.sum()

    code = Twice(n=20, m=2)
    with pytest.raises(SpecError, match="close to dependent"):
        project(code, np.ones(20), Identity(), np.array([0.0, 1.0]))


def test_outputs_on_fresh_data_change_much_less() -> None:
    torch.manual_seed(4)
    mixing = torch.randn(10, 60)
    layer = nn.Linear(60, 20)
    moments = second_moments(layer, [torch.randn(500, 10) @ mixing + 0.1 * torch.randn(500, 60)])
    fresh = (torch.randn(500, 10) @ mixing + 0.1 * torch.randn(500, 60)).double().numpy()
    parts = [whole("weight", "F32", (20, 60))]
    x = layer.weight.detach().double().numpy().ravel()
    code = Gaussian(n=x.size, m=x.size // 5)

    def damage(moved: Floats) -> float:
        return float(np.linalg.norm(fresh @ (moved - x).reshape(20, 60).T))

    assert damage(project(code, x, BlockMetric(moments, parts))) < 0.2 * damage(code.project(x))
