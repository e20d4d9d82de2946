"""Folders as hubs and libraries lay them out: caches of links, pipelines, every kind of index."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from samples import SAMPLES

from parimend import check_file, fingerprint, protect_file, repair_file, verify
from parimend.errors import FormatError, MismatchError, SealError
from parimend.files import check_all, protect_all, seals_of, sidecar_of, targets
from parimend.files.notes import MEMBERS, noted
from parimend.outcomes import Verdict
from tests.files.conftest import flip

INDICES = (
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "text_encoder/model.safetensors.index.fp16.json",
    "old/pytorch_model.bin.index.json",
)
OTHERS = ("model_index.json", "tokenizer/vocab.txt", "unet/config.json")


def weights(rng, name="w"):
    return safetensors.numpy.save({name: rng.standard_normal((20, 30), dtype=np.float32)})


def contents(rng):
    """The files of a pipeline, by their names."""
    files = {"model_index.json": b"{}", "tokenizer/vocab.txt": b"a\nb\n", "unet/config.json": b"{}"}
    for index in INDICES:
        folder, name = os.path.split(index)
        stem, suffix = name.split(".")[:2]
        names = [f"{stem}-{number:05}-of-00002.{suffix}" for number in (1, 2)]
        files |= {f"{folder}/{each}": weights(rng, each) for each in names}
        files[index] = json.dumps({"weight_map": {each: each for each in names}}).encode()
    files["vae/diffusion_pytorch_model.safetensors"] = weights(rng)
    files["vae/diffusion_pytorch_model.fp16.safetensors"] = weights(rng)
    files["consolidated.safetensors"] = weights(rng)
    return files


@pytest.fixture(params=["folder", "cache"])
def pipeline(request, tmp_path, rng):
    """(folder, content of every file by its name); of the cache of a hub, all files are links."""
    files = contents(rng)
    folder = tmp_path / "models--a--b" / "snapshots" / "0123abcd"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, (name, data) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "cache":
            (blobs / f"blob{number}").write_bytes(data)
            path.symlink_to(os.path.relpath(blobs / f"blob{number}", path.parent))
        else:
            path.write_bytes(data)
    return folder, files


def names(report, folder):
    return [Path(file.path).relative_to(folder).as_posix() for file in report.files]


def verdicts(report, folder):
    found = zip(names(report, folder), report.files, strict=True)
    return {name: file.verdict.value for name, file in found if not file.ok}


def damaged(folder, names, rng):
    for name in names:
        flip(folder / name, rng, 3, start=0)


def test_a_pipeline(pipeline, rng):
    folder, files = pipeline
    made = protect_all([folder], errors=10)
    assert {Path(one.path).relative_to(folder).as_posix() for one in made.files} == {
        *files.keys() - {*OTHERS}
    }
    assert (made.problems, made.left_out, sorted(made.others)) == ({}, {}, sorted(OTHERS))
    assert check_file(folder).verdict is Verdict.CLEAN
    hurt = sorted(files.keys() - {*OTHERS})[::2]
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    damaged(folder, hurt, rng)
    assert verdicts(check_file(folder), folder) == dict.fromkeys(hurt, "correctable")
    assert repair_file(folder).verdict is Verdict.CORRECTED
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert [path for path in folder.rglob("*") if path.is_symlink()] == links


def test_everything_else_is_asked_for(pipeline, rng):
    folder, files = pipeline
    (folder / "empty.txt").touch()
    made = protect_all([folder], errors=2, everything=True)
    assert {Path(one.path).relative_to(folder).as_posix() for one in made.files} == {*files}
    assert made.others == []
    hurt = sorted(OTHERS)
    for name in hurt:
        (folder / name).write_bytes(b"#" + files[name][1:])
    assert verdicts(check_file(folder), folder) == dict.fromkeys(hurt, "correctable")
    assert verify(folder, "repair").verdict is Verdict.CORRECTED
    (folder / OTHERS[1]).unlink()
    assert verdicts(check_file(folder), folder) == {OTHERS[1]: "unknown"}


def test_a_part_of_it_stands_for_itself(pipeline):
    folder, files = pipeline
    protect_file(folder, errors=2)
    for name in ("unet", "vae"):
        expected = [each for each in files if each.startswith(name) and each not in OTHERS]
        assert {f"{name}/{each}" for each in names(check_file(folder / name), folder / name)} == {
            *expected
        }
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    assert verdicts(check_file(folder / "unet"), folder) == {
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors": "unknown"
    }
    assert check_file(folder / "vae").verdict is Verdict.CLEAN


def test_what_was_protected_in_parts_is_checked_as_a_whole(pipeline):
    folder, _ = pipeline
    for name in ("unet", "vae", "text_encoder", "old", "consolidated.safetensors"):
        protect_file(folder / name, errors=2)
    assert check_file(folder).verdict is Verdict.CLEAN
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert verdicts(check_file(folder.parent), folder) == {
        "vae/diffusion_pytorch_model.fp16.safetensors": "unknown"
    }
    shutil.copytree(folder / "old", folder / "new", symlinks=True)
    assert check_file(folder / "new").verdict is Verdict.CLEAN
    made = protect_all([folder], errors=2)
    assert all(one.is_kept for one in made.files)
    [problem] = made.problems.values()
    assert "together with vae/diffusion_pytorch_model.fp16.safetensors, which is not" in problem


def test_what_is_left_out_of_a_set_is_not_said_to_be_missing(pipeline):
    folder, _ = pipeline
    protect_file(folder, errors=2, everything=True)
    with pytest.raises(MismatchError, match=r"together with .*, which is left out now"):
        protect_file(folder, errors=2)


def test_what_another_path_brings_is_not_left_out(pipeline):
    folder, _ = pipeline
    index, vocabulary = folder / INDICES[0], folder / "tokenizer" / "vocab.txt"
    apart = index.with_name("apart.safetensors")
    apart.write_bytes((folder / "consolidated.safetensors").read_bytes())
    assert str(apart) in protect_all([index, vocabulary], 2).left_out
    assert str(apart) not in protect_all([index, apart], 2).left_out
    made = protect_all([folder, vocabulary], 2)
    assert str(vocabulary) in {file.path for file in made.files}
    assert sorted(made.others) == [str(folder / name) for name in OTHERS if "vocab" not in name]


@pytest.mark.parametrize("index", INDICES)
def test_missing_and_surplus_shards_are_told_each(pipeline, index):
    folder, _ = pipeline
    stem, suffix = index.split(".")[:2]
    missing = folder / f"{stem}-00002-of-00002.{suffix}"
    surplus = folder / f"{stem}-00003-of-00005.{suffix}"
    surplus.write_bytes(missing.read_bytes())
    missing.unlink()
    made = protect_all([folder], errors=2)
    assert made.problems == {str(missing): "it is missing"}
    assert [*made.left_out] == [surplus.relative_to(folder).as_posix()]
    assert "a shard that no index lists" in made.left_out[surplus.relative_to(folder).as_posix()]
    assert verdicts(check_file(folder), folder) == {
        missing.relative_to(folder).as_posix(): "unknown"
    }
    added = folder / f"{stem}-00004-of-00005.{suffix}"
    added.write_bytes(surplus.read_bytes())
    report = check_file(folder)
    problems = {file.path: file.problem.split(":")[0] for file in report.files if file.problem}
    assert problems == {str(missing): "missing", str(added): "added"}


@pytest.mark.parametrize("first", [0, 1])
def test_shards_without_an_index_are_counted(tmp_path, rng, first):
    for number in (first, first + 3):
        (tmp_path / f"llama-{number:05}-of-00004.safetensors").write_bytes(weights(rng))
    made = protect_all([tmp_path], errors=2)
    assert [Path(path).name for path in made.problems] == [
        f"llama-{number:05}-of-00004.safetensors" for number in (first + 1, first + 2)
    ]
    assert len(made.files) == 2


@pytest.mark.parametrize("name", ["gguf", "onnx", "torch", "npz", "npy"])
def test_folders_of_other_formats_alone(name, tmp_path, rng):
    sample = SAMPLES[name](tmp_path, rng)
    original = sample.read_bytes()
    [made] = protect_file(tmp_path, errors=20)
    flip(sample, rng, 20, start=0)
    assert verify(tmp_path, "repair").verdict is Verdict.CORRECTED
    assert (made.path, sample.read_bytes()) == (str(sample), original)


BROKEN = {
    "archive.pt": b"PK\3\4 and no central directory" + bytes(100),
    "header.safetensors": b"\xff" * 30,
    "version.gguf": b"GGUF\x63\0\0\0" + bytes(60),
    "nothing.npy": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_member_does_not_keep_the_others(tmp_path, rng, name):
    (tmp_path / name).write_bytes(BROKEN[name])
    (tmp_path / "model.safetensors").write_bytes(weights(rng))
    with pytest.raises(
        MismatchError, match=rf"1 of 2 files are not protected: \S*{name}: "
    ) as told:
        protect_file(tmp_path, errors=2)
    assert str(told.value).count(str(tmp_path / name)) == 1
    assert [file.verdict.value for file in check_file(tmp_path).files if not file.ok] == ["unknown"]
    assert not sidecar_of(tmp_path / name).exists()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=name):  # nothing at all can be protected
        protect_file(tmp_path / name, errors=2)


def test_a_link_that_leads_nowhere(pipeline):
    folder, _ = pipeline
    protect_file(folder, errors=2)
    lost = folder / "consolidated.safetensors"
    lost.unlink()
    lost.symlink_to("../../blobs/gone")
    [file] = [file for file in check_file(folder).files if not file.ok]
    assert file.problem == (
        "missing: it is a link to ../../blobs/gone, which is not there; fetch it again "
        f"(parimend repair {lost} --in-place --from OTHER does, and proves it); or, if it is no "
        f"longer wanted, remove {lost} and {sidecar_of(lost)}, and when the others are clean, "
        f"parimend protect {folder} --force"
    )
    made = protect_all([folder], errors=2)
    assert made.problems == {str(lost): "it is a link to ../../blobs/gone, which is not there"}


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_hidden_file_that_has_a_seal_is_looked_at(tmp_path, rng, is_apart):
    folder = tmp_path / "checkpoint"
    (folder / "below").mkdir(parents=True)
    hidden = [folder / ".metadata", folder / "below" / ".state"]
    seals = {"seal_dir": tmp_path / "seals"} if is_apart else {}
    for path in (folder / "a.bin", *hidden):
        path.write_bytes(rng.bytes(999))
        protect_file(path, errors=2, **seals)
    # What is no seal, and no file of anybody's: left by macOS, by a killed process, by nobody.
    for name in ("._a.bin.parimend", "._a.bin", ".a.bin.new", ".a.bin.parimend.new", ".parimend"):
        (folder / name).write_bytes(b"no seal")
    made = protect_all([folder], errors=2, everything=True, **seals)
    assert ([made.path], len(made.files)) == ([str(folder)], 1)
    assert names(check_file(folder, **seals), folder) == [".metadata", "a.bin", "below/.state"]
    assert check_file(folder, **seals).ok
    for path in hidden:
        flip(path, rng, 1, start=0)
    wrong = {".metadata": "correctable", "below/.state": "correctable"}
    assert verdicts(check_file(folder, **seals), folder) == wrong
    assert repair_file(folder, **seals).ok
    hidden[0].unlink()
    assert check_file(folder, **seals).ok == is_apart  # there, a seal may be one of elsewhere


@pytest.mark.parametrize("plans", [[".metadata"], ["__0.metadata", "__1.metadata"]])
def test_checkpoints_of_torch_distributed(tmp_path, rng, plans):
    """What is hidden says what is where."""
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    pieces = ["__0_0.distcp", "__1_0.distcp"]
    for name in (*pieces, *plans, ".other"):
        (folder / name).write_bytes(rng.bytes(999))
    made = protect_all([tmp_path / "out"], errors=2)
    assert sorted(os.path.basename(one.path) for one in made.files) == sorted(pieces + plans)
    (folder / plans[0]).unlink()
    for path in (folder, tmp_path / "out"):
        wrong = [(file.path, file.problem[:8]) for file in check_file(path).files if not file.ok]
        assert wrong == [(str(folder / plans[0]), "missing:")]
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / pieces[0], other)
    assert protect_all([other], errors=2).problems == {str(other / ".metadata"): "it is missing"}


def test_links_to_folders_are_not_followed(tmp_path, rng):
    (tmp_path / "model.safetensors").write_bytes(weights(rng))
    (tmp_path / "again").symlink_to(".")
    made = protect_all([tmp_path], errors=2)
    assert len(made.files) == 1
    assert [*made.left_out] == ["again/"]
    assert check_file(tmp_path).verdict is Verdict.CLEAN


def test_copies_go_to_the_same_places(pipeline, tmp_path, rng):
    folder, files = pipeline
    protect_file(folder, errors=10)
    damaged(folder, ["vae/diffusion_pytorch_model.safetensors"], rng)
    copy = tmp_path / "copy"
    copy.mkdir()
    assert repair_file(folder, copy).verdict is Verdict.CORRECTED
    for name in files.keys() - {*OTHERS}:
        assert (copy / name).read_bytes() == files[name]
    assert check_file(copy).verdict is Verdict.CLEAN


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_seals_inside_the_files_of_a_pipeline(pipeline, tmp_path, carrier, rng):
    folder, files = pipeline
    shutil.rmtree(folder / "old")
    out = tmp_path / "out"
    out.mkdir()
    made = protect_all([folder], 2, carrier, out)
    assert made.problems == {}
    expected = {n for n in files if n not in OTHERS and not n.startswith("old/")}
    report = check_file(out)
    assert ({*names(report, out)}, report.verdict) == (expected, Verdict.CLEAN)
    (out / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert verdicts(check_file(out), out) == {"vae/diffusion_pytorch_model.safetensors": "unknown"}


def test_nothing_protected(pipeline):
    folder, files = pipeline
    count = len(files) - len(OTHERS)
    with pytest.raises(SealError, match=f"none of its {count} files has a seal"):
        check_file(folder)


INTERRUPTED = """
import os, sys
from parimend import protect_file
left = int(sys.argv[2])
def progress(count):
    global left
    left -= count
    if left < 0:
        os.kill(os.getpid(), 9)
