"""Names: what a model holds, and what of it can be protected."""

import argparse
import collections

import numpy as np
import pytest
import torch
from torch import nn

from parimend.errors import WordError
from parimend.stores.naming import leaves, named_tensors


class _Slots:
    __slots__ = ("__hidden",)


class Slotted(_Slots):
    """Attributes in slots of its own and of its base, some of them empty."""

    __slots__ = ("empty", "held")

    def __init__(self, held):
        self.held = held


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embed.weight


class TestNamedTensors:
    PARAMETERS = ("embed.weight", "norm.weight", "norm.bias", "head.bias")
    BUFFERS = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")

    def test_of_a_module_tied_ones_once(self):
        model = Tied()
        found = named_tensors(model)
        assert tuple(found) == self.PARAMETERS
        assert found["embed.weight"] is model.head.weight

    def test_buffers_if_asked_for(self):
        assert tuple(named_tensors(Tied(), buffers=True)) == self.PARAMETERS + self.BUFFERS

    def test_of_a_state_dict_tied_ones_once(self):
        found = named_tensors(Tied().state_dict())
        assert sorted(found) == sorted(self.PARAMETERS + self.BUFFERS)

    def test_empty_tensors_are_all_kept(self):
        state = {"a": torch.empty(0), "b": torch.empty(0), "c": torch.ones(1)}
        assert list(named_tensors(state)) == ["a", "b", "c"]

    def test_only(self):
        assert list(named_tensors(Tied(), only=["norm.*"])) == ["norm.weight", "norm.bias"]
        assert list(named_tensors(Tied().state_dict(), only=["!norm.*", "!head.weight"])) == [
            "embed.weight",
            "head.bias",
        ]
        # Tied, but this is the name that was asked for.
        assert list(named_tensors(Tied(), only=["head.weight"])) == ["head.weight"]
        with pytest.raises(WordError, match=r"no tensor matches 'tail\.\*'"):
            named_tensors(Tied(), only=["norm.*", "tail.*"])
        with pytest.raises(WordError, match=r"only=\[\] selects no tensor"):
            named_tensors(Tied(), only=[])

    @pytest.mark.parametrize("model", [nn.ReLU(), {}, {"epoch": 3}, {"w": torch.empty(0)}])
    def test_nothing_to_protect(self, model):
        with pytest.raises(WordError, match="no tensors to protect"):
            named_tensors(model)

    @pytest.mark.parametrize("model", [3, torch.ones(3), [torch.ones(3)]])
    def test_another_type(self, model):
        with pytest.raises(WordError, match=f"a state dict, not {type(model).__name__}$"):
            named_tensors(model)

    def test_a_path(self):
        with pytest.raises(WordError, match=r"not str: for files there are protect_file, check"):
            named_tensors("model.pt")


class TestCheckpoints:
    def test_dotted_names_to_the_ends(self):
        model = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        checkpoint = {
            "epoch": 3,
            "args": argparse.Namespace(lr=0.1, layers=[3, 4]),
            "best": np.float64(0.5),
            "name": "run",
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "averages": [torch.zeros(2), (torch.ones(3), None)],
            "queue": collections.deque([torch.ones(2)]),
        }
        assert list(named_tensors(checkpoint)) == [
            "model.weight",
            "model.bias",
            *(
                f"optimizer.state.{i}.{k}"
                for i in (0, 1)
                for k in ("step", "exp_avg", "exp_avg_sq")
            ),
            "averages.0",
            "averages.1.0",
            "queue.0",
        ]

    def test_modules_inside(self):
        pair = {"g": nn.Linear(2, 3), "d": [nn.BatchNorm1d(2)]}
        assert list(named_tensors(pair)) == ["g.weight", "g.bias", "d.0.weight", "d.0.bias"]
        assert "d.0.running_mean" in named_tensors(pair, buffers=True)

    @pytest.mark.parametrize(
        ("hidden", "kind"),
        [
            (np.ones(3), "ndarray"),
            ({torch.ones(3)}, "set"),
            (argparse.Namespace(deep={"er": [torch.ones(3)]}), "Namespace"),
            (torch.optim.SGD([torch.ones(3, requires_grad=True)]), "SGD"),
            (torch.ones(3).untyped_storage(), "UntypedStorage"),
            (Slotted(torch.ones(3)), "Slotted"),
        ],
    )
    def test_what_hides_tensors_is_named(self, hidden, kind):
        checkpoint = {"model": {"w": torch.ones(3)}, "extra": {"it": hidden}}
        with pytest.raises(
            WordError, match=rf"^extra\.it is a {kind}, whose numbers have no names"
        ):
            named_tensors(checkpoint)
        assert list(named_tensors(checkpoint, only=["model.*"])) == ["model.w"]

    def test_two_entries_of_one_name(self):
        with pytest.raises(WordError, match=r"same dotted name a\.b"):
            named_tensors({"a.b": torch.ones(2), "a": {"b": torch.ones(3)}})
        with pytest.raises(WordError, match="same dotted name 1"):
            named_tensors({1: torch.ones(2), "1": torch.ones(3)})

    def test_a_cycle(self):
        checkpoint = {"w": torch.ones(2), "more": {}}
        checkpoint["more"]["again"] = checkpoint
        with pytest.raises(WordError, match=r"more\.again contains itself"):
            named_tensors(checkpoint)
        shared = {"w": torch.ones(2)}
        assert list(named_tensors({"a": shared, "b": shared})) == ["a.w"]


