"""Fault lists: applying, reverting, and what they refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from parimend.errors import StaleFaultError
from parimend.faults import Fault, FaultError, FaultList, draw


@pytest.fixture
def model() -> dict[str, Any]:
    return {"a": np.ones((4, 5), np.float32), "b": np.ones(30, np.int8)}


@pytest.fixture
def faults(model: dict[str, Any]) -> FaultList:
    return draw("bitflip", model, 12, seed=1)


def test_iteration_gives_the_columns_row_by_row(faults: FaultList) -> None:
    rows = list(faults)
    assert len(rows) == len(faults) == 12
    first = Fault("a", int(faults.index[0]), 0x3F800000, int(faults.after[0]), "F32")
    assert rows[0] == first
    assert str(first) == f"a[{first.index}]: 3f800000 -> {first.after:08x}"
    assert {row.dtype for row in rows if row.tensor == "b"} == {"I8"}


def test_lists_are_frozen(faults: FaultList) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        faults.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        faults.index[0] = 3
    assert faults != "a list"


def test_applying_twice_is_refused_and_changes_nothing(
    model: dict[str, Any], faults: FaultList
) -> None:
    faults.apply_(model)
    damaged = {name: array.copy() for name, array in model.items()}
    index = int(faults.index[0])
    message = (
        rf"a\[{index}\] holds {int(faults.after[0]):08x} and not 3f800000, its pattern before the "
        r"damage \(\d+ of \d+ elements of this tensor differ\); .* force=True"
    )
    with pytest.raises(StaleFaultError, match=message):
        faults.apply_(model)
    assert all((model[name] == damaged[name]).all() for name in model)


def test_reverting_what_was_not_applied_is_refused(
    model: dict[str, Any], faults: FaultList
) -> None:
    with pytest.raises(StaleFaultError, match="its pattern after the damage"):
        faults.revert_(model)


def test_one_stale_word_stops_all_tensors(model: dict[str, Any], faults: FaultList) -> None:
    last = int(faults.index[-1])
    model["b"][last] ^= 1
    with pytest.raises(StaleFaultError, match=rf"b\[{last}\] holds 00 and not 01"):
        faults.apply_(model)
    assert (model["a"] == 1).all()


def test_force_writes_all_the_same(model: dict[str, Any], faults: FaultList) -> None:
    model["b"][:] = 5
    faults.apply_(model, force=True)
    faults.revert_(model)
    struck = faults.index[faults.tensor == 1]
    assert (model["b"][struck] == 1).all()
    assert (np.delete(model["b"], struck) == 5).all()


def test_other_tensors_may_be_among_them(model: dict[str, Any], faults: FaultList) -> None:
    faults.apply_(model | {"z": np.ones(2), "mask": np.ones(2, bool)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "tensor 'a' is missing among b$"),
        ({"a": np.ones(20)}, "tensor 'a' is F64, but the faults were drawn for F32"),
        ({"b": np.ones(3, np.int8)}, r"'b' has 3 elements, but a fault is at index \d+; give the"),
        ({"a": np.ones((5, 4), np.float32).T}, "'a' cannot be changed in place: it is read-only"),
        ({"a": np.broadcast_to(np.float32(1), 20)}, "'a' cannot be changed in place"),
    ],
)
def test_unsuitable_tensors_are_refused(
    model: dict[str, Any], faults: FaultList, change: dict[str, Any], message: str
) -> None:
    given = {name: array for name, array in (model | change).items() if array is not None}
    with pytest.raises(FaultError, match=message):
        faults.apply_(given, force=True)


def test_a_read_only_array_is_refused(model: dict[str, Any], faults: FaultList) -> None:
    model["a"].flags.writeable = False
    with pytest.raises(FaultError, match=r"give a writable array, such as numpy.array\("):
        faults.apply_(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": np.array([1, 2])}, "flat and of equal length"),
        ({"index": np.array([[1, 2, 3]])}, "flat and of equal length"),
        ({"names": ("b", "a")}, "ascending tensor names"),
        ({"names": ("a", "a")}, "ascending tensor names"),
        ({"dtypes": ("F32",)}, "one dtype for each"),
        ({"dtypes": ("F32", "F99")}, "unknown dtype 'F99'"),
        ({"tensor": np.array([0, 0, 0])}, "every tensor named must be struck"),
        ({"tensor": np.array([0, 1, 2])}, "every tensor named must be struck"),
        ({"tensor": np.array([0, 1, 0])}, "ordered by tensor and index"),
        ({"index": np.array([3, 3, 0])}, "each word at most once"),
        ({"index": np.array([-1, 3, 0])}, "ordered by tensor and index"),
        ({"after": np.array([1, 2, 256])}, "wider than the words"),
        ({"after": np.array([1, 2, 0])}, "before and after are equal"),
    ],
)
def test_columns_must_fit_together(change: dict[str, Any], message: str) -> None:
    columns: dict[str, Any] = {
        "seed": 0,
        "kind": "zero",
        "placement": "scattered",
        "names": ("a", "b"),
        "dtypes": ("F32", "I8"),
        "tensor": np.array([0, 0, 1]),
        "index": np.array([3, 5, 0]),
        "before": np.zeros(3, np.uint64),
        "after": np.array([1, 2, 3]),
    }
    assert len(FaultList(**columns)) == 3
    with pytest.raises(FaultError, match=message):
        FaultList(**columns | change)
