"""The same check on every kind of device, compared with the plain one in float64."""

import numpy as np
import pytest
import torch

from parimend.kernels import screen_numba, screen_torch


class Screen:
    """The functions of a kind of device, for arrays."""

    def __init__(self, kind):
        self.kind = kind

    def __getattr__(self, name):
        def call(*arguments):
            def viewed(a):
                return self.kind.view(t := torch.from_numpy(a), t.dtype)

            return getattr(self.kind, name)(
                *(viewed(a) if isinstance(a, np.ndarray) else a for a in arguments)
            )

        return call


@pytest.fixture(params=[screen_numba, screen_torch], ids=["numba", "torch"])
def screen(request):
    return Screen(request.param)


def oracle(y, P, target, tau2):
    s = np.einsum("kc,ncp->nkp", P.astype(float), y.astype(float)) - target
    return ~((s**2).sum(1) <= tau2 * (y.astype(float) ** 2).sum(1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(3, 5, 1), (2, 33, 300), (1, 100, 7), (4, 64, 256)])
def test_kernels_find_what_the_oracle_finds(screen, rng, dtype, k, shape):
    samples, channels, positions = shape
    y = rng.normal(size=shape).astype(dtype)
    P = rng.normal(size=(k, channels)).astype(dtype)
    P[0] = 1
    goal = np.einsum("kc,ncp->nkp", P, y) + 0.01 * rng.normal(size=(samples, k, positions))
    goal = goal.astype(dtype)
    rows = [np.ascontiguousarray(np.moveaxis(a, 1, 2)).reshape(-1, a.shape[1]) for a in (y, goal)]
    for tau2 in (1e-1, 1e-7):
        assert screen.any_suspicious_plane(y, P, goal, tau2, 0.0) == oracle(y, P, goal, tau2).any()
        assert (
            screen.any_suspicious_row(rows[0], P, rows[1], tau2, 0.0)
            == oracle(y, P, goal, tau2).any()
        )
    none = np.empty((0, k, 1), dtype)
    assert screen.any_suspicious_plane(y, P, none, 1e-3, 0.0) == oracle(y, P, 0, 1e-3).any()
    assert (
        screen.any_suspicious_row(rows[0], P, none[..., 0], 1e-3, 0.0)
        == oracle(y, P, 0, 1e-3).any()
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 3])
def test_the_target_of_a_product_is_computed_on_the_way(screen, rng, dtype, k):
    x, W, b = (rng.normal(size=shape).astype(dtype) for shape in ((9, 70), (40, 70), (40,)))
    P = rng.normal(size=(k, 40)).astype(dtype)
    P[0] = 1
    y, PW, Pb = x @ W.T + b, P @ W, P @ b
    assert not screen.any_suspicious_product(y, P, x, PW, Pb, 1e-8, 0.0)
    for value in (y[4, 7] + 0.1, np.nan, np.inf):
        wrong = y.copy()
        wrong[4, 7] = value
        assert screen.any_suspicious_product(wrong, P, x, PW, Pb, 1e-8, 0.0)
        assert not screen.any_suspicious_product(wrong[5:], P, x[5:], PW, Pb, 1e-8, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 3e38])
@pytest.mark.parametrize("place", [(0, 0, 0), (2, 39, 99), (1, 17, 50)])
def test_nothing_that_is_not_finite_or_huge_passes(screen, rng, value, place):
    y = rng.normal(size=(3, 40, 100)).astype(np.float32)
    P, none = np.ones((1, 40), np.float32), np.empty((0, 1, 1), np.float32)
    y -= y.mean(1, keepdims=True)
    rows = np.moveaxis(y, 1, 2).copy()
    assert not screen.any_suspicious_plane(y, P, none, 1e-8, 0.0)
    assert not screen.any_suspicious_row(rows.reshape(-1, 40), P, none[..., 0], 1e-8, 0.0)
    y[place] = rows[place[0], place[2], place[1]] = value
    assert screen.any_suspicious_plane(y, P, none, 1e-8, 0.0)
    assert screen.any_suspicious_row(rows.reshape(-1, 40), P, none[..., 0], 1e-8, 0.0)


def test_the_screen_in_pytorch_agrees():
    from parimend.guards import guard_

    layer = torch.nn.Linear(30, 40)
    with guard_(layer, 3) as guards:
        [(guard, *_)] = guards._layers.values()
        x = torch.randn(10, 30)
        with torch.no_grad():
            y = layer(x)
            y[4, 5] += 1.0
        target = guard.checks.target(x, torch.Size(), torch.float32)
        mask = guard.checks.screen(guard.product.split(y), target, guard.checks.threshold(y))
        assert mask.nonzero().tolist() == [[4, 0]]


def test_what_is_small_in_absolute_terms_passes(screen, rng):
    y = rng.normal(size=(5, 40, 30)).astype(np.float32)
    P, none = np.ones((1, 40), np.float32), np.empty((0, 1, 1), np.float32)
    largest = np.square(y.sum(1, dtype=np.float64)).max()
    rows = np.moveaxis(y, 1, 2).copy().reshape(-1, 40)
    for part, suspicious in ((0.9, True), (1.1, False)):
        assert screen.any_suspicious_plane(y, P, none, 0.0, part * largest) == suspicious
        assert screen.any_suspicious_row(rows, P, none[..., 0], 0.0, part * largest) == suspicious
