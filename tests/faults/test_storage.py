"""Fault lists on disk."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.errors import FaultFileError, ParimendError
from parimend.faults import FaultError, FaultList, Words, draw

from .tensors import counts, kinds, models, placements, seeds
from .test_draw import attempt


@given(st.data(), kinds, counts, seeds, placements)
def test_what_is_saved_is_loaded(
    data: st.DataObject, kind: str, count: int, seed: int, placement: str | None
) -> None:
    faults = attempt(kind, data.draw(models(kind, most=300)), count, seed, placement)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faults.jsonl"
        faults.save(path)
        assert FaultList.load(path) == faults
        assert os.listdir(folder) == [path.name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A stored list of four faults in two tensors."""
    words = [
        Words("a\n\u20ac", np.full(9, 0x3F80, np.uint16), "BF16"),
        Words("b", np.ones(9, np.uint64), "I64"),
    ]
    path = tmp_path / "faults.jsonl"
    draw("bitflip", words, 4, seed=2).save(str(path))
    return path


def test_the_format_stays_readable(path: Path) -> None:
    """Version 1, written out: a change of these bytes needs a new version."""
    assert path.read_text() == (
        r'{"format": "parimend.faults", "version": 1, "seed": 2, "kind": "bitflip", '
        r'"placement": "scattered", "count": 4, "tensors": {"a\n\u20ac": "BF16", "b": "I64"}}'
        "\n"
        r'{"tensor": "a\n\u20ac", "index": 1, "before": "3f80", "after": "3780"}'
        "\n"
        r'{"tensor": "a\n\u20ac", "index": 4, "before": "3f80", "after": "2f80"}'
        "\n"
        r'{"tensor": "b", "index": 2, '
        r'"before": "0000000000000001", "after": "0000000000004001"}'
        "\n"
        r'{"tensor": "b", "index": 4, '
        r'"before": "0000000000000001", "after": "0000010000000001"}'
        "\n"
    )


def test_saving_replaces_the_file_and_keeps_it_when_it_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    other = draw("zero", {"w": np.ones(5)}, 2, seed=0)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            other.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    other.save(path)
    assert FaultList.load(path) == other


def edited(line: int, **changes: Any) -> Any:
    """An edit of one line's keys; None removes a key."""

    def edit(lines: list[str]) -> list[str]:
        row = json.loads(lines[line - 1]) | changes
        lines[line - 1] = json.dumps({key: row[key] for key in row if row[key] is not None})
        return lines

    return edit


def replaced(line: int, text: str) -> Any:
    return lambda lines: lines[: line - 1] + [text] + lines[line:]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [], "empty; a fault list has at least a header line"),
        (lambda lines: lines[:-1], "the header promises 4 faults, 3 are there"),
        (lambda lines: lines + lines[-1:], r"line 6: .* is out of order or repeated"),
        (lambda lines: [lines[0], *lines[:0:-1]], r"line 3: .* is out of order or repeated"),
        (replaced(1, "{}"), "line 1: not the header of a fault list"),
        (replaced(1, "[]"), "line 1: not the header of a fault list"),
        (edited(1, format="other"), "line 1: not the header of a fault list"),
        (edited(1, version=2), "line 1: version 2 of the format; this release reads version 1"),
        (edited(1, seed=None), "line 1: needs an object with exactly the keys format, version"),
        (edited(1, extra=1), "line 1: needs an object with exactly the keys"),
        (edited(1, seed=-1), "line 1: seed must be an integer from 0 to 18446744073709551615"),
        (edited(1, seed=1.0), "line 1: seed must be an integer"),
        (edited(1, count=True), "line 1: count must be an integer"),
        (edited(1, kind=""), "line 1: kind must be a name, not ''"),
        (edited(1, placement=3), "line 1: placement must be a name, not 3"),
        (edited(1, tensors=["b"]), "line 1: tensors must be an object"),
        (edited(1, tensors={"b": "I64", "a": "F32"}), "line 1: tensors must be .* ascending"),
        (edited(1, tensors={"b": "F99"}), "line 1: unknown dtype 'F99'"),
        (edited(1, tensors={"b": ["F32"]}), "line 1: dtype of tensor 'b' must be a name"),
        (edited(1, tensors={"b": "I64"}), r"line 2: tensor 'a\\n€' is not in the header"),
        (
            edited(1, tensors={"a\n\u20ac": "BF16", "b": "I64", "c": "F32"}),
            "line 1: no fault strikes tensor 'c'",
        ),
        (replaced(3, ""), "line 3: Expecting value"),
        (replaced(3, "[" * 100_000), "line 3: "),
        (replaced(3, '{"index": ' + "9" * 5000 + "}"), "line 3: "),
        (replaced(3, "7"), "line 3: needs an object with exactly the keys tensor, index, before"),
        (edited(2, after=None), "line 2: needs an object with exactly the keys tensor, index"),
        (edited(2, tensor=["b"]), r"line 2: tensor \['b'\] is not in the header"),
        (edited(2, index=-1), "line 2: index must be an integer from 0 to"),
        (edited(2, index="1"), "line 2: index must be an integer"),
        (edited(2, before="3F80"), r"line 2: before must be 4 hexadecimal digits \(BF16\)"),
        (edited(2, after="3f8"), "line 2: after must be 4 hexadecimal digits .* not '3f8'"),
        (edited(2, after=1), "line 2: after must be 4 hexadecimal digits"),
        (edited(2, after="3f80"), "line 2: before and after are both 3f80; a fault must change"),
    ],
)
def test_damaged_files_are_refused(path: Path, edit: Any, message: str) -> None:
    lines = edit(path.read_text().splitlines())
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(FaultFileError, match=message) as caught:
        FaultList.load(path)
    assert str(caught.value).startswith(str(path))
    assert isinstance(caught.value, FaultError)


def test_files_cut_off_at_any_byte_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FaultFileError):
            FaultList.load(path)


def test_foreign_bytes_are_refused(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(FaultFileError, match="not a fault list, it holds bytes beyond ASCII"):
        FaultList.load(path)


def test_a_missing_file_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FaultList.load(tmp_path / "none")


def test_only_regular_files(path: Path) -> None:
    faults = FaultList.load(path)
    fifo = path.with_name("fifo")
    os.mkfifo(fifo)
    for act in (FaultList.load, faults.save):
        with pytest.raises(ParimendError, match="fifo is a FIFO: name a regular file"):
            act(fifo)
    assert fifo.is_fifo()
