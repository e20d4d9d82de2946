"""Calibration: what the layers see, and that the model does not notice."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parimend.errors import CalibrationError
from parimend.impose import moments as module
from parimend.impose.moments import (
    CalibrationWarning,
    LayerMoments,
    second_moments,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def measure(model: nn.Module, batches: Any, **kwargs: Any) -> module.Moments:
    """The moments, without the warning that the inputs are few."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ calibration inputs", CalibrationWarning)
        return second_moments(model, batches, **kwargs)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def change(layer: LayerMoments, weight: Tensor, bias: Tensor | None) -> float:
    """What the moments say about moving the weights so: sum over rows of d^T S d."""
    d = layer.product.matrix(weight).flatten(0, 1)
    d = d if bias is None else torch.cat([d, bias[:, None]], 1)
    groups = layer.group(np.arange(len(d)))
    return sum(float(row @ layer.moment[g] @ row) for row, g in zip(d.numpy(), groups, strict=True))


def moved(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer with these changes instead of its weights: its output is the change of output."""
    other = copy.deepcopy(layer).double()
    with torch.no_grad():
        other.weight.copy_(weight)  # type: ignore[operator, union-attr]
        if bias is not None:
            other.bias.copy_(bias)  # type: ignore[operator, union-attr]
    return other


LAYERS = [
    (nn.Linear(5, 4), (7, 5)),
    (nn.Linear(5, 4, bias=False), (7, 3, 2, 5)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (5, 4, 9)),
    (nn.Conv1d(4, 4, 3, groups=4, padding="same", dilation=2, bias=False), (5, 4, 9)),
    (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (4, 3, 7, 8)),
    (nn.Conv2d(4, 8, 3, padding=2, padding_mode="circular", groups=4), (4, 4, 5, 6)),
    (nn.Conv2d(2, 3, 1, padding="valid"), (4, 2, 5, 6)),
    (nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(1, 1, 0), groups=2), (3, 2, 4, 5, 3)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, bias=False), (5, 4, 6)),
    (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), (4, 4, 5, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v)[:60])
def test_the_moments_foretell_how_outputs_change(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = random(*shape)
    seen = measure(layer.double(), [x]).layers["weight"]
    weight = random(*seen.shape)
    bias = random(seen.rows) if seen.bias else None
    with torch.no_grad():
        truth = float(moved(layer, weight, bias)(x).square().sum()) / len(x)
    assert change(seen, weight, bias) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v)[:60])
def test_every_element_has_its_place_in_the_matrix(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    seen = measure(layer.double(), [random(*shape)]).layers["weight"]
    weight = random(*seen.shape)
    matrix = seen.product.matrix(weight).flatten(0, 1)
    start, count = 3, weight.numel() - 5
    row, column = seen.places(start, count)
    assert torch.equal(matrix[row, column], weight.flatten()[start : start + count])
    assert matrix.shape == (seen.rows, seen.width)


def test_moments_of_a_convolution_are_those_of_the_unfolded_image() -> None:
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).double()
    x = random(5, 4, 8, 7)
    columns = F.unfold(x, 3, stride=2, padding=1).movedim(1, 2).reshape(-1, 2, 18)
    moment = measure(layer, [x]).layers["bias"].moment
    assert moment.shape == (2, 19, 19)
    for g in range(2):
        rows = torch.cat([columns[:, g], torch.ones(len(columns), 1)], 1)
        np.testing.assert_allclose(moment[g], (rows.mT @ rows / 5).numpy(), rtol=1e-12)


def test_batches_and_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(48, 2)).double()
    x = random(10, 2, 6, 6)
    whole = measure(model, [x])
    monkeypatch.setattr(module, "_UNFOLDED", 1500)
    pieces = measure(model, x.split(3))
    assert pieces.inputs == whole.inputs == 10
    for name, layer in whole.layers.items():
        np.testing.assert_allclose(pieces.layers[name].moment, layer.moment, rtol=1e-12)


def test_a_single_image_needs_no_batch_axis() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 2)

        def forward(self, x: Tensor) -> Any:
            return [self.conv(image) for image in x]

    x = torch.randn(4, 2, 6)
    a = measure(One(), [x]).layers["conv.weight"]
    b = measure(nn.Conv1d(2, 3, 2), [x]).layers["weight"]
    np.testing.assert_allclose(a.moment, b.moment, rtol=1e-6)


def test_layers_called_twice_and_tied_weights_add_up() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(6, 3)
            self.a, self.b = nn.Linear(3, 6), nn.Linear(3, 6)
            self.a.weight = self.b.weight = self.table.weight

        def forward(self, x: Tensor) -> Any:
            return self.a(x), self.a(2 * x), self.b(input=3 * x)

    model, x = Tied().double(), random(8, 3)
    seen = measure(model, [x])
    # The name is the one that named_parameters gives, and only a's bias shares the block.
    assert set(seen.layers) == {"table.weight", "a.bias"}
    expected = np.zeros((4, 4))
    for factor, one in ((1, 1.0), (2, 1.0), (3, 0.0)):
        rows = np.hstack([factor * x.numpy(), np.full((8, 1), one)])
        expected += rows.T @ rows / 8
    np.testing.assert_allclose(seen.layers["table.weight"].moment[0], expected, rtol=1e-12)


def test_names_choose_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    assert set(measure(model, [x]).layers) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert set(measure(model, [x], names=["2.bias", "1.weight"]).layers) == {"2.weight", "2.bias"}
    with pytest.raises(CalibrationError, match=r"no parameter 2\.wieght"):
        measure(model, [x], names=["2.wieght"])


def test_without_layers_there_is_only_the_scale() -> None:
    seen = measure(nn.LayerNorm(3), [torch.randn(5, 3)])
    assert seen.layers == {}
    assert seen.scale == 1.0


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, flip: bool = False) -> Tensor:
        return self.layer(-x if flip else x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(len(x))),
        lambda x: [x, None],
        lambda x: {"flip": True, "x": x},
        lambda x: ({"x": x}, torch.zeros(len(x))),
    ],
)
def test_kinds_of_batches(wrap: Any) -> None:
    x = torch.randn(6, 3)
    seen = measure(Keywords(), [wrap(x)])
    assert seen.inputs == 6
    np.testing.assert_allclose(
        seen.layers["layer.weight"].moment[0, :3, :3], (x.T @ x / 6).numpy(), rtol=1e-5, atol=1e-6
    )


def test_no_more_batches_are_taken_than_needed() -> None:
    taken = []

    def batches() -> Iterator[Tensor]:
        for i in range(100):
            taken.append(i)
            yield torch.randn(300, 3)

    assert second_moments(nn.Linear(3, 2), batches(), samples=700).inputs == 900
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("batch", [[], "text", {"flip": True}, 3.0, torch.tensor(1.0), [[1, 2]]])
def test_other_batches_are_refused(batch: Any) -> None:
    with pytest.raises(CalibrationError, match="a batch must be a tensor"):
        second_moments(Keywords(), [batch])


def test_misuse_is_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(CalibrationError, match=r"give \[x\]"):
        second_moments(model, torch.randn(600, 3))
    with pytest.raises(CalibrationError, match="no calibration inputs"):
        second_moments(model, [])
    with pytest.raises(CalibrationError, match=r"layer of weight \(2, 3\) sees infinities or NaN"):
        second_moments(model, [torch.full((600, 3), torch.nan)])


def test_few_inputs_warn() -> None:
    with pytest.warns(
        CalibrationWarning, match="20 calibration inputs are few: give 500"
    ) as record:
        second_moments(nn.Linear(3, 2), [torch.randn(20, 3)])
    assert record[0].filename == __file__
    second_moments(nn.Linear(3, 2), [torch.randn(500, 3)])  # a warning would be an error


def test_layers_that_see_nothing_warn_by_name() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.dead = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + self.dead(0 * x)  # type: ignore[no-any-return]

    with pytest.warns(CalibrationWarning, match=r"the layers of idle\.weight, dead\.weight;"):
        seen = second_moments(Idle(), [torch.randn(500, 3)])
    assert set(seen.layers) == {"used.weight", "used.bias"}


def test_attention_is_measured_as_far_as_it_calls_its_layers() -> None:
    # Evaluation mode has a fast path around all layers, which hooks switch off.
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.warns(CalibrationWarning, match=r"layers of self_attn\.out_proj\.weight;"):
        seen = second_moments(block, [torch.randn(500, 3, 8)])
    assert {"linear1.weight", "linear2.bias"} <= set(seen.layers)


def test_large_layers_keep_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(500, 9)
    full = second_moments(nn.Linear(9, 2), [x])
    monkeypatch.setattr(module, "LARGEST", 10 * 10 * 8 - 1)
    with pytest.warns(CalibrationWarning, match=r"weight \(2, 9\): too large"):
        large = second_moments(nn.Linear(9, 2), [x])
    assert large.layers["weight"].moment.shape == (1, 10)
    np.testing.assert_allclose(large.layers["bias"].diagonal, full.layers["bias"].diagonal)
    assert large.scale == pytest.approx(full.scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_float64(dtype: torch.dtype) -> None:
    x = torch.randn(700, 4).to(dtype)
    wide = np.pad(x.double().numpy(), ((0, 0), (0, 1)), constant_values=1)
    seen = second_moments(nn.Linear(4, 3).to(dtype), x.split(7)).layers["weight"]
    np.testing.assert_allclose(seen.moment[0], wide.T @ wide / 700, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_does_not_notice(fails: bool) -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            assert not self.training
            if fails:
                raise RuntimeError("as the test wants it")
            return x

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), Picky())
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    if fails:
        with pytest.raises(RuntimeError, match="as the test"):
            second_moments(model, [torch.randn(500, 3)])
    else:
        second_moments(model, [torch.randn(500, 3)])
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
