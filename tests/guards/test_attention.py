import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from parimend.guards import guard_, repeat


@pytest.fixture
def x():
    return torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("masks", list(itertools.product([False, True], [None, "2d", "3d"])))
def test_a_guarded_attention_computes_the_same(x, batch_first, weights, masks):
    attention = nn.MultiheadAttention(32, 4, kdim=8, vdim=16, batch_first=batch_first)
    key, value = torch.randn(3, 5, 8), torch.randn(3, 5, 16)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = masks[0]
    options = {"need_weights": weights, "key_padding_mask": padding if masks[0] else None}
    if masks[1] == "2d":
        options["attn_mask"] = torch.ones(5, 5, dtype=torch.bool).triu(1)
    elif masks[1] == "3d":
        options["attn_mask"] = torch.randn(12, 5, 5)
        options["key_padding_mask"] = padding.float() if masks[0] else None
    inputs = [a if batch_first else a.transpose(0, 1) for a in (x, key, value)]
    right = attention(*inputs, **options)
    with guard_(attention, 4) as guards:
        y = attention(*inputs, **options)
        assert guards.events == ()
        assert [c.cover for c in guards.coverage()] == ["kept"] * 4
    assert "forward" not in vars(attention)
    torch.testing.assert_close(y, right)


@pytest.mark.parametrize("mask", [None, torch.bool, torch.float32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_under_autocasting_are_of_the_same_dtype(x, mask, dtype):
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    options = {"attn_mask": None if mask is None else torch.ones(5, 5).triu(1).to(mask)}
    with torch.autocast("cpu", dtype):
        right = attention(x, x, x, **options)
        with guard_(attention, 4) as guards:
            y = attention(x, x, x, **options)
            assert guards.events == ()
    torch.testing.assert_close(y, right, rtol=0.05, atol=0.05)


def test_one_sample_without_a_batch(x):
    attention = nn.MultiheadAttention(32, 4, bias=False)
    right = attention(x[0], x[0], x[0], average_attn_weights=False)
    with guard_(attention, 4, impose=False):
        torch.testing.assert_close(attention(x[0], x[0], x[0], average_attn_weights=False), right)


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ([(3, 5, 32)] * 3, {"attn_mask": torch.ones(5, 5, dtype=torch.int64)}),
        ([(3, 5, 32)] * 3, {"attn_mask": torch.ones(5, 1)}),
        ([(3, 5, 32)] * 3, {"attn_mask": torch.ones(3, 4, 5, 5)}),
        ([(3, 5, 32)] * 3, {"key_padding_mask": torch.ones(3, 1)}),
        ([(3, 5, 32)] * 3, {"key_padding_mask": torch.ones(3, 5, dtype=torch.uint8)}),
        ([(3, 5, 32), (1, 5, 32), (1, 5, 32)], {}),
        ([(3, 5, 32), (3, 5, 32), (3, 1, 32)], {"need_weights": False}),
        ([(5, 32), (3, 5, 32), (3, 5, 32)], {}),
    ],
)
def test_what_an_attention_refuses_is_refused_as_before(shapes, options):
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    inputs = [torch.ones(shape) for shape in shapes]
    with pytest.raises((AssertionError, RuntimeError)) as refused:
        attention(*inputs, **options)
    with guard_(attention), pytest.raises(refused.type) as again:
        attention(*inputs, **options)
    assert str(again.value) == str(refused.value)


def test_a_mask_that_is_called_causal_is_taken_for_it(x):
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    options = {"attn_mask": torch.zeros(5, 5), "is_causal": True, "need_weights": False}
    right, _ = attention(x, x, x, **options)
    with guard_(attention):
        torch.testing.assert_close(attention(x, x, x, **options)[0], right)


@pytest.mark.parametrize("projection", range(4))
@pytest.mark.parametrize("impose", [False, True])
def test_every_projection_is_guarded(x, projection, impose, monkeypatch):
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    names = ["q_proj", "k_proj", "v_proj", "out_proj"]
    with guard_(attention, 4, impose=impose) as guards, torch.no_grad():
        right, _ = attention(x, x, x)
        calls, linear = itertools.count(), F.linear

        def wrong(*args):
            y = linear(*args)
            if y.shape == x.shape and next(calls) == projection:
                y[1, 2, 3] += 0.5
            return y

        monkeypatch.setattr(F, "linear", wrong)
        y, _ = attention(x, x, x)
        [event] = guards.events
        assert (event.layer, event.sample, event.channels) == (names[projection], (1, 2), (3,))
        torch.testing.assert_close(y, right)


