"""What is said of a folder when its files are missing, renamed, added, damaged or unprotected."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

import parimend as pm
from parimend import Seal, check_file, protect_file, repair_file
from parimend.errors import DamagedFileError, DamageError, FormatError, MismatchError, SealError
from parimend.files import seals_of, sidecar_of, targets
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip

KINDS = {
    "safetensors": "model.safetensors.index.json",
    "variant": "model.safetensors.index.fp16.json",
    "bin": "pytorch_model.bin.index.json",
    "none": None,
}


def fill(folder, rng, index, suffix):
    names = [f"model-{number:05}-of-00003{suffix}" for number in (1, 2, 3)]
    for name in names:
        arrays = {name: rng.standard_normal((30, 40), dtype=np.float32)}
        safetensors.numpy.save_file(arrays, folder / name)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": {name: name for name in names}})
        (folder / index).write_text(text)
    return [folder / name for name in names]


@pytest.fixture(params=KINDS)
def checkpoint(request, tmp_path, rng):
    """(folder, index or None, shards), protected."""
    suffix = ".bin" if request.param == "bin" else ".safetensors"
    shards = fill(tmp_path, rng, KINDS[request.param], suffix)
    protect_file(tmp_path, errors=10)
    index = KINDS[request.param]
    return tmp_path, index and tmp_path / index, shards


def verdicts(report):
    return {os.path.basename(file.path): file.verdict.value for file in report.files}


def forget(folder):
    """Make the seals as they were before they noted the members of their set."""
    for beside in folder.glob("*.parimend"):
        replace(Seal.load(beside), notes={}).save(beside)


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("bit", range(8))
def test_no_damage_to_an_index_hides_a_shard(checkpoint, rng, noted, bit):
    folder, index, shards = checkpoint
    if not noted:
        forget(folder)
    original = {path: path.read_bytes() for path in folder.iterdir()}
    for path in (folder, index or folder):
        if index:
            content = original[index]
            where = content.index(b"00003-of") + 4 if bit < 4 else int(rng.integers(len(content)))
            damage(index, where, bytes([content[where] ^ 1 << bit]))
        flip(shards[2], rng, 3)
        assert len(check_file(path).changes) >= 3
        assert pm.verify(path, "repair").verdict is Verdict.CORRECTED
        assert {p: p.read_bytes() for p in original} == original


@pytest.mark.parametrize("noted", [True, False])
def test_an_index_beyond_repair_hides_no_shard(checkpoint, rng, noted):
    folder, index, shards = checkpoint
    if not noted:
        forget(folder)
    original = shards[2].read_bytes()
    if index:
        index.write_bytes(rng.bytes(len(index.read_bytes())))
    flip(shards[2], rng, 3)
    report = repair_file(index or folder)
    assert shards[2].read_bytes() == original
    assert len(report.files) == 3 + bool(index)
    assert report.verdict is (Verdict.UNCORRECTABLE if index else Verdict.CORRECTED)


def test_missing_files_are_findings(checkpoint, rng):
    folder, index, shards = checkpoint
    original = shards[2].read_bytes()
    flip(shards[2], rng, 3)
    shards[1].unlink()
    for path in (folder, index or folder):
        report = check_file(path)
        assert verdicts(report)[shards[1].name] == "unknown"
        assert verdicts(report)[shards[2].name] == "correctable"
        [problem] = [file.problem for file in report.files if file.problem]
        assert problem.startswith("missing")
    with pytest.raises(DamageError, match=rf"{shards[1].name} is not known to be right: missing"):
        pm.verify(folder, "repair")
    assert shards[2].read_bytes() == original
    sidecar_of(shards[1]).unlink()  # the others still know
    assert verdicts(check_file(folder))[shards[1].name] == "unknown"
    with pytest.raises(MismatchError, match=rf"1 of . files are not .*{shards[1].name}: it is mis"):
        protect_file(folder, errors=10)


def test_any_seal_that_is_left_tells_who_is_missing(checkpoint):
    folder, index, shards = checkpoint
    for path in [*shards, *([index] if index else [])]:
        path.unlink()
    for path in shards[1:]:
        sidecar_of(path).unlink()
    if index:
        sidecar_of(index).unlink()
    report = check_file(folder)
    assert set(verdicts(report).values()) == {"unknown"}
    assert len(report.files) == 3 + bool(index)


@pytest.mark.parametrize("together", [True, False])
def test_a_file_that_is_no_longer_wanted(tmp_path, together):
    """As old checkpoints in a folder: what is said ends in a folder that is clean."""
    paths = [tmp_path / f"{number}.npy" for number in (1, 2, 3)]
    for path in paths:
        np.save(path, np.full(300, ord(path.name[0])))
    for path in [tmp_path] if together else paths:
        protect_file(path, 10)
    paths[0].unlink()
    [told] = [file.problem for file in check_file(tmp_path).files if not file.ok]
    side, protect = sidecar_of(paths[0]), f"parimend protect {tmp_path} --force"
    steps = f"remove {side}" + f", and when the others are clean, {protect}" * together
    assert told.endswith(f"; or, if it is no longer wanted, {steps}")
    assert told.startswith("missing: " + ("it was protected" if together else "its seal is there"))
    side.unlink()
    if together:
        [told] = [file.problem for file in check_file(tmp_path).files if not file.ok]
        assert told.endswith(f"if it is no longer wanted, when the others are clean, {protect}")
        protect_file(tmp_path, 10, force=True)
    assert check_file(tmp_path).verdict is Verdict.CLEAN


def test_a_renamed_file_is_missing_and_added(checkpoint):
    folder, index, shards = checkpoint
    renamed = shards[0].rename(shards[0].with_stem("other"))
    for path in (folder, index or folder):
        report = check_file(path)
        problems = {file.path: file.problem for file in report.files if file.problem}
        assert problems.keys() == {str(shards[0]), str(renamed)}
        assert problems[str(shards[0])].startswith("missing")
        assert problems[str(renamed)].startswith("added")
        assert report.verdict is Verdict.UNKNOWN


def test_a_file_without_a_seal_does_not_hide_the_others(checkpoint, rng):
    folder, index, shards = checkpoint
    original = shards[2].read_bytes()
    sidecar_of(shards[0]).unlink()
    sidecar_of(shards[1]).write_bytes(b"damaged beyond repair")
    flip(shards[2], rng, 3)
    expected = dict.fromkeys((shard.name for shard in shards), "unknown")
    expected[shards[2].name] = "correctable"
    if index:
        expected[index.name] = "clean"
    assert verdicts(check_file(folder)) == verdicts(check_file(index or folder)) == expected
    report = repair_file(folder)
    assert verdicts(report) == expected | {shards[2].name: "corrected"}
    assert shards[2].read_bytes() == original
    found, problems = seals_of(folder)
    assert len(found) + len(problems) == len(expected)
    assert [path.name for path in problems] == [shard.name for shard in shards[:2]]


def test_an_index_without_a_seal_is_a_finding(checkpoint):
    folder, index, shards = checkpoint
    if index:
        sidecar_of(index).unlink()
        damage(index, index.read_bytes().index(b"00003-of") + 4, b"2")
        for path in (folder, index):
            report = check_file(path)
            assert verdicts(report)[index.name] == "unknown"
            assert verdicts(report)[shards[2].name] == "clean"
    forget(folder)
    assert len(check_file(index or folder).files) == 3 + bool(index)


def test_an_added_file_that_is_protected_is_looked_at(checkpoint, rng):
    folder, index, shards = checkpoint
    added = shards[0].with_stem("added")
    added.write_bytes(shards[0].read_bytes())
    protect_file(added, errors=3)
    assert check_file(folder).verdict is Verdict.CLEAN
    assert str(added) in [file.path for file in check_file(folder).files]
    assert index is None or check_file(index).verdict is Verdict.CLEAN


def test_nothing_protected_is_an_error(tmp_path, rng):
    with pytest.raises(FormatError, match="no protected files and no files of weights"):
        check_file(tmp_path)
    fill(tmp_path, rng, KINDS["safetensors"], ".safetensors")
    for path in (tmp_path, tmp_path / KINDS["safetensors"]):
        with pytest.raises(SealError, match=r"is not protected: none of its . files has a seal"):
            check_file(path)
    with pytest.raises(SealError, match="parimend protect"):
        check_file(tmp_path)
    damaged = next(path for path in tmp_path.iterdir() if path.suffix == ".safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match=r"is damaged, and not protected.*fetch it again$"):
        check_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "other.index.json")


@pytest.mark.parametrize("note", [["../secret", "/etc/passwd", "..", "", 7, "a\0b", "\ud800"], 3])
def test_a_note_cannot_lead_outside(checkpoint, note):
    folder, *_ = checkpoint
    for beside in folder.glob("*.parimend"):
        replace(Seal.load(beside), notes={"members": note, "left_out": note}).save(beside)
    assert {os.path.dirname(file.path) for file in check_file(folder).files} == {str(folder)}
    assert check_file(folder).verdict is Verdict.CLEAN


def test_what_was_interrupted_can_be_run_again(tmp_path, rng):
    fill(tmp_path, rng, KINDS["safetensors"], ".safetensors")
    made = protect_file(tmp_path, errors=10)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    sidecar_of(targets(tmp_path)[2]).unlink()
    assert verdicts(check_file(tmp_path))["model-00002-of-00003.safetensors"] == "unknown"
    again = protect_file(tmp_path, errors=10)
    assert [one.is_kept for one in again] == [True, True, False, True]
    assert [one.seal_bytes for one in again] == [one.seal_bytes for one in made]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_a_file_that_is_not_as_it_was_keeps_its_seal(tmp_path, rng):
    shards = fill(tmp_path, rng, None, ".safetensors")
    protect_file(tmp_path, errors=10)
    before = sidecar_of(shards[2]).read_bytes()
    sidecar_of(shards[0]).unlink()
    flip(shards[2], rng, 1)
    with pytest.raises(MismatchError, match=r"00003-of-00003.* and is not as it was then"):
        protect_file(tmp_path, errors=10)
    assert sidecar_of(shards[2]).read_bytes() == before
    assert check_file(shards[0]).verdict is Verdict.CLEAN


def test_a_set_may_grow(tmp_path, rng):
    """The seals of files that are as they were learn of the new one."""
    shards = fill(tmp_path, rng, None, ".safetensors")
    protect_file(tmp_path, errors=10)
    forget(tmp_path)
    added = shards[0].with_stem("added")
    added.write_bytes(shards[0].read_bytes())
    assert [one.is_kept for one in protect_file(tmp_path, errors=10)] == [False, True, True, True]
    added.unlink()
    sidecar_of(added).unlink()
    assert verdicts(check_file(tmp_path))[added.name] == "unknown"


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_seals_inside_files_know_the_others(tmp_path, rng, carrier):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    shards = fill(source, rng, None, ".safetensors")
    protect_file(source, 10, carrier, out)
    assert check_file(out).verdict is Verdict.CLEAN
    (out / shards[1].name).unlink()
    (out / "more.safetensors").write_bytes(shards[1].read_bytes())
    assert verdicts(check_file(out)) == {
        shards[0].name: "clean",
        shards[1].name: "unknown",
        shards[2].name: "clean",
        "more.safetensors": "unknown",
    }


def test_odd_neighbours(tmp_path, rng):
    """A name with no room for that of a sidecar, and a link to a folder that is named like one."""
    fill(tmp_path, rng, None, ".safetensors")
    protect_file(tmp_path, errors=10)
    (tmp_path / "link.parimend").symlink_to(tmp_path.parent)
    assert check_file(tmp_path).verdict is Verdict.CLEAN
    long = tmp_path / ("x" * 250 + ".bin")
    long.write_bytes(bytes(99))
    assert [name for name, v in verdicts(check_file(tmp_path)).items() if v == "unknown"] == [
        long.name
    ]
