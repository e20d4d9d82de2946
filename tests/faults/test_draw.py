"""What holds of every draw, whatever the kind, dtype and shape."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.errors import (
    FaultFileError,
    ImpossibleFaultError,
    ParimendError,
    StaleFaultError,
)
from parimend.faults import (
    KINDS,
    PATTERNS,
    PLACEMENTS,
    FaultError,
    FaultList,
    Words,
    draw,
)

from .tensors import copies, counts, kinds, models, placements, same, seeds


def attempt(
    kind: str, model: list[Words], count: int, seed: int, placement: str | None
) -> FaultList:
    """Draw; where that is not possible, draw as many as the exception says are possible."""
    try:
        return draw(kind, model, count, seed, placement=placement)
    except ImpossibleFaultError as error:
        possible = error.possible
    assert possible < count
    with pytest.raises(ImpossibleFaultError):
        draw(kind, model, possible + 1, seed, placement=placement)
    return draw(kind, model, possible, seed, placement=placement)


@given(st.data(), kinds, counts, seeds, placements)
def test_exactly_count_words_change_and_revert_restores_them(
    data: st.DataObject, kind: str, count: int, seed: int, placement: str | None
) -> None:
    model = data.draw(models(kind))
    pristine = copies(model)
    faults = attempt(kind, model, count, seed, placement)
    assert same(model, pristine)  # drawing changes nothing

    faults.apply_(model)
    changed = {
        (a.name, int(index))
        for a, b in zip(model, pristine, strict=True)
        for index in np.flatnonzero(a.bits != b.bits)
    }
    assert changed == {(fault.tensor, fault.index) for fault in faults}
    assert len(changed) == len(faults)  # positions are distinct
    present = {words.name: words for words in model}
    for fault in faults:
        assert int(present[fault.tensor].bits[fault.index]) == fault.after

    faults.revert_(model)
    assert same(model, pristine)


@given(st.data(), kinds, counts, seeds, placements)
def test_the_same_arguments_give_the_same_list(
    data: st.DataObject, kind: str, count: int, seed: int, placement: str | None
) -> None:
    model = data.draw(models(kind, most=500))
    faults = attempt(kind, model, count, seed, placement)
    again = draw(kind, copies(model)[::-1], len(faults), seed, placement=placement)
    assert faults == again


def test_other_seeds_give_other_lists() -> None:
    model = {"w": np.ones(1000, np.float32)}
    assert len({tuple(draw("bitflip", model, 5, seed).index) for seed in range(50)}) == 50


def test_shapes_do_not_matter_and_mappings_are_as_good_as_words() -> None:
    array = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    expected = draw("noise", {"w": array}, 7, seed=3)
    assert draw("noise", [Words.of("w", array)], 7, seed=3) == expected
    assert draw("noise", {"w": array.reshape(3, 4, 5)}, 7, seed=3) == expected
    assert draw("noise", {"w": np.asfortranarray(array)}, 7, seed=3) == expected


GOLDEN = {
    "bank": [("b", 13, 0x71D4), ("b", 57, 0x4684), ("b", 67, 0xF14B)],
    "bitflip": [("a", 55, 0xBD1BEB33), ("a", 139, 0x3D7AD502), ("b", 89, 0x3311)],
    "burst": [("a", 139, 0x71D403B5), ("a", 140, 0x46841532), ("a", 141, 0xF14BBFF5)],
    "doublebyte": [("a", 55, 0xBD815933), ("a", 139, 0x3D2D3302), ("b", 89, 0x363E)],
    "lines": [("a", 128, 0x71D403B5), ("a", 129, 0x46841532), ("a", 130, 0xF14BBFF5)],
    "multiflip": [("a", 55, 0x7D13BB13), ("a", 139, 0x2D6BD002), ("b", 89, 0xB330)],
    "noise": [("a", 55, 0xBD59B33E), ("a", 139, 0xB948FA97), ("b", 89, 0x2D38)],
    "nonfinite": [("a", 55, 0x7F800000), ("a", 139, 0x7F800000), ("b", 89, 0xFC00)],
    "page": [("b", 13, 0x71D4), ("b", 29, 0x4684), ("b", 97, 0xF14B)],
    "random": [("a", 55, 0x71D403B5), ("a", 139, 0x46841532), ("b", 89, 0xF14B)],
    "replace": [("a", 55, 0xBBE2BFC0), ("a", 139, 0xBCE5EFA8), ("b", 89, 0x3716)],
    "row": [("b", 13, 0x71D4), ("b", 29, 0x4684), ("b", 97, 0xF14B)],
    "sign": [("a", 55, 0x3D1BAB33), ("a", 139, 0xBD7AD402), ("b", 89, 0x3311)],
    "stuck": [("a", 55, 0x3E000000), ("a", 139, 0x3E000000), ("b", 89, 0x3000)],
    "zero": [("a", 55, 0x00000000), ("a", 139, 0x00000000), ("b", 89, 0x0000)],
}


def golden_model() -> dict[str, Any]:
    """Weights that need no random numbers: the fractional parts of multiples of sqrt(2)."""
    values = np.arange(1, 301) * 1.4142135623730951 % 1 - 0.5
    return {"b": values[:100].astype(np.float16), "a": (values / 8).astype(np.float32)}


def test_kinds_pair_what_is_registered() -> None:
    assert {kind.pattern for kind in KINDS.values()} == set(PATTERNS)
    assert {kind.placement for kind in KINDS.values()} == set(PLACEMENTS)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"column", "rowhammer"}))  # need more rows
def test_recorded_lists_keep_their_meaning(kind: str) -> None:
    """Golden values. Never change them: every stored campaign depends on them."""
    faults = draw(kind, golden_model(), 3, seed=2026)
    assert [(f.tensor, f.index, f.after) for f in faults] == GOLDEN[kind]


def test_an_empty_draw_is_an_empty_list() -> None:
    faults = draw("burst", {"w": np.ones(3)}, 0, seed=0)
    assert len(faults) == 0
    assert list(faults) == []
    faults.apply_({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "melt"}, "unknown kind of damage 'melt': take one of noise, replace, "),
        ({"placement": "ring"}, "unknown placement 'ring': take one of scattered, burst, lines, "),
        ({"count": -1}, "count must be at least 0, not -1"),
        ({"count": 1.5}, "count must be a whole number, not a float: 1.5"),
        ({"seed": "x"}, "seed must be a whole number, not a str: 'x'"),
        ({"seed": -1}, "seed must be from 0 to 2.64 - 1, not -1"),
        ({"only": "x"}, "no tensor matches 'x'; there are w$"),
    ],
)
def test_misuse_is_refused(arguments: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"kind": "zero", "words": {"w": np.ones(3)}, "count": 1, "seed": 0}
    with pytest.raises(FaultError, match=message):
        draw(**call | arguments)


def test_zeroing_zeros_is_refused() -> None:
    model = {"a": np.zeros(4), "b": np.array([0.0, -0.0, 1.0])}
    assert draw("zero", model, 2, seed=0).index.tolist() == [1, 2]
    with pytest.raises(ImpossibleFaultError, match="only 2 of the 3 elements asked for in a, b;"):
        draw("zero", model, 3, seed=0)
    with pytest.raises(ImpossibleFaultError) as caught:
        draw("zero", model, 300, seed=0)
    assert caught.value.possible == 2
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.kind == "zero"


@pytest.mark.parametrize("error", [FaultFileError, ImpossibleFaultError, StaleFaultError])
def test_errors_are_in_the_tree(error: type[Exception]) -> None:
    assert issubclass(error, FaultError)
    assert issubclass(FaultError, ParimendError)
    assert issubclass(FaultError, ValueError)


def test_long_lists_of_tensors_are_cut_short_in_messages() -> None:
    model = {f"t{number}": np.zeros(1) for number in range(9)}
    with pytest.raises(ImpossibleFaultError, match="in t0, t1, t2, t3, t4 and 4 more;"):
        draw("zero", model, 1, seed=0)


def test_nothing_else_is_imported() -> None:
    """Faults know no code and no torch; campaigns and the command line rely on a light import."""
    script = (
        "import sys, parimend.faults; "
        "print(*(n for n in sys.modules if n == 'torch' or n.startswith('parimend.')))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {".".join(name.split(".")[:2]) for name in run.stdout.split()}
    ground = ("arguments", "atomic", "dtypes", "errors", "lasting", "names", "regular", "rng")
    assert loaded == {f"parimend.{name}" for name in (*ground, "faults")}