@pytest.mark.parametrize("options", [{}, {"activations": True}, {"only": "layers.1.linear2"}])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("lengths", [(5, 3, 0), (2, 4, 3), (5, 5, 5), None])
def test_padded_positions_of_an_encoder_are_what_they_are_without_guards(x, options, norm, lengths):
    # Zero where PyTorch packs samples, and something else where it does not.
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32) if norm else None).eval()
    if norm:
        nn.init.normal_(encoder.norm.bias)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 0] = True  # from the left: not packed
    if lengths is not None:
        padding = torch.arange(5) >= torch.tensor(lengths)[:, None]
    with torch.no_grad():
        right = encoder(x, src_key_padding_mask=padding)
        with guard_(encoder, **options) as guards:
            torch.testing.assert_close(encoder(x, src_key_padding_mask=padding), right)
            assert guards.events == ()
            assert not guards.passed
        assert torch.equal(encoder(x, src_key_padding_mask=padding), right)
    with guard_(encoder):  # where gradients are computed, nothing is packed
        y = encoder(x, src_key_padding_mask=padding)
    torch.testing.assert_close(y, encoder(x, src_key_padding_mask=padding))
    assert not any("forward" in vars(each) for each in encoder.modules())


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin")
@pytest.mark.parametrize(("activations", "mask_check"), [(False, True), (True, False)])
def test_padded_positions_of_a_compiled_encoder(x, activations, mask_check):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, mask_check=mask_check).eval()
    padding = torch.arange(5) >= torch.tensor([5, 3, 4])[:, None]

    def compiled():
        torch.compiler.reset()
        fast = torch.compile(encoder, backend="aot_eager", fullgraph=mask_check)
        return fast(x, src_key_padding_mask=padding)

    with torch.no_grad():
        right = compiled()
        with guard_(encoder, activations=activations) as guards:
            torch.testing.assert_close(compiled(), right)
            assert guards.events == ()


def test_activations_of_an_encoder_are_done_twice_where_samples_are_packed(x, monkeypatch):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32)).eval()
    padding = torch.arange(5) >= torch.tensor([5, 3, 4])[:, None]
    shapes = []
    same = repeat._same
    monkeypatch.setattr(repeat, "_same", lambda a, b: shapes.append(a.shape) or same(a, b))
    with torch.no_grad(), guard_(encoder, activations=True):
        encoder(x)  # prepares what is kept beside weights
        shapes.clear()
        encoder(x)
        unpacked = list(shapes)
        shapes.clear()
        encoder(x, src_key_padding_mask=padding)
    assert unpacked.count(x.shape) > 2
    assert shapes.count(x.shape) == unpacked.count(x.shape)


def test_an_encoder_leaves_its_fast_path(x):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    with torch.no_grad():
        right = encoder(x)
        with guard_(encoder, 4, policy="record") as guards:
            torch.testing.assert_close(encoder(x), right)
            assert guards.events == ()
            for module in encoder.modules():  # not as they were when they were guarded
                for parameter in module.parameters(recurse=False):
                    parameter.mul_(1.0 + torch.rand_like(parameter))
            encoder(x)
            assert {e.layer for e in guards.events} == set(guards.floor)


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_compiled(x):
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    right, _ = attention(x, x, x)
    with guard_(attention, 4) as guards, torch.no_grad():
        compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, x, x)[0], right)
        with torch.no_grad():
            attention.in_proj_weight[2] += 1
        compiled(x, x, x)
        assert guards.events


def test_an_attention_with_keys_of_its_own_is_named():
    model = nn.Sequential(nn.Linear(4, 8), nn.MultiheadAttention(32, 4, add_bias_kv=True))
    with guard_(model) as guards:
        assert {c.cover for c in guards.coverage()[1:]} == {"uncovered"}
    copy.deepcopy(model)
