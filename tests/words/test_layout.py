"""Layouts: every element exactly once, in a stable order, tied tensors once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from parimend.errors import WordError
from parimend.words.layout import Part, named_tensors, split, whole

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
KINDS = ("model", "tensor", "row")


@st.composite
def tensors(draw):
    """Layers with and without biases, some of which do not fit, and other tensors."""
    parts = []
    for i in range(draw(st.integers(0, 4))):
        shape = draw(SHAPES)
        parts.append(whole(f"layer{i}.weight", draw(st.sampled_from(["F32", "I8"])), shape))
        if draw(st.booleans()):
            size = draw(st.sampled_from([shape[:1], (3,), ()]))
            parts.append(whole(f"layer{i}.bias", "F32", size))
    for i in range(draw(st.integers(0, 2))):
        parts.append(whole(f"other{i}", "F64", draw(SHAPES)))
    return draw(st.permutations(parts))


class TestSplit:
    @pytest.mark.parametrize("per", KINDS)
    @given(parts=tensors())
    def test_covers_every_element_exactly_once(self, per, parts):
        seen = {part.name: np.zeros(part.count, int) for part in parts}
        for word in split(parts, per):
            assert word
            for part in word:
                assert part.count > 0
                seen[part.name][part.start : part.start + part.count] += 1
        assert all((count == 1).all() for count in seen.values())

    @pytest.mark.parametrize("per", KINDS)
    @given(parts=tensors())
    def test_parts_keep_what_they_are_parts_of(self, per, parts):
        parts = [replace(part, exponent=-i) for i, part in enumerate(parts)]
        by_name = {part.name: part for part in parts}
        for word in split(parts, per):
            for part in word:
                assert replace(part, start=0, count=by_name[part.name].count) == by_name[part.name]

    def test_per_model_and_tensor_keep_the_order(self):
        parts = [whole("b", "F32", (3,)), whole("nothing", "F32", (0, 4)), whole("a", "I8", (2, 2))]
        assert split(parts, "model") == [(parts[0], parts[2])]
        assert split(parts, "tensor") == [(parts[0],), (parts[2],)]
        assert split([], "model") == split(parts[1:2], "model") == []

    def test_rows_take_the_elements_of_their_bias(self):
        weight, bias = whole("conv.weight", "F32", (2, 3, 5, 5)), whole("conv.bias", "F32", (2,))
        norm = whole("norm.weight", "F32", (7,))
        words = split([bias, norm, weight], "row")
        assert [[(p.name, p.start, p.count) for p in word] for word in words] == [
            [("conv.weight", 0, 75), ("conv.bias", 0, 1)],
            [("conv.weight", 75, 75), ("conv.bias", 1, 1)],
            [("norm.weight", 0, 7)],
        ]

    @pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
    def test_a_bias_of_another_shape_is_a_word_of_its_own(self, shape):
        weight, bias = whole("fc.weight", "F32", (2, 3)), whole("fc.bias", "F32", shape)
        words = split([weight, bias], "row")
        assert len(words) == 3
        assert words[-1] == (bias,)

    def test_another_per(self):
        with pytest.raises(WordError, match="'model', 'tensor' or 'row', not 'layer'"):
            split([whole("w", "F32", (2,))], "layer")


class TestIndex:
    @given(SHAPES.filter(lambda shape: 0 not in shape), st.data())
    def test_is_that_of_numpy(self, shape, data):
        count = int(np.prod(shape))
        start = data.draw(st.integers(0, count - 1))
        offset = data.draw(st.integers(0, count - 1 - start))
        index = Part("w", "F32", shape, start, count - start).index(offset)
        assert index == tuple(int(i) for i in np.unravel_index(start + offset, shape))

    def test_of_a_scalar(self):
        assert whole("scale", "F32", ()).index(0) == ()


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

    def test_views_of_other_shape_or_place_are_not_tied(self):
        flat = torch.arange(12.0)
        state = {"a": flat[:6], "b": flat[6:], "c": flat[:6].reshape(2, 3), "d": flat[:6]}
        assert list(named_tensors(state)) == ["a", "b", "c"]

    def test_empty_tensors_are_all_kept(self):
        state = {"a": torch.empty(0), "b": torch.empty(0), "c": torch.ones(1)}
        assert list(named_tensors(state)) == ["a", "b", "c"]

    def test_what_is_no_tensor_is_passed_over(self):
        assert list(named_tensors({"epoch": 3, "w": torch.ones(2), "name": "x"})) == ["w"]

    def test_only(self):
        assert list(named_tensors(Tied(), only=["norm.*"])) == ["norm.weight", "norm.bias"]
        with pytest.raises(WordError, match=r"no tensor matches 'head\.weight'"):
            named_tensors(Tied(), only=["head.weight"])

    @pytest.mark.parametrize("model", [nn.ReLU(), {}, {"epoch": 3}])
    def test_nothing_to_protect(self, model):
        with pytest.raises(WordError, match="no tensors to protect"):
            named_tensors(model)

    @pytest.mark.parametrize("model", [3, "model.pt", torch.ones(3), [torch.ones(3)]])
    def test_another_type(self, model):
        with pytest.raises(WordError, match=f"a state dict, not {type(model).__name__}$"):
            named_tensors(model)
