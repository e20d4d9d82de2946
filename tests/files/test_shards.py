"""Sharded checkpoints: an index and its shards as one."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from parimend import check_file, plan, protect_file, repair_file
from parimend.errors import FormatError, MismatchError, SpecError, WordError
from parimend.files import protect_all, sidecar_of, targets
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path, rng):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    weight_map = {}
    for number in (1, 2, 3):
        name = f"model-{number:05}-of-00003.safetensors"
        arrays = {f"layer{number}": rng.standard_normal((40, 50), dtype=np.float32)}
        safetensors.numpy.save_file(arrays, folder / name)
        weight_map |= dict.fromkeys(arrays, name)
    index = {"metadata": {"total_size": 24000}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("by", ["folder", "index"])
def test_every_shard_has_its_own_budget(folder, rng, by):
    path = folder if by == "folder" else folder / INDEX
    assert [made.seal.errors for made in protect_file(path, errors=10)] == [10] * 4
    original = contents(folder)
    for shard in sorted(folder.glob("*.safetensors")):
        flip(shard, rng, 10)
    report = check_file(path)
    assert report.verdict is Verdict.CORRECTABLE
    assert [len(file.changes) for file in report.files] == [0, 10, 10, 10]
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert contents(folder) == original


def test_one_lost_shard_does_not_stop_the_others(folder, rng):
    protect_file(folder, errors=10)
    first, second, _ = sorted(folder.glob("*.safetensors"))
    original = first.read_bytes()
    flip(first, rng, 5)
    flip(second, rng, 1000)
    report = repair_file(folder)
    assert [file.verdict.value for file in report.files] == [
        "clean",
        "corrected",
        "uncorrectable",
        "clean",
    ]
    assert first.read_bytes() == original


@pytest.mark.parametrize("by", ["folder", "index"])
def test_a_damaged_index_is_repaired(folder, by):
    protect_file(folder, errors=10)
    original = contents(folder)
    damage(folder / INDEX, 0, b"#")
    assert repair_file(folder if by == "folder" else folder / INDEX).verdict is Verdict.CORRECTED
    assert contents(folder) == original


def test_a_copy_goes_to_a_folder(folder, rng, tmp_path):
    protect_file(folder, errors=10)
    original = contents(folder)
    flip(folder / "model-00002-of-00003.safetensors", rng, 5)
    with pytest.raises(SpecError, match="give an existing folder"):
        repair_file(folder, tmp_path / "nothing")
    copy = tmp_path / "copy"
    copy.mkdir()
    repair_file(folder, copy)
    del original["config.json"]
    assert contents(copy) == original


@pytest.mark.parametrize("carrier", ["sidecar", "lowbits"])
def test_a_folder_with_one_file_goes_to_a_folder(folder, tmp_path, carrier):
    """And not to a file of the name of the folder."""
    one, out, copy = tmp_path / "one", tmp_path / "out", tmp_path / "copy"
    one.mkdir()
    (folder / "model-00001-of-00003.safetensors").rename(one / "model.safetensors")
    if carrier == "lowbits":
        with pytest.raises(SpecError, match="one has 1 file: give an existing folder"):
            protect_file(one, 10, carrier, out)
        out.mkdir()
        protect_file(one, 10, carrier, out)
        one = out
    else:
        protect_file(one, 10)
    with pytest.raises(SpecError, match=f"{one.name} has 1 file: give an existing folder"):
        repair_file(one, copy)
    copy.mkdir()
    repair_file(one, copy)
    assert contents(copy) == contents(one)
    assert check_file(copy).verdict is Verdict.CLEAN


def test_a_folder_without_an_index(folder):
    (folder / INDEX).unlink()
    protect_file(folder, errors=10)
    assert len(check_file(folder).files) == 3


def test_what_a_path_stands_for(folder, tmp_path):
    assert [path.name for path in targets(folder)][:2] == [
        INDEX,
        "model-00001-of-00003.safetensors",
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        FormatError, match=r"empty has no files known to hold weights, and no index$"
    ):
        targets(empty)
    (empty / "config.json").write_text("{}")
    with pytest.raises(
        FormatError, match=r"no index; --all \(in Python: everything=True\) protects its other"
    ):
        targets(empty)
    assert [path.name for path in targets(empty, everything=True)] == ["config.json"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "", 7, None])
def test_an_index_cannot_point_outside(folder, name):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(FormatError, match="outside its folder"):
        protect_file(folder / INDEX, errors=10)
    assert not list(folder.glob("*.parimend"))
    made = protect_all([folder], errors=10)
    assert [*made.problems] == [str(folder / INDEX)]
    assert len(made.files) == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000, "\xff"])
def test_an_index_that_cannot_be_read_is_not_protected(folder, text):
    """Nobody knows which shards it stands for; those that are there are protected."""
    (folder / INDEX).write_text(text)
    with pytest.raises(FormatError, match="has no readable weight_map"):
        protect_file(folder / INDEX, errors=10)
    assert not list(folder.glob("*.parimend"))
    with pytest.raises(MismatchError, match=r"1 of 4 files are not .* has no readable weight_map"):
        protect_file(folder, errors=10)
    assert [file.verdict.value for file in check_file(folder).files] == ["unknown"] + ["clean"] * 3


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_shards_that_carry_their_seals(folder, rng, tmp_path, carrier):
    with pytest.raises(SpecError, match="has 4 files: give an existing folder"):
        protect_file(folder, 10, carrier, tmp_path / "nothing")
    before = contents(folder)
    out = tmp_path / "out"
    out.mkdir()
    made = protect_file(folder, 10, carrier, out)
    assert [bool(one.sidecar) for one in made] == [True, False, False, False]
    assert contents(folder) == before
    original = contents(out)
    assert original[INDEX] == before[INDEX]
    assert check_file(out).verdict is Verdict.CLEAN
    for shard in sorted(out.glob("*.safetensors")):
        flip(shard, rng, 10)
        assert set(safetensors.numpy.load_file(shard)) < {"layer1", "layer2", "layer3"}
    damage(out / INDEX, 0, b"#")
    assert repair_file(out).verdict is Verdict.CORRECTED
    assert contents(out) == original
    with pytest.raises(SpecError, match="is the file to be protected"):
        protect_file(folder, 10, carrier, folder)
    again = protect_file(folder, 10, carrier, out)
    assert [one.is_kept for one in again] == [True, False, False, False]
    assert contents(out) == original
    (out / INDEX).write_text("{}")
    with pytest.raises(MismatchError, match="belongs to another file"):
        protect_file(folder, 10, carrier, out)
    protect_file(folder, 10, carrier, out, force=True)
    assert contents(out) == original


@pytest.mark.parametrize("carrier", ["sidecar", "lowbits"])
def test_patterns_are_for_all_shards_together(folder, tmp_path, carrier):
    out = None
    if carrier == "lowbits":
        out = tmp_path / "out"
        out.mkdir()
    with pytest.raises(WordError, match=r"matches 'x\*'; there are layer1, layer2, layer3"):
        protect_file(folder, 10, carrier, out, only=["layer2", "x*"])
    planned = plan(folder, 10, carrier, only=["layer2"])
    assert [len(file.words) for file in planned.files] == [1, 0, 1, 0]
    protect_file(folder, 10, carrier, out, only=["layer2"])
    report = check_file(out or folder)
    assert [file.covered for file in report.files[1:]] == [0, 2000, 0]
    second = (out or folder) / "model-00002-of-00003.safetensors"
    damage(second, -4, b"\x55\xaa")
    damage((out or folder) / "model-00001-of-00003.safetensors", 0, b"\xff\xff")
    assert check_file(out or folder).verdict is Verdict.CORRECTABLE
    assert repair_file(out or folder).verdict is Verdict.CORRECTED


def test_sidecars_are_found_by_name(folder):
    protect_file(folder, errors=10)
    assert all(sidecar_of(path).exists() for path in targets(folder))


def test_a_name_that_no_file_can_have_does_not_hold_up_the_others(tmp_path):
    """As in an index that was damaged, or written by whoever knows no file systems."""
    names = ["a.npy", "x" * 300]
    np.save(tmp_path / "a.npy", np.ones(100, np.float32))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    made = protect_all([tmp_path], 3)
    assert [Path(file.path).name for file in made.files] == [index.name, "a.npy"]
    assert list(made.problems) == [str(tmp_path / names[1])]
    verdicts = {Path(file.path).name: file.verdict.value for file in check_file(tmp_path).files}
    assert verdicts == {index.name: "clean", "a.npy": "clean", names[1]: "unknown"}
