"""Seals in a folder of their own, found by what is in the files, whatever these are called."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from samples import SAMPLES

from parimend import check_file, protect_file, repair_file, verify
from parimend.carriers import diagnose
from parimend.errors import DamagedFileError, FormatError, MismatchError, SealError, SpecError
from parimend.files import protect_all, seals_of
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip
from tests.files.test_folders import pipeline  # noqa: F401


@pytest.fixture
def seals(tmp_path):
    return tmp_path / "seals"


def save(path, rng, name="w", scale=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = scale * rng.standard_normal((30, 40), dtype=np.float32)
    safetensors.numpy.save_file({name: array}, path)
    return path.read_bytes()


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_is_found_under_another_name(name, tmp_path, seals, rng):
    (tmp_path / "in").mkdir()
    path = SAMPLES[name](tmp_path / "in", rng)
    original = path.read_bytes()
    [made, *_] = [m for m in protect_file(path, 20, seal_dir=seals) if m.path == str(path)]
    assert os.path.dirname(made.sidecar) == str(seals)
    assert not list((tmp_path / "in").rglob("*.parimend"))
    moved = (tmp_path / "elsewhere").with_suffix(path.suffix)
    path.rename(moved)
    assert check_file(moved, seal_dir=seals).verdict is Verdict.CLEAN
    flip(moved, rng, 20, start=0)
    assert check_file(moved, seal_dir=seals).verdict is Verdict.CORRECTABLE
    assert repair_file(moved, seal_dir=seals).verdict is Verdict.CORRECTED
    assert moved.read_bytes() == original


def test_the_folder_is_made_with_the_first_seal(tmp_path, rng):
    seals = tmp_path / "new" / "seals"
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no safetensors file at all")
    with pytest.raises(FormatError):
        protect_file(broken, 20, seal_dir=seals)
    assert not seals.parent.exists()
    save(tmp_path / "w.safetensors", rng)
    protect_file(tmp_path / "w.safetensors", 20, seal_dir=seals)
    assert check_file(tmp_path / "w.safetensors", seal_dir=seals).verdict is Verdict.CLEAN
    with pytest.raises(SpecError, match=r"broken\.safetensors is a file: choose a folder"):
        protect_file(tmp_path / "w.safetensors", 20, seal_dir=broken)


def test_a_pipeline_in_a_cache(pipeline, seals, rng):  # noqa: F811
    folder, files = pipeline
    before = {*folder.parents[1].rglob("*")}
    made = protect_all([folder], 10, seal_dir=seals, everything=True)
    assert len({one.sidecar for one in made.files}) == len(files)
    assert {*folder.parents[1].rglob("*")} == before
    assert all(
        one.is_kept for one in protect_all([folder], 10, seal_dir=seals, everything=True).files
    )
    assert check_file(folder, seal_dir=seals).verdict is Verdict.CLEAN
    hurt = [name for name in files if "diffusion" in name]
    for name in hurt:
        flip(folder / name, rng, 3, start=0)
    report = check_file(folder, seal_dir=seals)
    assert len(report.files) == len(files)
    assert sum(file.verdict is Verdict.CORRECTABLE for file in report.files) == len(hurt)
    assert verify(folder, "repair", seal_dir=seals).verdict is Verdict.CORRECTED
    assert {name: (folder / name).read_bytes() for name in files} == files
    lost = folder / "consolidated.safetensors"
    lost.unlink()
    assert [file.path for file in check_file(folder, seal_dir=seals).files if not file.ok] == [
        str(lost)
    ]
    found, problems = seals_of(folder, seals)
    assert (len(found), [*problems]) == (len(files) - 1, [lost])


def test_models_of_one_architecture_are_told_apart(tmp_path, seals, rng):
    """Same name, size and header; only the weights tell them apart, also damaged ones."""
    paths = [tmp_path / name / "model.safetensors" for name in "abc"]
    original = [save(path, rng) for path in paths]
    for path in paths:
        protect_file(path, 10, seal_dir=seals)
    assert len(list(seals.iterdir())) == 3
    for path, content in zip(paths, original, strict=True):
        flip(path, rng, 10)
        assert len(check_file(path, seal_dir=seals).changes) > 0
        assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
        assert path.read_bytes() == content
    stranger = tmp_path / "d" / "other.safetensors"
    save(stranger, rng)
    with pytest.raises(SealError, match=r"no seal in \S*seals is of its content"):
        check_file(stranger, seal_dir=seals)


def test_models_of_one_architecture_are_not_compared_as_a_whole_with_all_seals(
    tmp_path, seals, rng, monkeypatch
):
    """Some of their blocks tell which seal is theirs, as far as damage may go."""
    paths = [tmp_path / str(number) / "model.safetensors" for number in range(4)]
    compared = []

    def count(seal, *arguments, **options):
        compared.append(seal)
        return diagnose(seal, *arguments, **options)

    monkeypatch.setattr("parimend.files.apart.diagnose", count)
    for path in paths:
        path.parent.mkdir()
        weights = rng.standard_normal(200_000, dtype=np.float32)
        safetensors.numpy.save_file({"w": weights}, path)
        protect_file(path, errors=1, seal_dir=seals)
    assert not compared
    for number, path in enumerate(paths):
        assert check_file(path, seal_dir=seals).verdict is Verdict.CLEAN
        flip(path, rng, 1)
        assert check_file(path, seal_dir=seals).verdict is Verdict.CORRECTABLE
        assert len(compared) == 2 * (number + 1)
    first, *_ = paths
    flip(first, rng, 4)  # beyond its budget
    [file] = check_file(first, seal_dir=seals).files
    assert file.verdict is Verdict.UNCORRECTABLE
    assert 1 <= len(file.ranges) <= 5


@pytest.mark.parametrize("length", [37, 30])
def test_a_small_file_of_another_model_is_no_damaged_copy(tmp_path, seals, rng, length):
    """A budget may be enough to make all of it anew, and every model has a file of this name."""
    paths = [tmp_path / model / "model.bin" for model in ("one", "two")]
    contents = [rng.bytes(37), rng.bytes(length)]
    for path, content in zip(paths, contents, strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    one, two = paths
    protect_file(one, errors=210, seal_dir=seals)
    for act in (check_file, repair_file):
        with pytest.raises(MismatchError, match=r"is the seal of another file .* move the seal to"):
            act(two, seal_dir=seals)
    [made] = protect_file(two, errors=210, seal_dir=seals)
    assert not made.is_kept
    for path, content in zip(paths, contents, strict=True):
        assert check_file(path, seal_dir=seals).verdict is Verdict.CLEAN
        damage(path, 5, bytes([content[5] ^ 1]))
        assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
        path.write_bytes(content[:-5])
        assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
    assert [path.read_bytes() for path in paths] == contents


def test_a_flipped_bit_of_a_small_file_is_no_sign_of_another_one(tmp_path, seals):
    path = tmp_path / "scale.npy"
    np.save(path, np.float32(0.5))
    original = path.read_bytes()
    protect_file(path, errors=1, seal_dir=seals)
    damage(path, -1, b"\x7f")
    with pytest.raises(MismatchError, match="or is another file that differs in little"):
        protect_file(path, errors=1, seal_dir=seals)
    assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


def test_a_lost_header_is_no_sign_of_another_file(tmp_path, seals, rng):
    paths = [tmp_path / model / "model.safetensors" for model in ("one", "two", "three")]
    originals = [save(path, rng) for path in paths]
    for path in paths:
        protect_file(path, errors=210, seal_dir=seals)
    for path, original in zip(paths, originals, strict=True):
        damage(path, 0, bytes(200))
        assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
        assert path.read_bytes() == original


@pytest.mark.parametrize("cut", [4, 30])
def test_a_file_that_was_cut_is_found(tmp_path, seals, rng, cut):
    path = tmp_path / "model.safetensors"
    original = save(path, rng)
    save(tmp_path / "other.safetensors", rng, "another")
    for each in (path, tmp_path / "other.safetensors"):
        protect_file(each, 10, seal_dir=seals)
    path.write_bytes(original[:-cut])
    moved = path.rename(tmp_path / "moved.safetensors")
    assert repair_file(moved, seal_dir=seals).verdict is Verdict.CORRECTED
    assert moved.read_bytes() == original
    moved.write_bytes(original[:1000])  # beyond what can be repaired
    [file] = check_file(moved.rename(path), seal_dir=seals).files
    assert (file.verdict, file.missing) == (Verdict.UNCORRECTABLE, len(original) - 1000)


@pytest.mark.parametrize("change", ["clean", "damaged", "renamed"])
def test_two_seals_for_one_file(tmp_path, seals, rng, change):
    path = tmp_path / "model.safetensors"
    save(path, rng)
    [made] = protect_file(path, 10, seal_dir=seals)
    protect_file(path, 20, out=tmp_path / "second.parimend")
    shutil.copy(tmp_path / "second.parimend", seals / "second.parimend")
    before = made.sidecar
    if change == "damaged":
        flip(path, rng, 3)
    if change == "renamed":
        path = path.rename(tmp_path / "m.safetensors")
    for act in (check_file, repair_file):
        with pytest.raises(MismatchError, match="has several seals for") as told:
            act(path, seal_dir=seals)
        assert os.path.basename(before) in str(told.value)
        assert "second.parimend" in str(told.value)
    assert check_file(path, seal_dir=before).ok == (change != "damaged")


def test_seals_inside_the_folder_are_not_taken_for_those_of_lost_files(tmp_path, rng):
    save(tmp_path / "model.safetensors", rng)
    save(tmp_path / "unet" / "model.safetensors", rng)
    protect_file(tmp_path, 2, seal_dir=tmp_path / "seals")
    assert check_file(tmp_path, seal_dir=tmp_path / "seals").verdict is Verdict.CLEAN
    assert len(check_file(tmp_path, seal_dir=tmp_path / "seals").files) == 2
    with pytest.raises(SealError, match="none of its 2 files has a seal"):
        check_file(tmp_path)


def test_a_file_of_a_long_name_is_found_however_damaged_it_is(tmp_path, rng):
    """Its seal, whose own name has no room for that, notes it."""
    path, other, folder = tmp_path / ("n" * 246 + ".bin"), tmp_path / "other.bin", tmp_path / "in"
    seals = folder / "seals"
    other.write_bytes(good := rng.bytes(9_000))
    path.write_bytes(good)
    [made] = protect_file(path, 5, seal_dir=seals)
    path.write_bytes(good[:4] + b"1234" + good[8:-10])
    assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
    path.unlink()
    with pytest.raises(FileNotFoundError, match="missing: its seal is there"):
        check_file(path, seal_dir=seals)
    assert repair_file(path, seal_dir=seals, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    save(folder / "w.safetensors", rng)
    protect_file(folder / "w.safetensors", 2)
    assert len(check_file(folder).files) == 1  # no file is called as that seal is
    path.write_bytes(good[:-900])
    Path(made.sidecar).write_bytes(b"lost")
    with pytest.raises(MismatchError, match=r"may be protected already, by .*: restore that"):
        protect_file(path, 5, seal_dir=seals)


@pytest.mark.parametrize("where", ["", "below/"])
def test_a_lost_file_may_be_called_like_a_seal_in_a_folder_of_seals(tmp_path, rng, where):
    name = where + "w.0123456789abcdef"
    save(tmp_path / "a.safetensors", rng)
    save(tmp_path / name, rng)
    for path in ("a.safetensors", name):
        protect_file(tmp_path / path, 20)
    (tmp_path / name).unlink()
    [clean, gone] = check_file(tmp_path).files
    assert (clean.verdict, gone.verdict) == (Verdict.CLEAN, Verdict.UNKNOWN)
    assert gone.path == str(tmp_path / name)
    assert gone.problem.startswith("missing: its seal is there")


def test_one_seal_in_its_place(tmp_path, rng):
    path, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    save(path, rng)
    save(other, rng)
    seal = tmp_path / "elsewhere.parimend"
    [made] = protect_file(path, 10, out=seal)
    assert (made.sidecar, sorted(os.listdir(tmp_path))) == (
        str(seal),
        ["elsewhere.parimend", path.name, other.name],
    )
    assert check_file(path, seal_dir=seal).verdict is Verdict.CLEAN
    [made] = protect_file(path, 10, out=seal)
    assert made.is_kept
    with pytest.raises(MismatchError, match=r"elsewhere.parimend is there already, and is not"):
        protect_file(other, 10, out=seal)
    with pytest.raises(MismatchError, match=r"already, by elsewhere.parimend, with other settings"):
        protect_file(path, 11, out=seal)
    [made] = protect_file(other, 10, out=seal, force=True)
    assert check_file(other, seal_dir=seal).verdict is Verdict.CLEAN
    with pytest.raises(SpecError, match="has 2 files: give a folder for their seals"):
        protect_file(tmp_path, 10, out=tmp_path / "third.parimend")


def test_sealing_anew_takes_the_place_of_the_old_seal(tmp_path, seals, rng):
    path = tmp_path / "model.safetensors"
    save(path, rng)
    protect_file(path, 10, seal_dir=seals)
    with pytest.raises(MismatchError, match=rf"is protected already, by {seals}/.*, with other"):
        protect_file(path, 20, seal_dir=seals)
    protect_file(path, 20, seal_dir=seals, force=True)
    assert len(os.listdir(seals)) == 1
    assert check_file(path, seal_dir=seals).files[0].errors == 20


def test_a_damaged_seal_there_is_written_anew(tmp_path, seals, rng):
    path = tmp_path / "model.safetensors"
    save(path, rng)
    [made] = protect_file(path, 10, seal_dir=seals)
    with open(made.sidecar, "rb") as file:
        original = file.read()
    with open(made.sidecar, "r+b") as file:
        file.seek(40)
        file.write(b"\xff\xff")
    assert check_file(path, seal_dir=seals).verdict is Verdict.CORRECTABLE
    assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
    with open(made.sidecar, "rb") as file:
        assert file.read() == original
    (seals / "lost.parimend").write_bytes(b"nothing that can be read")
    other = tmp_path / "other.safetensors"
    save(other, rng, "x")
    with pytest.raises(SealError, match=r"lost\.parimend there cannot be read"):
        check_file(other, seal_dir=seals)


def test_what_may_have_a_seal_that_cannot_be_read_is_not_sealed_as_it_is(tmp_path, seals, rng):
    path = tmp_path / "weights.bin"
    path.write_bytes(good := rng.bytes(9_000))
    [made] = protect_file(path, 200, seal_dir=seals)
    with open(made.sidecar, "rb") as file:
        seal = file.read()
    path.write_bytes(good[:-900])
    with open(made.sidecar, "wb") as file:
        file.write(seal[:100])
    with pytest.raises(SealError, match="cannot be read, which may be one: restore it from a copy"):
        check_file(path, seal_dir=seals)
    with pytest.raises(MismatchError, match=r"may be protected already, by .*: restore that"):
        protect_file(path, 200, seal_dir=seals)
    save(other := tmp_path / "other.safetensors", rng)
    protect_file(other, 10, seal_dir=seals)
    with open(made.sidecar, "wb") as file:
        file.write(seal)
    assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_what_is_damaged_and_has_no_seal_is_not_to_be_sealed(tmp_path, seals, rng):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.safetensors", rng, name)
    protect_file(tmp_path / "a.safetensors", 10, seal_dir=seals)
    path = tmp_path / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        DamagedFileError, match=r"9 are missing .*damaged, and not protected: .* fetch"
    ):
        check_file(path, seal_dir=seals)


@pytest.mark.parametrize("lost", ["gone", "broken"])
def test_what_has_lost_its_seal_is_not_made_a_file_of_another_place(tmp_path, seals, lost):
    """Configurations of a pipeline are small, and nearly the same."""
    contents = {}
    for place in ("text/config.json", "unet/config.json", "config.json"):
        name = place.removesuffix("config.json")
        contents[tmp_path / "model" / place] = f'{{"size": 768, "name": "{name}"}}'.encode()
    for place, size in (("text/zeros.bin", 40), ("unet/zeros.bin", 44)):
        contents[tmp_path / "model" / place] = bytes(size)
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    made = protect_file(tmp_path / "model", 20, seal_dir=seals, everything=True)
    for each in made:
        sidecar, path = Path(each.sidecar), Path(each.path)
        seal = sidecar.read_bytes()
        sidecar.unlink() if lost == "gone" else sidecar.write_bytes(seal[:99])
        report = repair_file(tmp_path / "model", seal_dir=seals)
        verdicts = {Path(file.path): file.verdict for file in report.files}
        assert verdicts == dict.fromkeys(contents, Verdict.CLEAN) | {path: Verdict.UNKNOWN}
        assert contents == {path: path.read_bytes() for path in contents}
        sidecar.write_bytes(seal)


def test_files_of_the_same_tensors_are_told_by_what_is_around_them(tmp_path, seals, rng):
    array = rng.standard_normal(100)
    for name in "ab":
        path = tmp_path / f"{name}.safetensors"
        safetensors.numpy.save_file({"w": array}, path, {"made": name})
        protect_file(path, 10, seal_dir=seals, force=True)
    path = path.rename(tmp_path / "renamed.safetensors")
    assert check_file(path, seal_dir=seals).verdict is Verdict.CLEAN


def test_a_file_of_which_nothing_is_left_is_no_small_file_of_another_place(tmp_path, seals, rng):
    small, large = (tmp_path / "model" / place / "w.bin" for place in ("a", "b"))
    for path, size in ((small, 40), (large, 9_000)):
        path.parent.mkdir(parents=True)
        path.write_bytes(rng.bytes(size))
    protect_file(tmp_path / "model", 20, seal_dir=seals)
    large.write_bytes(b"")
    report = repair_file(tmp_path / "model", seal_dir=seals)
    assert [file.verdict for file in report.files] == [Verdict.CLEAN, Verdict.UNCORRECTABLE]
    assert "9,000 bytes missing at the end" in report.files[1].said
    assert large.read_bytes() == b""


def test_no_such_folder(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    save(path, rng)
    for act in (check_file, repair_file, seals_of):
        with pytest.raises(FileNotFoundError, match="there is no such folder of seals"):
            act(path, seal_dir=tmp_path / "nothing")
    with pytest.raises(SpecError, match="seal_dir must be the path"):
        check_file(path, seal_dir=3)


def test_what_was_killed_goes_on_there(tmp_path, seals, rng):
    folder = tmp_path / "model"
    for number in range(5):
        save(folder / f"{number}.safetensors", rng, str(number))
    script = (
        "import os, sys, parimend.files.apart as apart; from parimend import protect_file\n"
        "place = apart.Apart._place\n"
        "def late(self, path, seal):\n"
        "    if path.name == '3.safetensors': os.kill(os.getpid(), 9)\n"
        "    return place(self, path, seal)\n"
        "apart.Apart._place = late\n"
        "protect_file(sys.argv[1], 10, seal_dir=sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", script, folder, seals], check=False)
    assert (done.returncode, len(os.listdir(seals))) == (-9, 3)
    made = protect_file(folder, 10, seal_dir=seals)
    assert [one.is_kept for one in made] == [True] * 3 + [False] * 2
    assert check_file(folder, seal_dir=seals).verdict is Verdict.CLEAN


@pytest.mark.parametrize("seal_dir", [False, True])
@pytest.mark.parametrize("why", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_place_that_cannot_be_written(tmp_path, seals, rng, monkeypatch, seal_dir, why):
    """Check looks; repair says what it found, that it cannot write it, and where else to."""
    folder = tmp_path / "cache"
    originals = {f"{name}.safetensors": save(folder / f"{name}.safetensors", rng) for name in "ab"}
    where = {"seal_dir": seals} if seal_dir else {}
    protect_file(folder, 10, **where)
    flip(folder / "a.safetensors", rng, 3)
    real = os.open

    def read_only(path, flags, *mode, **how):
        if str(path).startswith(str(folder)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(why, os.strerror(why), str(path))
        return real(path, flags, *mode, **how)

    monkeypatch.setattr("os.open", read_only)
    assert check_file(folder, **where).verdict is Verdict.CORRECTABLE
    said = f"{os.strerror(why)}: it cannot be repaired in its place"
    with pytest.raises(OSError, match=said):
        repair_file(folder / "a.safetensors", **where)
    first, second = repair_file(folder, **where).files
    assert (first.ok, second.ok, first.written) == (False, True, "")
    assert "3 wrong elements, can be corrected" in "; ".join(first.findings)
    assert "give another one for the result, with -o" in first.problem
    copy = tmp_path / "copy"
    copy.mkdir()
    assert repair_file(folder, copy, **where).verdict is Verdict.CORRECTED
    assert {path.name: path.read_bytes() for path in copy.glob("*.safetensors")} == originals
    assert check_file(copy, **where).verdict is Verdict.CLEAN


@pytest.mark.parametrize("why", [errno.EROFS, errno.EACCES])
def test_where_else_a_seal_may_lie_is_said(tmp_path, seals, rng, monkeypatch, why):
    path = tmp_path / "cache" / "a.safetensors"
    save(path, rng)
    real = os.open

    def read_only(name, flags, *mode, **how):
        if str(name).startswith(str(path.parent)) and flags & os.O_CREAT:
            raise OSError(why, os.strerror(why), str(name))
        return real(name, flags, *mode, **how)

    monkeypatch.setattr("os.open", read_only)
    with pytest.raises(OSError, match=f"{os.strerror(why)}: give another place .* --seal-dir") as e:
        protect_file(path, 10)
    assert e.value.filename == str(path) + ".parimend"
    protect_file(path, 10, seal_dir=seals)


def test_a_file_whose_seal_is_inside_needs_none_there(tmp_path, seals, rng):
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    save(path, rng)
    seals.mkdir()
    protect_file(path, 3, "lowbits", out)
    assert check_file(out, seal_dir=seals).verdict is Verdict.CLEAN
    damage(out, -4, b"\1")
    assert repair_file(out, seal_dir=seals).verdict is Verdict.CORRECTED


def save_two(path, rng):
    arrays = {name: rng.standard_normal(1000, dtype=np.float32) for name in "ab"}
    safetensors.numpy.save_file(arrays, path)


def test_sealing_anew_in_other_words_takes_the_place_of_the_old_seal(tmp_path, seals, rng):
    path = tmp_path / "model.safetensors"
    save_two(path, rng)
    protect_file(path, 10, seal_dir=seals)
    protect_file(path, 10, seal_dir=seals, per="tensor", force=True)
    assert len(os.listdir(seals)) == 1
    assert len(check_file(path, seal_dir=seals).words) == 2


def test_a_seal_of_a_part_does_not_speak_for_the_whole(tmp_path, seals, rng):
    """One of another file, say, from which this one was trained further."""
    path = tmp_path / "model.safetensors"
    save_two(path, rng)
    [part] = protect_file(path, 10, seal_dir=seals, only=["a"])
    [whole] = protect_file(path, 10, seal_dir=seals, force=True)
    assert len(os.listdir(seals)) == 2
    assert check_file(path, seal_dir=seals).covered == 2000
    damage(path, -1, b"\xa5")
    assert check_file(path, seal_dir=part.sidecar).verdict is Verdict.CLEAN
    assert check_file(path, seal_dir=whole.sidecar).verdict is Verdict.CORRECTABLE
    with pytest.raises(MismatchError, match="has several seals for"):
        check_file(path, seal_dir=seals)


def test_a_seal_takes_no_place_of_anything_else(tmp_path, rng):
    path, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    contents = [save(each, rng) for each in (path, other)]
    link = tmp_path / "link.parimend"
    os.link(path, link)
    for place in (path, other, link):
        with pytest.raises(SpecError, match="is there and is no seal: choose another place"):
            protect_file(path, 10, out=place, force=True)
    assert [path.read_bytes(), other.read_bytes()] == contents
    damaged = tmp_path / "damaged.parimend"
    damaged.write_bytes(b"nothing that can be read")
    protect_file(path, 10, out=damaged, force=True)
    assert check_file(path, seal_dir=damaged).verdict is Verdict.CLEAN
