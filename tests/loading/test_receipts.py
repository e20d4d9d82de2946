"""Receipts: canonical bytes, and digests that anybody can compute."""

import hashlib
import json

import pytest
import torch

import parimend as pm
from parimend.errors import MismatchError, SealError
from parimend.files import sidecar_of
from parimend.loading import receipts
from tests.files.conftest import flip_bit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(receipts, "_now", lambda: "2026-11-26T20:00:00Z")
    monkeypatch.setattr(receipts, "_versions", lambda: {"parimend": "1"})
    for name in ("b", "a"):
        pm.save_file({"w": torch.arange(99.0)}, tmp_path / f"{name}.safetensors", errors=3)
    return tmp_path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_in_it(folder):
    receipt, report = pm.receipt(folder)
    assert report.ok
    told = json.loads(receipt.to_bytes())
    assert [file["name"] for file in told["files"]] == ["a.safetensors", "b.safetensors"]
    first = folder / "a.safetensors"
    assert told["files"][0] == {
        "name": "a.safetensors",
        "verdict": "clean",
        "size": first.stat().st_size,
        "sha256": sha256(first),
        "seal_sha256": sha256(sidecar_of(first)),
        "carrier": "sidecar",
        "errors": 3,
        "elements": 99,
        "covered": 99,
        "findings": [],
    }
    rest = {key: value for key, value in told.items() if key != "files"}
    assert rest == {
        "schema": 1,
        "verdict": "clean",
        "time": "2026-11-26T20:00:00Z",
        "versions": {"parimend": "1"},
    }


def test_the_same_content_gives_the_same_bytes(folder):
    """RFC 8785: keys in order, no spaces, UTF-8; there are no fractions in it."""
    data = pm.receipt(folder)[0].to_bytes()
    assert data == pm.receipt(folder)[0].to_bytes()
    again = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert data == again.encode()
    assert b"." not in data.replace(b".safetensors", b"")


def test_names_of_any_kind(tmp_path):
    for name in (
        "größe.safetensors",
        "a\nb.safetensors",
        b"\xff.pt".decode(errors="surrogateescape"),
    ):
        path = tmp_path / name
        pm.save_file({"w": torch.ones(9)}, path, errors=2)
        told = json.loads(pm.receipt(path)[0].to_bytes())
        assert told["files"][0]["name"] == name
        assert told["verdict"] == "clean"


def test_damage_is_written_down(folder):
    first = folder / "a.safetensors"
    flip_bit(first)
    (folder / "b.safetensors").unlink()
    receipt, report = pm.receipt(folder)
    assert receipt.verdict == report.verdict == "correctable" or report.verdict == "unknown"
    one, two = json.loads(receipt.to_bytes())["files"]
    assert one["findings"] == ["1 wrong element, can be corrected"]
    assert one["sha256"] == sha256(first)
    assert (two["verdict"], two["sha256"], two["size"]) == ("unknown", "", 0)
    sidecar_of(first).unlink()
    with pytest.raises(SealError):
        pm.receipt(first)


def test_files_that_are_written_meanwhile(folder, monkeypatch):
    def late(path, progress, **options):
        report = pm.check_file(path, **options)
        (folder / "a.safetensors").touch()
        return report

    monkeypatch.setattr(receipts, "check_file", late)
    with pytest.raises(MismatchError, match=r"a\.safetensors changed while it was being looked at"):
        pm.receipt(folder)


def test_command(folder, tmp_path_factory, capsys):
    from parimend.cli import main

    out = tmp_path_factory.mktemp("receipts") / "receipt.json"
    with pytest.raises(SystemExit) as end:
        main(["check", str(folder), "--receipt", str(out)])
    assert not end.value.code
    assert "clean" in capsys.readouterr().out
    assert out.read_bytes() == pm.receipt(folder)[0].to_bytes()


def test_a_folder_in_the_place_of_a_file_is_written_down(folder):
    second = folder / "b.safetensors"
    second.unlink()
    second.mkdir()
    receipt, _ = pm.receipt(folder)
    assert [(file.verdict, bool(file.sha256)) for file in receipt.files] == [
        ("clean", True),
        ("unknown", False),
    ]


def test_a_receipt_that_cannot_be_written_is_told_before_looking(folder, tmp_path, monkeypatch):
    from parimend.cli import main

    def look(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(receipts, "check_file", look)
    with pytest.raises(SystemExit) as end:
        main(["check", str(folder), "--receipt", str(tmp_path / "nowhere" / "receipt.json")])
    assert end.value.code == 2


def test_a_receipt_replaces_nothing_that_is_looked_at(folder, capsys):
    from parimend.cli import main

    first = folder / "a.safetensors"
    before = first.read_bytes(), sidecar_of(first).read_bytes()
    for out in (first, sidecar_of(first)):
        with pytest.raises(SystemExit) as end:
            main(["check", str(folder), "--receipt", str(out)])
        assert end.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith(f"parimend: {out} ")
        assert "would be replaced: take another name" in told
    assert (first.read_bytes(), sidecar_of(first).read_bytes()) == before