class TestSharedMemory:
    """What several tensors hold is protected once, under one name."""

    def test_places_and_shapes(self):
        flat = torch.arange(12.0)
        state = {"a": flat[:6], "b": flat[6:], "c": flat[:6].reshape(2, 3), "d": flat[:6]}
        assert list(named_tensors(state)) == ["a", "b"]

    def test_a_transposed_tie(self):
        weight = torch.arange(12.0).reshape(3, 4)
        assert list(named_tensors({"out": weight.T, "in": weight})) == ["out"]

    def test_views_into_a_flat_tensor(self):
        flat = torch.arange(12.0)
        state = {
            "q": flat[:4].view(torch.int32),
            "k": flat[4:9],
            "flat": flat,
            "t": flat.view(3, 4)[:, 1],
        }
        assert list(named_tensors(state)) == ["flat"]

    def test_neighbours_that_are_interleaved(self):
        state = dict(zip("qkv", torch.arange(36.0).reshape(4, 9).chunk(3, dim=1), strict=True))
        assert list(named_tensors(state)) == ["q", "k", "v"]

    def test_a_part_of_the_memory(self):
        flat = torch.arange(12.0)
        with pytest.raises(WordError, match="b shares a part of its memory with another tensor"):
            named_tensors({"a": flat[:8], "b": flat[6:]})

    @pytest.mark.parametrize(
        "tensor",
        [torch.ones(1, 4).expand(3, 4), torch.ones(9).as_strided((3, 3), (2, 1))],
        ids=["expanded", "strided"],
    )
    def test_elements_that_share_a_cell(self, tensor):
        with pytest.raises(WordError, match="w has elements that share memory"):
            named_tensors({"w": tensor})

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.ones(1, 4).expand(1, 4),
            torch.ones(4, 3).T,
            torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
            torch.ones(8, 8)[::2, 1::3],
            torch.ones(3, 0).expand(5, 3, 0),
            torch.tensor(1.0),
        ],
    )
    def test_strides_that_do_not(self, tensor):
        assert set(named_tensors({"w": tensor, "x": torch.ones(2)})) == {"w", "x"}


class Flattened(torch.Tensor):
    """A weight that is made of two tensors and tells so."""

    @staticmethod
    def __new__(cls, data, scale):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.bfloat16)

    def __init__(self, data, scale):
        self.data_, self.scale = data, scale

    def __tensor_flatten__(self):
        return ["data_", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].data_, args[0].scale)
        raise NotImplementedError(function)


class Opaque(Flattened):
    """One that does not tell."""

    __tensor_flatten__ = None


class TestOddTensors:
    def layer(self, kind):
        layer = nn.Linear(4, 3)
        weight = kind(torch.ones(3, 4, dtype=torch.int8), torch.ones(3))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer

    def test_tensors_made_of_others(self):
        layer = self.layer(Flattened)
        found = named_tensors(layer)
        assert list(found) == ["weight.data_", "weight.scale", "bias"]
        assert found["weight.data_"] is layer.weight.data_
        assert list(named_tensors(layer, only=["weight"])) == ["weight.data_", "weight.scale"]
        assert list(named_tensors(layer, only=["*.scale"])) == ["weight.scale"]
        assert list(named_tensors(layer, only="!weight")) == ["bias"]
        assert list(named_tensors(layer, only=["weight", "!*.scale"])) == ["weight.data_"]
        nested = Flattened(Flattened(torch.ones(3), torch.ones(1)), torch.ones(2))
        assert list(leaves({"w": nested})) == ["w.data_.data_", "w.data_.scale", "w.scale"]

    def test_those_that_do_not_tell(self):
        layer = self.layer(Opaque)
        with pytest.raises(WordError, match=r"weight is a Opaque, which hides its memory"):
            named_tensors(layer)
        assert list(named_tensors(layer, only=["bias"])) == ["bias"]

    @pytest.mark.parametrize(
        ("tensor", "message"),
        [
            (torch.eye(3).to_sparse(), "w is torch.sparse_coo: only tensors with plain memory"),
            (torch.eye(3).to_mkldnn(), "w is torch._mkldnn: only tensors with plain memory"),
            (torch.ones(3, dtype=torch.complex64).conj(), "w is a view that is conjugated"),
            (torch.ones(3, dtype=torch.complex64).conj().imag, "w is a view that is conjugated"),
            (nn.UninitializedParameter(), "w has no values yet: run the model once"),
        ],
    )
    def test_without_plain_memory(self, tensor, message):
        with pytest.raises(WordError, match=f"^{message}"):
            named_tensors({"w": tensor, "x": torch.ones(2)})

    @pytest.mark.filterwarnings("ignore:.*quantized|.*nested tensors")
    def test_kinds_of_old(self):
        quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
        with pytest.raises(WordError, match=r"w is torch\.qint8, which has no plain bytes"):
            named_tensors({"w": quantized})
        ragged = [torch.ones(3), torch.ones(4)]
        with pytest.raises(WordError, match="w is a nested tensor"):
            named_tensors({"w": torch.nested.nested_tensor(ragged)})
        jagged = torch.nested.nested_tensor(ragged, layout=torch.jagged)
        assert {"w._values", "w._offsets"} <= set(named_tensors({"w": jagged}))

    def test_a_lazy_model(self):
        with pytest.raises(WordError, match=r"^weight has no values yet"):
            named_tensors(nn.LazyLinear(3))


def test_a_long_chain_of_objects_is_followed_to_its_end():
    first = last = argparse.Namespace(next=None)
    for _ in range(5000):
        last.next = argparse.Namespace(next=None, before=last)
        last = last.next
    state = {"w": torch.ones(3), "chain": first, "losses": [0.5] * 9}
    assert list(leaves(state)) == ["w"]
    last.next = torch.ones(3)
    with pytest.raises(WordError, match="chain is a Namespace, whose numbers have no names"):
        named_tensors(state)
