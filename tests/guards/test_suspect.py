"""How outputs are judged that a first look has stopped."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from parimend.guards import guard_
from parimend.guards.checks import Checks
from parimend.guards.layer import LayerGuard
from parimend.guards.suspect import Suspect
from parimend.removable import Hook


def suspects(guard: LayerGuard, x: torch.Tensor, y: torch.Tensor) -> Suspect:
    """All samples of a linear layer, as if the screen had stopped them."""

    def stop(checks, y, *rest):
        return torch.ones(len(y), y.shape[2], dtype=torch.bool)

    with mock.patch.object(Checks, "screen", stop):
        (found,) = Suspect.of(guard.checks_in(y.dtype), y, x)
    return found


def limits(suspect: Suspect) -> np.ndarray:
    """(samples * blocks,) float64, of the squares of all checks: from the covariance itself."""
    limit, P = suspect.limit, suspect.checks.code.matrix
    y = suspect.checks.by_block(suspect.y)[..., 0].numpy()
    total = np.maximum((y**2).sum(1), suspect.scale2[:, 0].numpy())
    # The largest power of two that is no more than a number.
    power = np.where(y == 0, 0, 2.0 ** np.floor(np.log2(np.where(y == 0, 1, abs(y)))))
    variances = limit.deviation**2 * y**2 + limit.rounding**2 * power**2
    own = [np.linalg.eigvalsh(P * each @ P.T)[-1] for each in variances]
    return np.maximum(limit.tau**2 * total, limit.rest**2 * total + own) + limit.least**2


@settings(max_examples=60)
@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from(["normal", "powers of two", "one is large", "zeros", "almost all alike"]),
    st.integers(0, 2**32),
)
def test_up_to_the_largest_eigenvalue_rounding_may_have_done_it(
    dtype, k, blocks, impose, kind, seed
):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(24, 32).to(dtype)
    with guard_(layer, k=k, blocks=blocks, impose=impose) as guards:
        ((guard, _),) = guards._layers.values()
        x = torch.randn(12, 24, generator=generator).to(dtype)
        y = torch.randn(12, 32, generator=generator)
        if kind == "powers of two":
            y = torch.exp2(torch.randint(-3, 3, y.shape, generator=generator)) * y.sign()
        elif kind == "one is large":
            y[torch.arange(12), torch.randint(32, (12,), generator=generator)] *= 2.0**10
        elif kind == "zeros":
            y[:, ::3] = 0.0
        elif kind == "almost all alike":
            y = 3.0 + 0.01 * y
        suspect = suspects(guard, x, y.to(dtype))
        limit = limits(suspect)
        # Syndromes on both sides of it, some close by and some far away.
        sizes = torch.tensor([0.0, 0.3, 0.9, 0.999, 1.001, 1.1, 2.0, 1e3, 1e-3, 0.6, 1.5, math.inf])
        sizes = sizes.double().repeat_interleave(blocks)
        away = torch.randn(len(limit), k, 1, generator=generator, dtype=torch.float64)
        away *= (torch.tensor(limit).sqrt() * sizes / away.norm(dim=(1, 2)))[:, None, None]
        suspect.target = guard.checks_in(dtype).syndrome(suspect.checks.by_block(suspect.y), None)
        suspect.target = suspect.target - away
        assert suspect.failed()[:, 0].tolist() == (sizes > 1.0).tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_rounding_makes_outputs_that_are_not_finite(value):
    layer = nn.Linear(8, 16)
    with guard_(layer, k=3) as guards, torch.no_grad():
        ((guard, _),) = guards._layers.values()
        x = torch.ones(2, 8)
        y = layer(x).clone()
        y[1, 5] = value
        assert suspects(guard, x, y).wrong()[:, 0].tolist() == [False, True]


@pytest.mark.parametrize("samples", [1, 5])
def test_what_no_check_has_seen_is_put_right_with_what_they_have(samples):
    """Two errors that cancel are not noticed, until another one in the same sample is."""
    layer, x = nn.Conv1d(4, 32, 3), torch.randn(samples, 4, 9)

    def hook(module, args, y):
        y[:, 5, 0] += 50.0  # alone
        y[:, 3, 4] += 50.0
        y[:, 7, 4] -= 50.0  # in the same block

    with guard_(layer, k=1, blocks=2) as guards, torch.no_grad():
        right = layer(x)
        layer.register_forward_hook(Hook(hook), prepend=True)
        torch.testing.assert_close(layer(x), right, rtol=0, atol=1e-5)
        assert [event.channels for event in guards.events] == [(3, 5, 7)] * samples
        assert {event.positions for event in guards.events} == {((0,),)}
