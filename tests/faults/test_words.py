"""Words: views of arrays as bit patterns, and their selection by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from parimend.faults import FaultError, Words, draw
from parimend.faults.words import FORMATS, select

NATIVE = [form.numpy for form in FORMATS.values()]


@pytest.mark.parametrize("dtype", NATIVE, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 4)])
def test_words_of_an_array_are_a_view(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    words = Words.of("w", array)
    assert len(words) == array.size
    assert words.format.numpy == dtype
    assert words.values().tolist() == array.reshape(-1).tolist()
    words.bits[:] = 0
    assert not array.any()


def test_raw_patterns_of_formats_that_numpy_lacks() -> None:
    tensor = torch.tensor([0.5, -2.0], dtype=torch.bfloat16)
    words = Words("w", tensor.view(torch.uint16).numpy(), "BF16")
    draw("stuck", [words], 2, seed=0, value=3.0).apply_([words])
    assert tensor.tolist() == [3.0, 3.0]


def test_words_of_a_strided_array_are_a_read_only_copy() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    words = Words.of("w", array.T)
    assert words.values().tolist() == [0, 3, 1, 4, 2, 5]
    assert not words.bits.flags.writeable
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(2, bool), r"'w': dtype bool is not supported; give the raw patterns as Words\("),
        (np.zeros(2, complex), r"'w': dtype complex128 is not supported"),
        (np.zeros(2, ">f4"), r"'w': >f4 has foreign byte order; convert it with array.astype"),
        (torch.zeros(2), r"'w' is a Tensor, not a numpy array; give .* tensor.detach\(\).numpy\("),
    ],
)
def test_unsuitable_arrays_are_refused(array: Any, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        Words.of("w", array)


@pytest.mark.parametrize("bits", [np.zeros((2, 2), np.uint32), np.zeros(4, np.uint16)])
def test_patterns_must_fit_the_dtype(bits: npt.NDArray[Any]) -> None:
    with pytest.raises(FaultError, match=r"'w': F32 needs a flat uint32 array.*give array"):
        Words("w", bits, "F32")


def arrays(*names: str) -> dict[str, npt.NDArray[Any]]:
    return {name: np.ones(3, np.float32) for name in names}


def test_selection_is_by_glob_and_in_name_order() -> None:
    model = arrays("b.weight", "a.weight", "a.bias", "B.weight")
    assert [w.name for w in select(model)] == ["B.weight", "a.bias", "a.weight", "b.weight"]
    assert [w.name for w in select(model, "*.weight")] == ["B.weight", "a.weight", "b.weight"]
    assert [w.name for w in select(model, ["b.*", "a.b*"])] == ["a.bias", "b.weight"]


def test_tensors_left_out_may_be_of_any_dtype() -> None:
    model = arrays("w") | {"mask": np.zeros(3, bool)}
    assert len(draw("zero", model, 1, seed=0, only="w")) == 1


@pytest.mark.parametrize(
    ("model", "only", "message"),
    [
        ({}, None, "the mapping is empty"),
        (arrays("a", "b"), [], r"only=\[\] selects no tensor"),
        (arrays("a", "b"), ["a", "c*"], r"no tensor matches 'c\*'; there are a, b$"),
        (
            [Words.of("a", np.ones(1)), Words.of("a", np.ones(1))],
            None,
            "tensor 'a' is given twice",
        ),
    ],
)
def test_selections_of_nothing_are_refused(model: Any, only: Any, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        select(model, only)


def test_tied_weights_are_refused() -> None:
    shared = np.ones(10, np.float32)
    model = {"embedding": shared, "head": shared[2:], "other": np.ones(3, np.float32)}
    with pytest.raises(FaultError, match="'embedding' and 'head' share memory"):
        draw("bitflip", model, 1, seed=0)
    assert len(draw("bitflip", model, 1, seed=0, only=["head", "other"])) == 1
