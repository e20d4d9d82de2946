"""Protecting, checking and repairing one file with a sidecar."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import SAMPLES

from parimend import Seal, check_file, load_file, plan, protect_, protect_file, repair_file
from parimend.errors import (
    DamageError,
    FormatError,
    MismatchError,
    SealError,
    SpecError,
    WordError,
)
from parimend.files import sidecar_of
from parimend.formats import layout_of
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip, header_length, repaired

FRACAST = Path(find_spec("fracast").origin).parent / "weights"
WORDLLAMA = Path(find_spec("wordllama").origin).parent / "weights" / "l2_supercat_256.safetensors"


def test_protecting_leaves_the_file_alone(model):
    before, state = model.read_bytes(), model.stat()
    [made] = protect_file(model, errors=20)
    assert model.read_bytes() == before
    assert model.stat().st_mtime_ns == state.st_mtime_ns
    assert made.seal.covered == made.elements
    assert made.seal_bytes == sidecar_of(model).stat().st_size
    assert check_file(model).verdict is Verdict.CLEAN


def test_damage_is_named_and_repaired(model):
    protect_file(model, errors=20)
    original = model.read_bytes()
    weight = safetensors.numpy.load(original)["fc.weight"]
    at = original.index(weight.tobytes())
    damage(model, at + 4 * 123, np.float32(1e30).tobytes())
    report = check_file(model)
    assert report.verdict is Verdict.CORRECTABLE
    [change] = report.changes
    assert (change.tensor, change.index, change.dtype) == ("fc.weight", (2, 23), "F32")
    assert change.value(change.received) == np.float32(1e30)
    assert change.value(change.original) == weight[2, 23]
    assert repaired(model, original).changes == report.changes


@pytest.mark.parametrize("count", [1, 7, 20])
def test_any_words_are_repaired(model, rng, count):
    protect_file(model, errors=20)
    original = model.read_bytes()
    flip(model, rng, count)
    repaired(model, original)


def test_one_pass_covers_every_byte(model):
    protect_file(model, errors=2)
    original = model.read_bytes()
    for at in range(header_length(original), len(original), 397):
        damage(model, at, bytes([original[at] ^ 16]))
        assert check_file(model).verdict is Verdict.CORRECTABLE
        model.write_bytes(original)


def test_more_damage_than_the_budget_is_left_alone(model, rng):
    protect_file(model, errors=5)
    flip(model, rng, 500)
    damaged = model.read_bytes()
    for report in (check_file(model), repair_file(model)):
        assert report.verdict is Verdict.UNCORRECTABLE
        assert "more damage than the code can repair" in report.files[0].findings[0]
        assert not report.files[0].written
    assert model.read_bytes() == damaged


@pytest.mark.parametrize(
    "damaged",
    [b"\xff" * 8, b"\0" * 8, b'{"a', (99).to_bytes(8, "little"), (1 << 26).to_bytes(8, "little")],
)
def test_a_damaged_header_is_restored(model, damaged):
    protect_file(model, errors=5)
    original = model.read_bytes()
    damage(model, 0, damaged)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load_file(model)
    report = check_file(model)
    assert report.files[0].findings == ("header damaged, can be restored",)
    repaired(model, original)
    safetensors.numpy.load_file(model)


def test_a_header_with_another_name_is_restored(model):
    """It is well-formed, so only the data tell that it is damaged."""
    protect_file(model, errors=5)
    original = model.read_bytes()
    damage(model, original.index(b"fc.bias"), b"xx")
    repaired(model, original)


@pytest.mark.parametrize("lost", [1, 8, 15])
def test_a_short_tail_is_restored(model, lost):
    protect_file(model, errors=5)
    original = model.read_bytes()
    os.truncate(model, len(original) - lost)
    assert check_file(model).files[0].missing == lost
    repaired(model, original)


def test_a_tail_of_zeros_is_restored(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1000, np.float32)}, path)
    protect_file(path, errors=5)
    original = path.read_bytes()
    os.truncate(path, len(original) - 9)
    assert check_file(path).files[0].findings == ("9 bytes missing at the end",)
    repaired(path, original)


@given(
    errors=st.integers(1, 60),
    beyond=st.integers(-8, 8),
    wrong=st.integers(0, 5),
    dtypes=st.lists(st.sampled_from(["f4", "f2", "i1", "f8"]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_twice_as_much_may_be_missing_as_wrong(
    tmp_path_factory, errors, beyond, wrong, dtypes, seed
):
    """Where it is missing is known; each other word that is wrong takes as much as two of them."""
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    rng = np.random.default_rng(seed)
    arrays = {f"w{i}": rng.integers(1, 9, 1000).astype(dtype) for i, dtype in enumerate(dtypes)}
    safetensors.numpy.save_file(arrays, path)
    protect_file(path, errors)
    original = path.read_bytes()
    wrong = min(wrong, errors)
    cut = max(4 * (2 * errors - 2 * wrong - 1) + beyond, 0)
    content = bytearray(original[: -cut or None])
    for place in rng.choice(60, wrong, replace=False).tolist():
        content[header_length(original) + 4 * place] ^= 1
    path.write_bytes(content)
    checked, done = check_file(path), repair_file(path)
    assert done.ok == (path.read_bytes() == original)
    assert checked.verdict is (
        Verdict.UNCORRECTABLE
        if not done.ok
        else Verdict.CORRECTABLE
        if cut or wrong
        else Verdict.CLEAN
    )
    assert done.ok or (beyond > 0 and path.read_bytes() == content)
    assert not done.ok or cut <= 4 * (2 * errors + 3)


def test_a_lost_tail_is_named(model):
    protect_file(model, errors=5)
    original = model.read_bytes()
    os.truncate(model, header_length(original) + 100)
    report = check_file(model)
    assert report.verdict is Verdict.UNCORRECTABLE
    [word] = report.files[0].words
    assert f"truncated: {len(original) - header_length(original) - 100:,} bytes" in word.reason
    assert "from [12] of ids on and 5 more tensors" in word.reason
    with pytest.raises(FormatError, match="is truncated: it has"):
        protect_file(model, errors=5, force=True)


@pytest.mark.parametrize("also", ["nothing", "header", "word"])
def test_a_lost_tail_that_is_not_protected_is_not_made_up(model, rng, also):
    """Zeros in its place would look like a whole file from then on."""
    protect_file(model, errors=3, only=["ids"])
    original = model.read_bytes()
    os.truncate(model, len(original) - 1)
    if also == "header":
        damage(model, 0, b"\xff" * 9)
    elif also == "word":
        ids = safetensors.numpy.load(original)["ids"]
        damage(model, original.index(ids.tobytes()), b"\x55")
    damaged = model.read_bytes()
    for report in (check_file(model), repair_file(model), repair_file(model, f"{model}.copy")):
        assert report.verdict is Verdict.UNCORRECTABLE
        assert "1 byte missing at the end, cannot be restored" in report.files[0].findings
        assert not report.files[0].written
    assert model.read_bytes() == damaged
    assert sorted(os.listdir(model.parent)) == [model.name, sidecar_of(model).name]


def test_words_that_are_still_there_are_put_back_when_asked_for(model):
    """With a budget of its own for each tensor, a lost tail takes only the tensors that it hits."""
    protect_file(model, errors=1, per="tensor")
    original = model.read_bytes()
    start = header_length(original)
    damage(model, start, b"\x55\x55")
    damage(model, 20, b"\x55")
    os.truncate(model, len(original) - 50)
    damaged = model.read_bytes()
    for report in (check_file(model), repair_file(model)):
        verdicts = {word.name: word.verdict.value for word in report.files[0].words}
        assert (verdicts["ids"], verdicts["int8"]) == ("correctable", "uncorrectable")
        assert report.files[0].can_be_improved
        assert not report.files[0].written
        assert model.read_bytes() == damaged
    report = repair_file(model, partial=True)
    [file] = report.files
    verdicts = {word.name: word.verdict.value for word in file.words}
    assert (verdicts["ids"], verdicts["int8"]) == ("corrected", "uncorrectable")
    assert (report.verdict.value, file.written) == ("uncorrectable", str(model))
    assert (file.header.value, file.frame.value) == ("corrected", "uncorrectable")
    assert file.findings[:2] == (
        "50 bytes missing at the end, cannot be restored",
        "header damaged, restored",
    )
    # No zeros in place of what is lost: loaders would take the file for a whole one.
    assert model.read_bytes() == original[:-50]
    again = repair_file(model, partial=True).files[0]
    assert (again.written, again.can_be_improved) == ("", False)


@pytest.mark.parametrize("name", ["safetensors", "gguf", "npz", "torch", "onnx"])
def test_before_a_cut_everything_that_is_proven_is_put_back(name, tmp_path, rng):
    """Of archives the directory at the end is lost, too, which belongs to no tensor."""
    path = SAMPLES[name](tmp_path, rng)
    protect_file(path, errors=2, per="tensor")
    original = path.read_bytes()
    with open(path, "rb") as file:
        large = [e for e in layout_of(file, path).entries if e.end - e.begin >= 24]
    first, last = large[0], large[-1]
    end = last.begin + 5
    assert first.end < end
    damage(path, first.begin + 8, bytes([original[first.begin + 8] ^ 1]))
    damage(path, first.begin - 1, bytes([original[first.begin - 1] ^ 1]))
    os.truncate(path, end)
    [found] = check_file(path).files
    assert found.can_be_improved
    [done] = repair_file(path, partial=True).files
    assert (done.verdict, done.written) == (Verdict.UNCORRECTABLE, str(path))
    assert (done.header, done.missing) == (Verdict.CORRECTED, len(original) - end)
    assert path.read_bytes() == original[:end]
    assert not check_file(path).files[0].can_be_improved


def test_a_word_whose_end_is_missing_is_not_put_back_in_part(model):
    """The scalar at the end can be repaired, but what lies between it and the cut is unknown."""
    protect_file(model, errors=3, only=["mask"])
    original = model.read_bytes()
    os.truncate(model, len(original) - 3)
    cut = model.read_bytes()
    with_tail = repair_file(model, partial=True)
    assert model.read_bytes() in (cut, original)
    assert (model.read_bytes() == original) == with_tail.verdict.ok


def test_zeros_that_are_missing_are_not_called_clean(tmp_path):
    """What is not there reads as zeros."""
    path = tmp_path / "model.safetensors"
    arrays = {"a": np.ones(30, np.float32), "b": np.ones(30, np.float32), "c": np.zeros(30, "f4")}
    safetensors.numpy.save_file(arrays, path)
    protect_file(path, errors=5, per="tensor")
    os.truncate(path, header_length(path.read_bytes()) + 130)
    for options in ({}, {"partial": True}):
        [file] = repair_file(path, **options).files
        verdicts = {word.name: word.verdict.value for word in file.words}
        assert verdicts == {"a": "clean", "b": "uncorrectable", "c": "uncorrectable"}


def test_bytes_after_an_unprotected_end_are_left(model):
    """They may have come in anywhere in it."""
    protect_file(model, errors=3, only=["ids"])
    model.write_bytes(model.read_bytes() + b"surplus")
    found = model.read_bytes()
    for report in (check_file(model), repair_file(model), repair_file(model, partial=True)):
        assert report.verdict is Verdict.UNCORRECTABLE
        assert report.files[0].findings == ("7 bytes too many after the end, cannot be restored",)
        assert model.read_bytes() == found


def test_surplus_bytes_are_cut_off(model):
    protect_file(model, errors=5)
    original = model.read_bytes()
    model.write_bytes(original + b"surplus")
    assert check_file(model).files[0].findings == ("7 bytes too many after the end",)
    repaired(model, original)


def test_surplus_bytes_are_not_copied_first(model, monkeypatch):
    """A hole of a terabyte takes no room; a copy of it would."""
    protect_file(model, errors=5)
    original, write, written = model.read_bytes(), os.pwrite, []

    def watched(file, data, at):
        written.append(len(data))
        return write(file, data, at)

    os.truncate(model, 1 << 40)
    monkeypatch.setattr("os.pwrite", watched)
    assert repair_file(model).verdict is Verdict.CORRECTED
    assert model.read_bytes() == original
    assert len(original) <= sum(written) < 2 * len(original)


@pytest.mark.parametrize("arrays", [{}, {"a": np.zeros((0, 4), np.float32)}])
def test_what_follows_a_header_without_data_is_cut_off(tmp_path, arrays):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path)
    protect_file(path, errors=5)
    original = path.read_bytes()
    path.write_bytes(original + b"abc")
    assert check_file(path).files[0].findings == ("3 bytes too many after the end",)
    repaired(path, original)
    # Where the header is wrong as well, nothing says where it ended.
    path.write_bytes(b"?" + original + b"abc")
    assert repair_file(path).verdict is Verdict.UNCORRECTABLE


def test_the_sidecar_of_another_file_is_refused(model, tmp_path, rng):
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a": rng.standard_normal(5000)}, other)
    protect_file(other, errors=5)
    sidecar_of(other).rename(sidecar_of(model))
    for act in (check_file, repair_file):
        with pytest.raises(MismatchError, match=r"was not made for .*model.safetensors"):
            act(model)


def test_other_weights_of_the_same_shape_are_not_repaired(model, rng):
    protect_file(model, errors=5)
    other = safetensors.numpy.load_file(model)
    other["fc.weight"] += 1
    metadata = {"author": "me"}
    safetensors.numpy.save_file(other, model, metadata)
    content = model.read_bytes()
    assert repair_file(model).verdict is Verdict.UNCORRECTABLE
    assert model.read_bytes() == content


def test_a_small_file_that_was_saved_anew_is_not_put_back_in_its_place(tmp_path, rng):
    """Its budget is enough for all of it, and would undo the training."""
    path, before = tmp_path / "small.npy", tmp_path / "before.npy"
    np.save(path, rng.standard_normal(400, dtype=np.float32))
    was = path.read_bytes()
    protect_file(path, errors=1000)
    os.utime(sidecar_of(path), (1e9, 1e9))
    np.save(path, rng.standard_normal(400, dtype=np.float32))
    now = path.read_bytes()
    for act in (check_file, repair_file):
        report = act(path)
        assert report.verdict is Verdict.UNKNOWN
        assert "400 elements are not what they were: probably saved anew" in report.files[0].problem
        assert "protect" in report.files[0].problem
    with pytest.raises(DamageError, match="probably saved anew"):
        load_file(path, on_damage="repair")
    assert path.read_bytes() == now
    assert repair_file(path, before).verdict is Verdict.CORRECTED
    assert (path.read_bytes(), before.read_bytes()) == (now, was)
    # What damage leaves is put back: a few wrong elements, a filled area, a missing end.
    for content in (was[:300] + now[300:500] + was[500:], was[:200] + bytes(1528), was[:150]):
        path.write_bytes(content)
        assert repair_file(path).verdict is Verdict.CORRECTED
        assert path.read_bytes() == was


def test_unprotected_files_are_refused(model):
    with pytest.raises(SealError, match=r"not protected: there is no model\.safetensors\.parimend"):
        check_file(model)
    with pytest.raises(FileNotFoundError):
        check_file(model.with_name("nothing"))


def test_a_damaged_file_without_a_seal_is_not_to_be_protected(model):
    damage(model, 0, b"\xff\xff")
    with pytest.raises(SealError, match=r"is damaged, .*: no seal of it is found.*fetch it again"):
        check_file(model)


@pytest.mark.parametrize("name", ["w", "other"])
def test_a_file_that_was_saved_anew_is_told_from_damage(tmp_path, rng, name):
    path = tmp_path / "model.safetensors"
    for tensor in ("w", name):
        arrays = {tensor: rng.standard_normal((50, 60), dtype=np.float32)}
        safetensors.numpy.save_file(arrays, path)
        if not sidecar_of(path).exists():
            protect_file(path, errors=10)
    if name == "w":
        for later, says in ((1, "probably saved anew"), (-1, "more damage than the code")):
            # Damage, other than saving, leaves the time of a file as it was.
            os.utime(path, (0, sidecar_of(path).stat().st_mtime + later))
            report = check_file(path)
            assert report.verdict is Verdict.UNCORRECTABLE
            assert says in "; ".join(report.files[0].findings)
            sealed_anew = f"parimend protect {path} --force" in report.files[0].problem
            assert sealed_anew == (later > 0)
    else:
        with pytest.raises(MismatchError, match=r"probably saved anew .*: parimend protect"):
            check_file(path)


def test_the_seal_of_a_live_model_is_found_by_its_stem(model, rng):
    """`seal.save("model.parimend")` beside model.safetensors."""
    beside = model.with_suffix(".parimend")
    original = model.read_bytes()
    seal = Seal.load(protect_file(model, errors=5)[0].sidecar)
    sidecar_of(model).unlink()
    replace(seal, blobs={}).save(beside)
    assert check_file(model).verdict is Verdict.CLEAN
    assert check_file(model.parent).verdict is Verdict.CLEAN
    flip(model, rng, 3)
    repaired(model, original)
    good = beside.read_bytes()
    damage(beside, 40, b"\xff\xff")
    repaired(model, original)
    assert (beside.read_bytes(), sidecar_of(model).exists()) == (good, False)
    # The sidecar of a file called model is another matter.
    seal.save(beside)
    with pytest.raises(SealError, match="is not protected"):
        check_file(model)


def test_the_seal_of_a_live_model_beside_an_archive_is_pointed_at(tmp_path):
    """It is not guessed that an archive of this stem holds the model, and it may well do."""
    model, path = torch.nn.Linear(20, 10), tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    seal = protect_(model, errors=5)
    seal.save(tmp_path / "model.parimend")
    told = r"model\.pt is not protected: .*; model\.parimend is the seal of a live model: .*"
    with pytest.raises(SealError, match=told + r"call the seal model\.pt\.parimend$"):
        check_file(path)
    (tmp_path / "model.parimend").rename(sidecar_of(path))
    assert check_file(path).verdict is Verdict.CLEAN


@pytest.mark.parametrize("nested", [False, True])
def test_the_seal_of_a_live_model_fits_an_archive_of_its_state(tmp_path, nested):
    """Saved under the archive's name; where the names are others, the file is named."""
    model, path = torch.nn.Linear(20, 10), tmp_path / "model.pt"
    protect_(model, errors=5).save(sidecar_of(path))
    torch.save({"model": model.state_dict()} if nested else model.state_dict(), path)
    if nested:
        told = r"model\.pt: the seal protects weight, which is not there"
        with pytest.raises(MismatchError, match=told):
            check_file(path)
    else:
        assert check_file(path).verdict is Verdict.CLEAN


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda path: protect_file(path, errors=2.5), "errors must be a whole number, not a float"),
        (lambda path: protect_file(path, errors=True), "errors must be a whole number, not a bool"),
        (lambda path: protect_file(path, errors="5"), "errors must be a whole number, not a str"),
        (lambda path: protect_file(5, errors=path), "errors must be a whole number, not a Posix"),
        (lambda path: protect_file(7, errors=5), "path must be the path of a file, not an int: 7"),
        (lambda path: protect_file(path, 5, "real", out=3), "out must be the path of a file"),
        (lambda path: plan(path, errors="5"), "errors must be a whole number"),
        (lambda path: check_file(None), "path must be the path of a file, not None"),
        (lambda path: check_file(""), "path must be the path of a file"),
        (lambda path: check_file("a\0b"), "path must be the path of a file"),
        (lambda path: repair_file(path, out=1), "out must be the path of a file"),
        (lambda path: repair_file(path, out=f"{path}-new/"), "-new/ is no folder: make it first"),
        (lambda path: protect_file(path, 5, out=f"{path}-new/"), "-new/ is no folder"),
        (lambda path: protect_file(path, 5, "real", f"{path}-new/"), "-new/ is no folder"),
    ],
)
def test_arguments_of_the_wrong_type_are_one_sentence(model, call, says):
    with pytest.raises(SpecError, match=says):
        call(model)


