"""Folders on the command line: pipelines, caches, seals elsewhere, bad members."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from samples import SAMPLES

from tests.files.conftest import flip_bit

NAMES = ("unet/model-00001-of-00002.safetensors", "unet/model-00002-of-00002.safetensors")
OTHERS = ("model_index.json", "tokenizer/vocab.txt")


@pytest.fixture
def folder(tmp_path, rng):
    """A snapshot in a cache: every file is a link to a blob."""
    folder, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    blobs.mkdir()
    weights = {
        name: safetensors.numpy.save({name: rng.standard_normal((30, 40), dtype=np.float32)})
        for name in (*NAMES, "vae/model.safetensors")
    }
    for name, data in {**weights, **dict.fromkeys(OTHERS, b"text")}.items():
        blob = blobs / name.replace("/", "-")
        blob.write_bytes(data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(blob)
    return folder


def test_a_snapshot_from_protect_to_repair(folder, run):
    code, out, _ = run("protect", folder)
    assert (code, out.count("1,200 of 1,200")) == (0, 3)
    assert (
        "left out, as not known to hold weights: model_index.json, tokenizer/vocab.txt (--all"
        in out
    )
    original = (folder / NAMES[0]).read_bytes()
    flip_bit(folder / NAMES[0])
    code, out, _ = run("check", folder, "--json")
    verdicts = [file["verdict"] for file in json.loads(out)["files"]]
    assert (code, verdicts) == (1, ["correctable", "clean", "clean"])
    assert run("repair", folder, "--in-place")[0] == 0
    assert (folder / NAMES[0]).read_bytes() == original
    assert (folder / NAMES[0]).is_symlink()
    code, out, _ = run("protect", folder, "--all")
    assert (code, out.count("(kept)"), "left out" in out) == (0, 3, False)
    flip_bit(folder / OTHERS[0])
    assert run("check", folder)[0] == 1
    assert len(json.loads(run("inspect", folder, "--json")[1])["files"]) == 5


def test_what_is_not_known_to_hold_weights_is_named(folder, run, rng):
    """Who reads it sees whether something of worth is among it: what is large comes first."""
    taken = ["a.GGUF", "b.Safetensors", "best.pth.tar", "c.PT", "d.engine", "e.pt2", "f.keras"]
    for name in taken:
        shutil.copy(folder / NAMES[0], folder / name)
    (folder / "weights.unheard").write_bytes(rng.bytes(99))
    for number in range(4):
        (folder / f"note{number}.txt").write_bytes(b"a")
    shutil.copy(SAMPLES["gguf"](folder, rng), folder / "a.GGUF")
    code, out, _ = run("protect", folder)
    said = "not known to hold weights: weights.unheard, model_index.json, tokenizer/vocab.txt, "
    assert (code, said in out, "and 2 smaller ones (--all" in out) == (0, True, True)
    for name in taken:
        flip_bit(folder / name)
    code, out, _ = run("check", folder, "--json")
    wrong = [file["path"] for file in json.loads(out)["files"] if file["verdict"] == "correctable"]
    assert (code, wrong) == (1, [str(folder / name) for name in taken])


def test_several_paths(folder, run, tmp_path):
    """As a shell gives them for a pattern."""
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / NAMES[0]).read_bytes())
    code, out, _ = run("protect", alone, folder, "--json")
    made = json.loads(out)
    assert (code, len(made["files"])) == (0, 4)
    assert sorted(made["others"]) == sorted(str(folder / name) for name in OTHERS)
    original = alone.read_bytes()
    flip_bit(alone)
    flip_bit(folder / NAMES[1])
    assert run("check", alone, folder)[0] == 1
    nothing = tmp_path / "nothing.safetensors"
    code, out, _ = run("repair", nothing, alone, folder, "--in-place", "--json")
    verdicts = {file["path"]: file["verdict"] for file in json.loads(out)["files"]}
    assert (code, verdicts[str(nothing)], verdicts[str(alone)]) == (1, "unknown", "corrected")
    assert verdicts[str(folder / NAMES[1])] == "corrected"
    assert alone.read_bytes() == original
    assert run("check", alone, folder, "-q") == (0, "", "")
    code, out, _ = run("inspect", nothing, alone, folder, "--json")
    told = {file["path"]: file.get("problem") for file in json.loads(out)["files"]}
    assert (code, len(told), told.pop(str(nothing))) == (1, 5, "it is missing")
    assert {*told.values()} == {None}
    assert run("inspect", alone, folder)[0] == 0
    for command in (("protect", "--carrier", "real"), ("repair",)):
        code, _, error = run(*command, alone, folder, "-o", tmp_path / "out")
        assert (code, "is the place of one result" in error) == (2, True)
    code, out, _ = run("protect", nothing, alone)
    assert (code, f"not protected: {nothing}: it is missing" in out) == (1, True)


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.onnx", "x.index.json", "empty/"])
def test_one_of_several_paths_that_cannot_be_protected(folder, run, tmp_path, name):
    broken = tmp_path / name
    if name.endswith("/"):
        broken.mkdir()
    else:
        broken.write_bytes(b"{}")
    code, out, _ = run("protect", broken, folder / NAMES[0], "--json")
    made = json.loads(out)
    assert (code, [each["path"] for each in made["problems"]]) == (1, [str(broken)])
    assert [file["path"] for file in made["files"]] == [str(folder / NAMES[0])]
    assert run("check", folder / NAMES[0])[0] == 0


def test_quiet_says_only_what_is_not_clean(folder, run):
    assert run("protect", folder)[0] == 0
    assert run("check", folder, "--quiet") == (0, "", "")
    assert run("repair", folder, "--in-place", "-q") == (0, "", "")
    flip_bit(folder / NAMES[0])
    code, out, _ = run("check", folder, "-q")
    assert (code, NAMES[0] in out, NAMES[1] in out) == (1, True, False)
    assert "repair it: parimend repair" in out
    code, out, _ = run("repair", folder, "--in-place", "--quiet", "--list")
    assert (code, NAMES[0] in out, NAMES[1] in out) == (0, True, False)
    assert out.splitlines()[-1].startswith("corrected")
    (folder / NAMES[1]).unlink()
    assert "missing" in run("check", folder, "-q")[1]
    code, out, _ = run("check", folder, "--quiet", "--json")
    assert (code, len(json.loads(out)["files"])) == (1, 3)


def test_seals_elsewhere(folder, run, tmp_path):
    seals = tmp_path / "seals"
    before = sorted(folder.rglob("*"))
    assert run("protect", folder, "--seal-dir", seals)[0] == 0
    assert (sorted(folder.rglob("*")), len(list(seals.iterdir()))) == (before, 3)
    code, _, err = run("check", folder)
    assert (code, "none of its 3 files has a seal" in err) == (2, True)
    moved = folder.rename(tmp_path / "moved")
    assert run("check", moved, "--seal-dir", seals)[0] == 0
    flip_bit(moved / NAMES[1])
    code, out, _ = run("check", moved, "--seal-dir", seals)
    mend = f"parimend repair {moved / NAMES[1]} --seal-dir {seals} --in-place"
    assert (code, mend in out) == (1, True)
    assert run("inspect", moved, "--seal-dir", seals)[0] == 0
    assert run("repair", moved, "--in-place", "--seal-dir", seals)[0] == 0
    assert run("check", moved, "--seal-dir", seals)[0] == 0
    assert run("protect", moved / NAMES[0], "-e", 9, "-o", tmp_path / "one.parimend")[0] == 0
    assert run("check", moved / NAMES[0], "--seal-dir", tmp_path / "one.parimend")[0] == 0
    shutil.copy(tmp_path / "one.parimend", seals)
    code, out, err = run("check", moved / NAMES[0], "--seal-dir", seals)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "has several seals for" in err
    assert "one.parimend" in err
    code, out, _ = run("check", moved, "--seal-dir", seals, "--json")
    verdicts = [file["verdict"] for file in json.loads(out)["files"]]
    assert (code, verdicts) == (1, ["unknown", "clean", "clean"])
    stranger = moved / "vae" / "model.safetensors"
    stranger.write_bytes((moved / NAMES[1]).read_bytes())
    code, out, _ = run("check", stranger, "--seal-dir", tmp_path / "one.parimend")
    assert (code, out) == (2, "")
    code, _, err = run("check", moved, "--seal-dir", tmp_path / "nothing")
    assert (code, "there is no such folder of seals" in err) == (2, True)


def test_bad_members(folder, run):
    (folder / "archive.pt").write_bytes(b"PK\3\4" + bytes(60))
    (folder / NAMES[1]).unlink()
    (folder / "linked").symlink_to("vae")
    code, out, _ = run("protect", folder)
    assert code == 1
    assert f"not protected: {folder / NAMES[1]}: it is missing" in out
    assert f"not protected: {folder / 'archive.pt'}: " in out
    assert "left out: linked/: a link to a folder, which is not followed" in out
    code, out, _ = run("protect", folder, "--json")
    made = json.loads(out)
    assert (code, len(made["files"]), made["left_out"]) == (1, 2, ["linked/"])
    assert [problem["path"] for problem in made["problems"]] == [
        str(folder / "archive.pt"),
        str(folder / NAMES[1]),
    ]
    code, out, _ = run("check", folder, "--json")
    verdicts = [file["verdict"] for file in json.loads(out)["files"]]
    assert (code, verdicts.count("unknown")) == (1, 2)


def sets_of(tmp_path, rng, *names):
    """Folders with files of the same names and shapes."""
    for name in names:
        (tmp_path / name).mkdir()
        for part in ("a", "b"):
            weights = {"w": rng.standard_normal((30, 40), dtype=np.float32)}
            safetensors.numpy.save_file(weights, tmp_path / name / f"{part}.safetensors")
    return [tmp_path / name for name in names]


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_protected_by_seals_elsewhere_is_not_replaced(run, tmp_path, rng):
    """A file that has a seal there, and a whole set; the same files may be written again."""
    first, second = sets_of(tmp_path, rng, "first", "second")
    seals, third = tmp_path / "seals", tmp_path / "third"
    third.mkdir()
    assert run("protect", first, second, "--seal-dir", seals)[0] == 0
    before = content_of(tmp_path)
    for path, out in (
        (first, second),
        (first / "a.safetensors", first / "b.safetensors"),
        (first / "a.safetensors", second),
    ):
        code, _, err = run("repair", path, "-o", out, "--seal-dir", seals)
        assert (code, content_of(tmp_path)) == (2, before)
        assert f" has the seal {seals}" in err
    for out in (third, third, tmp_path / "new.safetensors", tmp_path / "new.safetensors"):
        path = first if out == third else first / "a.safetensors"
        assert run("repair", path, "-o", out, "--seal-dir", seals)[0] == 0
    assert (third / "b.safetensors").read_bytes() == (first / "b.safetensors").read_bytes()


def test_a_receipt_does_not_replace_one_that_has_a_seal_elsewhere(run, tmp_path, rng):
    [folder] = sets_of(tmp_path, rng, "folder")
    seals, receipt = tmp_path / "seals", tmp_path / "receipt.json"
    check = ("check", folder, "--seal-dir", seals, "--receipt", receipt)
    assert run("protect", folder, "--seal-dir", seals)[0] == 0
    assert [run(*check)[0], run(*check)[0]] == [0, 0]
    assert run("protect", receipt, "--seal-dir", seals)[0] == 0
    before = receipt.read_bytes()
    code, _, err = run(*check)
    assert (code, "has the seal" in err, receipt.read_bytes()) == (2, True, before)


def test_protected_files_do_not_replace_others_in_a_folder(run, tmp_path, rng):
    first, second, out = sets_of(tmp_path, rng, "first", "second", "out")
    options = ("--carrier", "lowbits", "--errors", 3, "-o", out)
    code, said, _ = run("protect", first, *options)
    assert (code, said.count("weights moved by")) == (0, 1)  # of all files, at most
    before = content_of(out)
    code, _, err = run("protect", second, *options)
    assert (code, content_of(out)) == (2, before)
    assert "a.safetensors has a seal inside and would be replaced" in err
    assert "or use --force" in err
    assert run("protect", second, *options, "--force")[0] == 0


@pytest.mark.parametrize("lost", ["a file", "one of a set"])
def test_a_lost_file_is_fetched_to_another_place_again(run, tmp_path, rng, lost):
    copy, folder, out = sets_of(tmp_path, rng, "copy", "folder", "out")
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    assert run("protect", folder)[0] == 0
    name = "b.safetensors"
    (folder / name).unlink()
    path, goal = (folder / name, out / "c") if lost == "a file" else (folder, out)
    repair = ("repair", path, "-o", goal, "--from", f"{copy}/")
    for _ in range(2):
        assert run(*repair)[0] == 0
    assert (goal / name if goal.is_dir() else goal).read_bytes() == (copy / name).read_bytes()
    # What lies there is known by its seal: that of another file is kept.
    (folder / f"{name}.parimend").unlink()
    (folder / "a.safetensors").rename(folder / name)
    (folder / "a.safetensors.parimend").rename(folder / f"{name}.parimend")
    assert run("repair", folder / name, "-o", out / "c" if lost == "a file" else out)[0] == 2
