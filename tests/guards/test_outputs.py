import pytest
import torch
from torch import nn

from parimend.codes.output import Output
from parimend.errors import SpecError
from parimend.guards.outputs import project_outputs, round_evenly


def test_the_nearest_weights_with_no_syndrome():
    P = torch.from_numpy(Output(n=20, m=3).matrix.copy())
    W = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near = project_outputs(W, P)
    assert (P @ near).abs().max() < 1e-13
    torch.testing.assert_close(project_outputs(near, P), near)
    # The change lies in the span of P, so it is orthogonal to every W with P W = 0.
    inside = project_outputs(torch.randn(20, 6, dtype=torch.float64), P)
    assert ((W - near) * inside).sum().abs() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_errors_do_not_add_up_over_the_outputs(dtype):
    """Weights of a new layer lie on a grid; one shift would round all of them the same way."""
    torch.manual_seed(0)
    W = nn.Linear(64, 512).weight.detach().to(dtype).to(torch.float64) + 2.0**-30
    rounded = round_evenly(W, dtype)
    unit = torch.finfo(dtype).eps * W.abs()
    assert rounded.dtype == dtype
    assert ((rounded - W).abs() <= unit).all()
    assert (rounded - W).sum(0).norm() <= 2 * torch.finfo(dtype).eps / 2 * W.norm()
    assert torch.equal(rounded, round_evenly(W, dtype))
    assert torch.equal(round_evenly(torch.zeros(3, 2).double(), dtype), torch.zeros(3, 2).to(dtype))


def test_shapes_that_do_not_fit():
    P = torch.from_numpy(Output(n=20, m=3).matrix.copy())
    with pytest.raises(SpecError, match="cannot meet checks"):
        project_outputs(torch.zeros(19, 6), P)