def test_a_hard_link_is_not_taken_for_the_file_itself(model, tmp_path, rng):
    protect_file(model, errors=5)
    original = model.read_bytes()
    flip(model, rng, 3)
    damaged, other, link = model.read_bytes(), tmp_path / "other", tmp_path / "link"
    other.hardlink_to(model)
    with pytest.raises(SpecError, match=r"other is another name of .*, a hard link"):
        repair_file(model, other)
    assert model.read_bytes() == other.read_bytes() == damaged
    # What links to it is.
    link.symlink_to(model)
    repair_file(model, link)
    assert (model.read_bytes(), link.is_symlink(), other.read_bytes()) == (original, True, damaged)


def test_the_seal_that_protects_a_link_already_is_named(model):
    protect_file(model, errors=5)
    link = model.with_name("link.safetensors")
    link.symlink_to(model.name)
    with pytest.raises(MismatchError, match=f"already, by {sidecar_of(model).name}, with other"):
        protect_file(link, errors=6)


def test_protecting_twice_must_be_meant(model, rng):
    protect_file(model, errors=5)
    seal = sidecar_of(model).read_bytes()
    [made] = protect_file(model, errors=5)
    assert made.is_kept
    for changed in ({"errors": 6}, {"seed": 1}, {"per": "tensor"}, {"only": ["fc.*"]}):
        with pytest.raises(MismatchError, match=r"protected already, .*, with other settings"):
            protect_file(model, **{"errors": 5} | changed)
    assert sidecar_of(model).read_bytes() == seal
    sidecar_of(model).write_bytes(b"x")
    with pytest.raises(MismatchError, match="which cannot be read"):
        protect_file(model, errors=5)
    sidecar_of(model).write_bytes(seal)
    flip(model, rng, 2)
    with pytest.raises(MismatchError, match="protected already"):
        protect_file(model, errors=5)
    protect_file(model, errors=5, force=True)
    assert check_file(model).verdict is Verdict.CLEAN


