from typing import get_args

import pytest
import torch
from torch import nn

from parimend.faults import FaultError
from parimend.upsets import Kind, Upset, upset_


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 16))


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def difference(model, x, upset, layer="0", **options):
    right = model.get_submodule(layer)(x)
    with upset_(model, upset, only=[layer], **options) as upsets, torch.no_grad():
        wrong = model.get_submodule(layer)(x)
    assert len(upsets.struck) == 1
    return (wrong - right), right


def test_the_same_seed_strikes_the_same_outputs(model, x):
    a, _ = difference(model, x, Upset("offset"), seed=1)
    b, _ = difference(model, x, Upset("offset"), seed=1)
    c, _ = difference(model, x, Upset("offset"), seed=2)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("count", [1, 3])
def test_single_outputs(model, x, count):
    error, right = difference(model, x, Upset("offset", count=count, size=0.5))
    assert (error != 0).flatten(1).sum(1).tolist() == [count] * 4
    rms = right.square().mean().sqrt()
    torch.testing.assert_close(error.abs().max(), 0.5 * rms)
    error, right = difference(model, x, Upset("relative", size=1e-3, count=count))
    where = error != 0
    torch.testing.assert_close(error[where], 1e-3 * right[where], rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 3])
def test_bits(dtype, bits):
    layer, x = nn.Linear(6, 5).to(dtype), torch.randn(7, 6, dtype=dtype)
    right = layer(x)
    with upset_(layer, Upset("bitflip", bits=bits)):
        wrong = layer(x)
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    flipped = right.detach().view(word) ^ wrong.detach().view(word)
    counts = [
        bin(v & (1 << 64) - 1 if v >= 0 else v & ((1 << 8 * dtype.itemsize) - 1)).count("1")
        for v in flipped.flatten().tolist()
    ]
    assert sorted(set(counts)) == [0, bits]
    assert sum(c > 0 for c in counts) == 7


def test_areas(model, x):
    error, _ = difference(model, x, Upset("row"))
    [place] = (error != 0).any(1).nonzero().tolist()
    assert (error[place[0], :, place[1], place[2]] != 0).all()
    error, right = difference(model, x, Upset("stuck", size=2.0))
    [channel] = (error != 0).any(0).flatten(1).any(1).nonzero().flatten().tolist()
    stuck = (error + right)[:, channel].detach()
    torch.testing.assert_close(stuck, torch.full_like(stuck, float(stuck.mean())))
    error, _ = difference(model, torch.randn(9, 288), Upset("tile", size=4), "2")
    rows, columns = (error != 0).any(1), (error != 0).any(0)
    assert (int(rows.sum()), int(columns.sum())) == (4, 4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(16, 9), (16,)),
        (nn.Conv1d(3, 4, 3), (3, 8)),
        (nn.Conv2d(3, 4, 3), (3, 6, 6)),
        (nn.ConvTranspose2d(3, 4, 3), (3, 6, 6)),
        (nn.Conv3d(3, 4, 3), (3, 5, 5, 5)),
    ],
)
def test_one_sample_without_a_batch_is_one_sample(layer, shape):
    x = torch.randn(shape)
    with torch.no_grad():
        right = layer(x)
        for kind in ("bitflip", "relative", "offset", "tile"):
            with upset_(layer, Upset(kind)) as upsets:
                assert int((layer(x) != right).sum()) == 1
            assert upsets.struck == [("", 0)]
        with upset_(layer, Upset("row"), seed=3):
            wrong = layer(x)[None]
        with upset_(layer, Upset("row"), seed=3):
            assert torch.equal(layer(x[None]), wrong)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_nothing_is_struck_where_there_is_no_output(kind):
    layer = nn.Linear(16, 9)
    with upset_(layer, Upset(kind)) as upsets:
        assert layer(torch.ones(0, 16)).shape == (0, 9)
        assert upsets.struck == []
        layer(torch.ones(2, 16))
        assert upsets.struck == [("", 1)]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.MultiheadAttention])
def test_of_several_results_the_first_is_struck(kind, batch_first):
    module = kind(8, 4, batch_first=batch_first).eval()
    x = torch.randn(3, 5, 8)
    args = (x, x, x) if kind is nn.MultiheadAttention else (x,)
    with torch.no_grad():
        right = module(*args)
        with upset_(module, Upset("relative"), only=[""]) as upsets:
            wrong = module(*args)
    assert upsets.struck == [("", 0)]
    counts = (wrong[0] != right[0]).sum((1, 2) if batch_first else (0, 2))
    assert counts.tolist() == [1] * len(counts)  # in every sample
    torch.testing.assert_close(wrong[1:], right[1:])


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, x):
        return {"y": [(None, self.weight)], "x": x}


@pytest.mark.parametrize(
    "module", [nn.Identity(), nn.Dropout().eval(), nn.Flatten(), nn.Unflatten(1, (3, 1)), Weight()]
)
def test_what_a_module_gives_back_unchanged_stays_right_elsewhere(module):
    x = torch.ones(2, 3, requires_grad=True)
    with upset_(module, Upset("row"), only="") as upsets:
        y = module(x)
    assert upsets.struck == [("", 0)]
    assert (x == 1.0).all()
    if isinstance(module, Weight):
        assert (module.weight == 1.0).all()
        [(none, wrong)], same = y["y"], y["x"]
        assert none is None
        assert (wrong != 1.0).any()
        assert same is x
    else:
        assert (y != 1.0).any()


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Softmax(-1), nn.ReLU(inplace=True)])
def test_a_network_may_learn_with_wrong_activations(activation):
    """Its gradients are those of what it should have computed there."""
    model, x = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)), torch.ones(5, 3)
    [expected] = torch.autograd.grad(model[:2](x).sum(), model[0].weight)
    with upset_(model, Upset("offset"), only="1") as upsets:
        [found] = torch.autograd.grad(model[:2](x).sum(), model[0].weight)
        model(x).sum().backward()
    assert upsets.struck == [("1", 0), ("1", 1)]
    assert torch.equal(found, expected)


