"""Layouts: every element exactly once, in a stable order."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.carriers.summing import cut
from parimend.errors import WordError
from parimend.words.bits import words_of
from parimend.words.layout import Part, Word, split, whole

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
        assert split(parts, "model") == [Word((parts[0], parts[2]))]
        assert split(parts, "tensor") == [Word((parts[0],)), Word((parts[2],))]
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

    def test_rows_do_not_ask_for_names(self):
        parts = [whole("proj", "F32", (2, 3)), whole("probias", "F32", (2,))]
        words = split(parts, "row")
        assert [[(p.name, p.start, p.count) for p in word] for word in words] == [
            [("proj", 0, 3)],
            [("proj", 3, 3)],
            [("probias", 0, 2)],
        ]

    @pytest.mark.parametrize("shape", [(3,), (1,), ()])
    def test_a_bias_of_another_shape_is_a_word_of_its_own(self, shape):
        weight, bias = whole("fc.weight", "F32", (2, 3)), whole("fc.bias", "F32", shape)
        words = split([weight, bias], "row")
        assert len(words) == 3
        assert words[-1] == Word((bias,))

    def test_another_per(self):
        with pytest.raises(WordError, match="'model', 'tensor' or 'row', not a str: 'layer'"):
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


class TestWord:
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
    def test_every_position_is_in_one_part(self, counts, data):
        word = Word(tuple(whole(f"w{i}", "F32", (count,)) for i, count in enumerate(counts)))
        position = data.draw(st.integers(0, sum(counts) - 1))
        number, offset = word.locate(position)
        assert word.starts[number] + offset == position
        assert 0 <= offset < counts[number]
        assert word.elements == word.ends[-1] == sum(counts)

    @given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    def test_an_array_is_split_into_those_of_the_parts(self, counts):
        word = Word(tuple(whole(f"w{i}", "F32", (count,)) for i, count in enumerate(counts)))
        pieces = word.split(np.arange(word.elements))
        assert [len(piece) for piece in pieces] == counts
        np.testing.assert_array_equal(np.concatenate(pieces), np.arange(word.elements))

    def test_names_are_those_of_the_ends(self):
        a, b = whole("a", "F32", (3,)), whole("b", "I8", (70,))
        assert Word((a,)).name == "a"
        assert Word((a, b)).name == "a .. b"
        assert Word((a, b)).padded == 16 + 32


masked = st.sampled_from([("I8", 1), ("F16", 2), ("F32", 4), ("F64", 8), ("Q4_0", 18)]).flatmap(
    lambda kind: st.builds(
        lambda count, mask: Part("w", kind[0], (count,), 0, count, mask=mask),
        st.integers(1, 9),
        st.just(0) | st.integers(1, (1 << 8 * kind[1]) - 1),
    )
)


@given(parts=st.lists(masked, max_size=3))
def test_words_with_few_bits_are_known(parts):
    counts = Counter()
    for part in parts:
        mask = part.mask or (1 << 8 * part.itemsize) - 1
        every = mask.to_bytes(part.itemsize, "little") * part.count
        counts.update(int(word).bit_count() for word in words_of(every))
    word = Word(tuple(parts))
    assert dict(word.narrow) == {b: n for b, n in counts.items() if 0 < b < 32}
    bits = sorted([*(b for b in counts.elements() if b), *[32] * 5])
    assert word.bits_beyond(4) == sum(bits[1:5])


def test_words_of_rows_have_names_of_their_own():
    w, k = whole("fc.weight", "F32", (3, 4)), whole("conv.weight", "BF16", (2, 3, 5))
    bias, scale = whole("fc.bias", "F32", (3,)), whole("scale", "F32", ())
    names = [word.name for word in split([w, bias, k, scale], "row")]
    assert names == [
        *(f"fc.weight[{i}] .. fc.bias[{i}]" for i in range(3)),
        *(f"conv.weight[{i}]" for i in range(2)),
        "scale",
    ]
    assert [word.name for word in split([w, bias], "model")] == ["fc.weight .. fc.bias"]
    long = whole("w", "F32", (5, 24))
    assert [word.name for word in cut(Word((long,)), limit=48)] == [
        "w[0:2]", "w[2:4]", "w[4]"
    ]  # fmt: skip
    assert [word.name for word in cut(Word((long,)), limit=64)] == [
        "w.flat[0:64]", "w.flat[64:120]"
    ]  # fmt: skip
    assert split([w, bias], "row")[1].tensors == "fc.weight .. fc.bias"
