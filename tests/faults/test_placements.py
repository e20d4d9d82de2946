"""Placements: which words are struck."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parimend.errors import ImpossibleFaultError
from parimend.faults import FaultList, Words, draw
from parimend.faults.placements import LINE_BYTES, PAGE_BYTES
from tests.chisquare import assert_uniform

Model = dict[str, npt.NDArray[Any]]


def model(*sizes: int, dtype: str = "float32") -> Model:
    return {f"t{number}": np.ones(size, dtype) for number, size in enumerate(sizes)}


def places(faults: FaultList, tensors: Model) -> npt.NDArray[np.int64]:
    """Places in the row of all tensors."""
    starts = np.cumsum([0] + [tensors[name].size for name in sorted(tensors)])[:-1]
    number = [sorted(tensors).index(name) for name in faults.names]
    return np.asarray(starts[number][faults.tensor] + faults.index)


def hits(tensors: Model, count: int, trials: int, **arguments: Any) -> npt.NDArray[np.int64]:
    """How often each place was struck."""
    total = np.zeros(sum(array.size for array in tensors.values()), dtype=np.int64)
    for seed in range(trials):
        total[places(draw("bitflip", tensors, count, seed, **arguments), tensors)] += 1
    return total


def test_scattered_words_are_uniform_over_all_tensors() -> None:
    assert_uniform(hits(model(5, 0, 50, 9), 3, 500))
    assert_uniform(hits(model(5, 0, 50, 9), 40, 60))


@pytest.mark.parametrize("unchangeable", [0.1, 0.9])
def test_scattered_words_are_uniform_over_those_that_can_change(unchangeable: float) -> None:
    values = (np.random.default_rng(0).random(300) >= unchangeable).astype(np.float32)
    total = np.zeros(300, dtype=np.int64)
    for seed in range(500):
        total[draw("zero", {"w": values}, 6, seed).index] += 1
    assert not total[values == 0].any()
    assert_uniform(total[values == 1])


def test_a_burst_is_a_run_within_one_tensor() -> None:
    tensors = model(30, 7, 50)
    starts = np.zeros(87, dtype=np.int64)
    for seed in range(800):
        faults = draw("burst", tensors, 12, seed)
        assert len(faults.names) == 1
        assert (np.diff(faults.index) == 1).all()
        starts[places(faults, tensors)[0]] += 1
    possible = np.r_[0:19, 37:76]
    assert starts.sum() == starts[possible].sum()
    assert_uniform(starts[possible])


def test_a_burst_of_zeros_finds_its_way_between_zeros() -> None:
    values = np.ones(100, np.float32)
    values[[10, 30, 31, 60]] = 0
    starts = np.zeros(100, dtype=np.int64)
    for seed in range(800):
        faults = draw("zero", {"a": values, "b": values[:9]}, 20, seed, only="a", placement="burst")
        assert (np.diff(faults.index) == 1).all()
        assert (values[faults.index] == 1).all()
        starts[faults.index[0]] += 1
    possible = np.r_[32:41, 61:81]
    assert starts.sum() == starts[possible].sum()
    assert_uniform(starts[possible])
    with pytest.raises(ImpossibleFaultError) as caught:
        draw("zero", {"a": values}, 40, seed=0, placement="burst")
    assert caught.value.possible == 39


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
def test_lines_are_whole_and_aligned(dtype: str) -> None:
    tensors = model(1000, 3000, dtype=dtype)
    per_line = LINE_BYTES // np.dtype(dtype).itemsize
    for count in (per_line, 5 * per_line, 5 * per_line + 3):
        faults = draw("lines", tensors, count, seed=count)
        lines: dict[tuple[int, int], list[int]] = {}
        for tensor, index in zip(faults.tensor.tolist(), faults.index.tolist(), strict=True):
            lines.setdefault((tensor, index // per_line), []).append(index % per_line)
        sizes = [len(tensors[name]) for name in faults.names]
        cut = 0
        for (tensor, line), words in lines.items():
            assert words == list(range(len(words)))
            cut += len(words) < min(per_line, sizes[tensor] - line * per_line)
        assert cut <= 1


def test_lines_are_uniform_and_short_ones_take_part() -> None:
    total = hits(model(64, 40), 8, 900, placement="lines")
    assert total[64 + 32 : 64 + 40].all()  # half a line
    assert_uniform(total[np.r_[0:64:16, 64:104:16]])


def test_lines_pass_over_words_that_stay() -> None:
    values = np.ones(160, np.float32)
    values[::2] = 0
    faults = draw("zero", {"w": values}, 24, seed=0, placement="lines")
    assert (faults.index % 2 == 1).all()
    assert np.unique(faults.index // 16).size == 3


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_page_is_one_aligned_page(dtype: str) -> None:
    tensors = model(9000, 100, 20_000, dtype=dtype)
    per_page = PAGE_BYTES // np.dtype(dtype).itemsize
    struck = set()
    for seed in range(200):
        faults = draw("page", tensors, 90, seed)
        assert len(faults.names) == 1
        assert np.unique(faults.index // per_page).size == 1
        struck.add((faults.names[0], int(faults.index[0]) // per_page))
    assert len(struck) > 5


def test_pages_are_uniform_and_so_are_words_within() -> None:
    total = hits(model(4 * 1024), 64, 400, placement="page")
    assert_uniform(total.reshape(4, -1).sum(axis=1) // 64)
    assert_uniform(total.reshape(4, 64, 16).sum(axis=(0, 2)))


def test_a_page_with_enough_is_found() -> None:
    values = np.zeros(64 * 1024, np.float32)
    values[37 * 1024 + 5 : 37 * 1024 + 15] = 1
    faults = draw("zero", {"w": values}, 10, seed=0, placement="page")
    assert faults.index.tolist() == list(range(37 * 1024 + 5, 37 * 1024 + 15))


@pytest.mark.parametrize(
    ("placement", "count", "possible"),
    [("scattered", 3001, 3000), ("lines", 3001, 3000), ("burst", 2001, 2000), ("page", 1025, 1024)],
)
def test_too_many_words_are_refused_with_what_is_possible(
    placement: str, count: int, possible: int
) -> None:
    tensors = model(2000, 1000)
    message = (
        rf"bitflip \(placement {placement}\) can change only {possible} of the {count} elements "
        r"asked for in t0, t1; ask for fewer"
    )
    with pytest.raises(ImpossibleFaultError, match=message) as caught:
        draw("bitflip", tensors, count, seed=0, placement=placement)
    assert caught.value.tensors == ("t0", "t1")
    assert len(draw("bitflip", tensors, possible, seed=0, placement=placement)) == possible


def test_kinds_under_one_seed_strike_the_same_words() -> None:
    tensors = {"w": np.arange(1, 1000, dtype=np.float32)}
    places = [draw(kind, tensors, 20, seed=5).index.tolist() for kind in ("bitflip", "zero")]
    assert places[0] == places[1]


def test_a_row_of_several_dtypes() -> None:
    words = [
        Words("a", np.ones(500, np.uint8), "F8_E4M3"),
        Words("b", np.ones(500, np.uint64), "F64"),
        Words("c", np.ones(500, np.uint16), "BF16"),
    ]
    faults = draw("lines", words, 300, seed=0)
    assert len(faults) == 300
    top = np.array([2**8, 2**64 - 1, 2**16], dtype=np.uint64)
    assert (faults.after <= top[faults.tensor]).all()