def test_an_output_whose_elements_share_memory():
    model = nn.Sequential(nn.Linear(3, 4), Gives(torch.ones(1, 4).expand(5, 4)))
    with upset_(model, Upset("relative"), only="1"):
        assert ((model[1]() != 1.0).sum(1) == 1).all()


def test_a_projection_that_its_attention_never_calls_is_left_out():
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(3, 5, 8)
    with torch.no_grad(), upset_(layer, Upset("row")) as upsets:
        layer(x)
    assert {name for name, _ in upsets.struck} == {"linear1", "linear2"}
    with pytest.raises(FaultError, match=r"out_proj is never called.*only='self_attn'"):
        upset_(layer, Upset("row"), only="*.out_proj")
    with pytest.raises(FaultError, match="out_proj is never called"):
        upset_(nn.MultiheadAttention(8, 2), Upset("row"))


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
def test_torchscript_is_refused_before_anything_is_struck():
    model, x = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.Linear(3, 3))), torch.ones(3)
    right = model(x)
    with pytest.raises(FaultError, match="1 is TorchScript, which takes no hooks"):
        upset_(model, Upset("row"), only="*")
    assert torch.equal(model(x), right)


def test_an_encoder_that_packs_padded_samples():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 5, 8)
    padding = torch.arange(5) >= torch.tensor([5, 3])[:, None]
    with torch.no_grad():
        right = encoder(x, src_key_padding_mask=padding)
        with upset_(encoder, Upset("stuck", size=9.0), only="layers.1.linear2") as upsets:
            wrong = encoder(x, src_key_padding_mask=padding)
        assert torch.equal(encoder(x, src_key_padding_mask=padding), right)
    assert upsets.struck == [("layers.1.linear2", 0)]
    assert ((wrong != right).any(2) == ~padding).all()


def test_one_call_in_so_many_and_an_end(model, x):
    right = model(x)
    with upset_(model, Upset("row"), every=3) as upsets, torch.no_grad():
        changed = [not torch.equal(model(x), right) for _ in range(6)]
    assert changed == [False, False, True] * 2
    assert upsets.struck == [("0", 2), ("2", 2), ("0", 5), ("2", 5)]
    assert torch.equal(model(x), right)


def test_operations(model, x):
    with torch.no_grad():
        right = model(x)
        with upset_(model, Upset("offset", size=0.1), operations=["addmm"]) as upsets:
            error = model(x) - right
            assert upsets.struck == [("addmm", 0)]
            assert ((error != 0).sum(1) == 1).all()
        with upset_(model, Upset("row"), operations=["convolution"], every=2) as upsets:
            assert torch.equal(model(x), right)
            assert not torch.equal(model(x), right)
            torch.relu(x)  # not in the model
        with upset_(model, Upset("row"), only=["0"], operations=["addmm"]) as upsets:
            model(x)
        assert upsets.struck == [("0", 0), ("addmm", 0)]
        assert torch.equal(model(x), right)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_text_is_one_pattern():
    x, model = torch.ones(2, 4), nn.Sequential(*[nn.Linear(4, 4) for _ in range(13)])
    with upset_(model, Upset("row"), only="12", operations="addmm", every=13) as upsets:
        model(x)
    assert upsets.struck == [("addmm", 12)]
    with upset_(model, Upset("row"), only="12") as upsets:
        model(x)
    assert upsets.struck == [("12", 0)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Upset("melt"),
        lambda: Upset("bitflip", count=0),
        lambda: Upset("tile", size=0.5),
        lambda: Upset("tile", size=float("nan")),
        lambda: Upset("tile", size=float("inf")),
        lambda: Upset("offset", size="x"),
        lambda: Upset("stuck", size=10**400),
        lambda: Upset("relative", size=0.0),
        lambda: Upset("bitflip", count=1.5),
        lambda: Upset("bitflip", bits=True),
        lambda: upset_(nn.Linear(2, 2), Upset("offset"), seed=-1),
        lambda: upset_(nn.Linear(2, 2), Upset("offset"), every=1.5),
        lambda: upset_(nn.ReLU(), Upset("row")),
        lambda: upset_(nn.Linear(2, 2), Upset("row"), only=["x"]),
        lambda: upset_(nn.Linear(2, 2), Upset("row"), every=0),
        lambda: upset_(nn.Linear(2, 2), Upset("row"), operations=["no_such_thing"]),
        lambda: upset_(nn.Linear(2, 2), Upset("row"), operations="t"),  # of a weight
    ],
)
def test_misuse(make):
    with pytest.raises(FaultError):
        make()


def test_more_than_there_is(x):
    layer = nn.Linear(2, 3)
    with upset_(layer, Upset("bitflip", count=4)), pytest.raises(FaultError, match="3 outputs"):
        layer(torch.ones(1, 2))


class Gives(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self):
        return self.what


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, "gives a NoneType without a tensor"),
        (torch.arange(3), "outputs are torch.int64"),
        (torch.eye(3).to_sparse(), "outputs are torch.float32, torch.sparse_coo"),
        (torch.ones(3, dtype=torch.complex128), "bits of torch.complex128"),
    ],
)
def test_outputs_that_cannot_be_struck_are_named(what, message):
    model = nn.Sequential(nn.Identity(), Gives(what))
    with (
        upset_(model, Upset("bitflip"), only="1"),
        pytest.raises(FaultError, match=f"^1:? {message}"),
    ):
        model[1]()