protect_file(sys.argv[1], errors=10, progress=progress)
"""


@pytest.mark.parametrize("share", [pytest.param(0.3, marks=pytest.mark.long), 0.7])
def test_what_was_killed_goes_on_where_it_was(tmp_path, rng, share):
    """The seals that are made after a kill are those of a run in one go."""
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    for name, data in contents(rng).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    shutil.copytree(folder, whole)
    protect_file(whole, errors=10)
    size = sum(path.stat().st_size for path in targets(folder))
    command = [sys.executable, "-c", INTERRUPTED, folder, str(int(share * size))]
    assert subprocess.run(command, check=False).returncode == -9
    done = {*folder.rglob("*.parimend")}
    times = {path: path.stat().st_mtime_ns for path in done}
    assert 0 < len(done) < len(targets(folder))
    made = protect_file(folder, errors=10)
    assert {Path(one.sidecar) for one in made if one.is_kept} == done
    assert {path: path.stat().st_mtime_ns for path in done} == times
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert {path: (folder / path).read_bytes() for path in files} == {
        path: (whole / path).read_bytes() for path in files
    }
    assert check_file(folder).verdict is Verdict.CLEAN


def test_inspecting_a_pipeline(pipeline):
    folder, files = pipeline
    protect_file(folder, errors=2)
    found, problems = seals_of(folder)
    assert (len(found), problems) == (len(files) - len(OTHERS), {})


parts = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)


@given(parts, parts, parts, st.lists(st.tuples(parts, st.sampled_from("xyz")), max_size=5))
def test_names_are_the_same_files_from_any_folder_on(above, root, below, others):
    """What a seal notes from the set's folder on, seen from folders above it and below."""
    place = [*below, "file"]
    members = {"/".join([*folder, name]) for folder, name in others} | {"/".join(place)}
    notes = {MEMBERS: sorted(members), "place": "/".join(place)}
    # The set lies in `above/root`; it is looked at from `above`.
    name = "/".join([*root, *place])
    assert noted(notes, MEMBERS, name) == {"/".join([*root, each]) for each in members}
    # From the folder of the file on.
    expected = {each for each in members if each.startswith("".join(f"{p}/" for p in below))}
    assert noted(notes, MEMBERS, "file") == {
        each.removeprefix("".join(f"{part}/" for part in below)) for each in expected
    }