def test_only_some_tensors(model):
    [made] = protect_file(model, errors=5, only=["fc.*"])
    assert (made.seal.covered, made.elements) == (64 * 50 + 64, 64 * 50 + 64 + 33 + 21 + 5 + 1)
    original = model.read_bytes()
    weights = safetensors.numpy.load(original)
    damage(model, original.index(weights["ids"].tobytes()), b"\xaa")
    assert check_file(model).verdict is Verdict.CLEAN
    damage(model, original.index(weights["fc.bias"].tobytes()), b"\xaa")
    assert check_file(model).verdict is Verdict.CORRECTABLE
    with pytest.raises(WordError, match="no tensor matches 'nothing'"):
        protect_file(model, errors=5, only=["nothing"], force=True)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_empty_files_are_refused(tmp_path, name):
    path = tmp_path / name
    path.touch()
    with pytest.raises(FormatError, match="is empty"):
        protect_file(path, errors=5)
    assert os.listdir(tmp_path) == [name]


def test_a_file_without_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({}, path)
    protect_file(path, errors=5)
    original = path.read_bytes()
    assert check_file(path).verdict is Verdict.CLEAN
    damage(path, 8, b"[]")
    repaired(path, original)


@pytest.mark.parametrize("size", [1, 3, 4, 63, 65, 5_000_000])
def test_any_other_file_is_bytes(tmp_path, rng, size):
    path = tmp_path / "model.bin"
    path.write_bytes(rng.bytes(size))
    protect_file(path, errors=6)
    original = path.read_bytes()
    damage(path, 0, bytes([original[0] ^ 1]))
    damage(path, size // 2, bytes([original[size // 2] ^ 2])) if size > 1 else None
    repaired(path, original)
    os.truncate(path, size - 1)
    repaired(path, original)


def test_exotic_dtypes_are_protected_as_bytes(tmp_path):
    text = b'{"a":{"dtype":"F4","shape":[4,5],"data_offsets":[0,10]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"0123456789")
    protect_file(path, errors=2)
    original = path.read_bytes()
    damage(path, -4, b"x")
    assert [(c.tensor, c.index) for c in check_file(path).changes] == [("a", (6,))]
    repaired(path, original)


def test_links_are_followed_and_kept(model, tmp_path, rng):
    """As in the cache of a model hub: the sidecar is beside the link, the file is repaired."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    link = folder / "model.safetensors"
    link.symlink_to(model)
    protect_file(link, errors=5)
    assert sidecar_of(link).exists()
    assert not sidecar_of(model).exists()
    original = model.read_bytes()
    flip(model, rng, 3)
    repaired(link, original)
    assert link.is_symlink()
    assert model.read_bytes() == original


def test_a_repaired_copy_is_protected_too(model, tmp_path, rng):
    protect_file(model, errors=5)
    original = model.read_bytes()
    flip(model, rng, 3)
    damaged = model.read_bytes()
    out = tmp_path / "out" / "copy.safetensors"
    out.parent.mkdir()
    report = repair_file(model, out)
    assert report.files[0].written == str(out)
    assert out.read_bytes() == original
    assert model.read_bytes() == damaged
    assert check_file(out).verdict is Verdict.CLEAN
    # Naming the file itself means in place.
    assert repair_file(model, tmp_path / "out" / ".." / model.name).verdict is Verdict.CORRECTED
    assert model.read_bytes() == original
    assert check_file(model).verdict is Verdict.CLEAN


def test_a_clean_copy_is_written_when_asked_for(model, tmp_path):
    protect_file(model, errors=5)
    repair_file(model, tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == model.read_bytes()
    state = model.stat()
    assert not repair_file(model).files[0].written
    assert model.stat().st_ino == state.st_ino


def test_mode_is_kept(model, rng):
    protect_file(model, errors=5)
    model.chmod(0o640)
    flip(model, rng, 1)
    repair_file(model)
    assert model.stat().st_mode & 0o777 == 0o640
    copy = model.with_name("copy.safetensors")
    repair_file(model, copy)
    assert copy.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("errors", [0, -1])
def test_a_budget_must_be_positive(model, errors):
    with pytest.raises(SpecError):
        protect_file(model, errors=errors)
    assert not sidecar_of(model).exists()


def test_what_is_called_right_is_right(model, rng):
    """Damage of any kind, to the file and to its sidecar."""
    protect_file(model, errors=8)
    original, seal = model.read_bytes(), sidecar_of(model).read_bytes()
    ends = set()
    for _ in range(60):
        for path, content, most in ((model, original, 30), (sidecar_of(model), seal, 12)):
            damaged = bytearray(content)
            for _ in range(int(rng.integers(most))):
                at = int(rng.integers(len(damaged)))
                damaged[at : at + 3] = rng.bytes(int(rng.choice([2, 3, 3, 3, 3])))
            path.write_bytes(damaged)
        found = model.read_bytes()
        try:
            report = repair_file(model)
        except (MismatchError, SealError):
            assert model.read_bytes() == found
            ends.add("refused")
            continue
        ends.add(report.verdict.value)
        assert model.read_bytes() == (original if report.verdict.ok else found)
    assert ends >= {"corrected", "uncorrectable"}


# Real models


@pytest.mark.parametrize(
    ("source", "errors"),
    [
        (FRACAST / "model.safetensors", 100),
        (FRACAST / "model.int8.safetensors", 100),
        (WORDLLAMA, 1000),
    ],
    ids=["float32", "int8", "float16"],
)
def test_real_models(tmp_path, rng, source, errors):
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    [made] = protect_file(path, errors=errors)
    assert made.seal_bytes - made.header_bytes < 14 * errors + 1200 + made.header_bytes // 6
    flip(path, rng, errors)
    damage(path, 3, b"\x77\x77")
    repaired(path, source.read_bytes())
    safetensors.numpy.load_file(path)


def test_the_seal_is_not_replaced_by_the_repaired_file(model):
    protect_file(model, errors=3)
    side = sidecar_of(model)
    before = side.read_bytes()
    damage(model, -1, b"\x5a")
    with pytest.raises(SpecError, match="is the seal of the file"):
        repair_file(model, side)
    assert side.read_bytes() == before
    assert repair_file(model).verdict is Verdict.CORRECTED