@given(st.lists(st.sampled_from(["..", ".", "", "a", "a\0", "\ud800"]), min_size=1, max_size=4))
def test_no_note_leads_outside(steps):
    notes = {MEMBERS: ["/".join(steps)], "place": "a/b"}
    for name in ("b", "a/b", "c/a/b"):
        for each in noted(notes, MEMBERS, name):
            assert not os.path.normpath(each).startswith(("..", "/"))
            assert os.path.normpath(each) == each


@pytest.fixture
def hide(monkeypatch):
    """Let what lies in and below a folder be out of sight: root may see all, whatever its mode."""

    def hide(folder):
        for name in ("scandir", "stat", "lstat", "open"):
            real = getattr(os, name)

            def seen(path, *arguments, real=real, name=name, **how):
                inside = isinstance(path, str | os.PathLike) and Path(path)
                if inside and (
                    folder in inside.parents or (name == "scandir" and inside == folder)
                ):
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return real(path, *arguments, **how)

            monkeypatch.setattr(os, name, seen)

    return hide


@pytest.mark.parametrize("is_together", [True, False])
def test_a_folder_that_cannot_be_read_is_told(tmp_path, rng, hide, is_together):
    """What is in it is not known, so that what is around it does not make up a clean whole."""
    paths = [tmp_path / "a.bin", tmp_path / "below" / "b.bin"]
    paths[1].parent.mkdir()
    (tmp_path / "lost+found").mkdir()
    for path in paths:
        path.write_bytes(weights(rng))
    for path in [tmp_path] if is_together else paths:
        protect_file(path, 2)
    hide(tmp_path / "lost+found")
    assert check_file(tmp_path).verdict is Verdict.CLEAN
    hide(tmp_path / "below")
    for act in (check_file, repair_file):
        told = {file.path: file.problem for file in act(tmp_path).files}
        assert told.pop(str(tmp_path / "a.bin")) == ""
        expected = [tmp_path / "below", *paths[1:]] if is_together else [tmp_path / "below"]
        assert told == {str(path): "cannot be looked at: Permission denied" for path in expected}
    for act in (protect_file, fingerprint):
        with pytest.raises(PermissionError) as error:
            act(tmp_path, *[2] * (act is protect_file))
        assert error.value.filename == str(tmp_path / "below")
    with pytest.raises(PermissionError):
        check_file(tmp_path / "below")
    one, other = check_all([paths[1], paths[0]]).files
    assert (one.problem, other.verdict) == ("Permission denied", Verdict.CLEAN)
