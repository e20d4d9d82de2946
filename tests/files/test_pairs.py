"""A file and its sidecar: whoever saves, repairs or is killed, they belong to each other."""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as plain_load
from safetensors.numpy import save_file as plain_save

from parimend import check_file, load_file, protect_file, repair_file, save_file
from parimend.errors import BusyError, MismatchError, SealError
from parimend.files import sidecar_of, writing
from parimend.files.opening import opened
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip

CHANGES = ("replace", "unlink", "rmdir", "mkdir", "fsync", "fchmod")


def moments(monkeypatch, folder, act):
    """What lies in a folder at every moment at which a process could be killed in ``act``."""
    found, busy = [], []

    def watched(real):
        def call(*arguments, **how):
            if not busy:
                busy.append(real)
                found.append(folder.with_name(f"moment{len(found)}"))
                shutil.copytree(folder, found[-1], symlinks=True)
                busy.clear()
            return real(*arguments, **how)

        return call

    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(f"os.{name}", watched(getattr(os, name)))
        act()
    return found


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "model.safetensors"


def state(value, count=200):
    return {"w": torch.full((count,), float(value))}


@pytest.mark.parametrize("carrier", ["sidecar", "lowbits"])
def test_a_save_may_be_killed_at_any_moment(monkeypatch, path, carrier):
    save_file(state(1), path, errors=3)
    found = moments(monkeypatch, path.parent, lambda: save_file(state(2), path, 3, carrier))
    assert len(found) > 8
    values = []
    for folder in found:
        left = folder / path.name
        values.append(float(plain_load(left)["w"][0].round()))  # whole
        try:
            assert check_file(left).verdict is Verdict.CLEAN
        except SealError as error:
            assert "is not protected" in str(error)  # noqa: PT017
        save_file(state(3), left, errors=3)
        assert (load_file(left)["w"] == 3).all()
        assert sorted(os.listdir(folder)) == [left.name, sidecar_of(left).name]
    assert values == sorted(values)
    assert {1.0, 2.0} == set(values)


def test_a_repair_may_be_killed_at_any_moment(monkeypatch, path, rng):
    save_file(state(1), path, errors=3)
    original = path.read_bytes()
    flip(path, rng, 3)
    damage(sidecar_of(path), 40, b"\xff\xff")
    for folder in moments(monkeypatch, path.parent, lambda: repair_file(path)):
        left = folder / path.name
        assert repair_file(left).verdict.ok
        assert left.read_bytes() == original
        assert check_file(left).verdict is Verdict.CLEAN
    assert path.read_bytes() == original


def test_a_copy_over_another_protected_file_may_be_killed_at_any_moment(monkeypatch, path, rng):
    other = path.with_name("other.safetensors")
    save_file(state(1), path, errors=3)
    save_file(state(2), other, errors=3)
    for folder in moments(monkeypatch, path.parent, lambda: repair_file(path, other)):
        try:
            assert check_file(folder / other.name).verdict is Verdict.CLEAN
        except SealError as error:
            assert "is not protected" in str(error)  # noqa: PT017
    assert (load_file(other)["w"] == 1).all()


def test_protecting_again_may_be_killed_at_any_moment(monkeypatch, path):
    save_file(state(1), path, errors=3)
    act = lambda: protect_file(path, errors=5, force=True)  # noqa: E731
    for folder in moments(monkeypatch, path.parent, act):
        left = folder / path.name
        assert check_file(left).verdict is Verdict.CLEAN
        protect_file(left, errors=5, force=True)
        assert sorted(os.listdir(folder)) == [left.name, sidecar_of(left).name]


def test_if_the_file_cannot_be_replaced_the_old_pair_is_there(monkeypatch, path):
    save_file(state(1), path, errors=3)
    replace = os.replace

    def immutable(source, target):
        if str(target) == str(path):
            raise PermissionError(1, "Operation not permitted", str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr("os.replace", immutable)
    with pytest.raises(PermissionError):
        save_file(state(2), path, errors=3)
    assert (load_file(path)["w"] == 1).all()
    assert sorted(os.listdir(path.parent)) == [path.name, sidecar_of(path).name]


SAVED = {
    "by Parimend": lambda path: save_file(state(2), path, errors=3),
    "by another program": lambda path: plain_save({"w": np.full(200, 2, np.float32)}, path),
    "sealed anew": lambda path: protect_file(path, errors=4, force=True),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("seal", ["whole", "damaged"])
def test_what_is_saved_during_a_repair_stays(path, rng, how, seal):
    save_file(state(1), path, errors=3)
    flip(path, rng, 2)
    os.utime(path, ns=(0, 0))  # clocks of file systems are coarse, and some save in place
    if seal == "damaged":
        damage(sidecar_of(path), 40, b"\xff\xff")
    after = []

    def progress(count):
        if not after:
            SAVED[how](path)
            after.append({p.name: p.read_bytes() for p in path.parent.iterdir()})

    with pytest.raises(MismatchError, match="was saved anew while it was being repaired"):
        repair_file(path, progress=progress)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == after[0]


@pytest.mark.parametrize("when", ["before it is copied", "after"])
def test_what_is_changed_in_place_during_a_repair_stays(path, rng, monkeypatch, when):
    save_file(state(1), path, errors=3)
    flip(path, rng, 2)
    os.utime(path, ns=(0, 0))  # clocks of file systems are coarse
    copy, after = writing.copy_data, []

    def changed(*arguments):
        if when == "after":
            copy(*arguments)
        damage(path, -4, b"\1\2\3\4")
        after.append(path.read_bytes())
        if when != "after":
            copy(*arguments)

    monkeypatch.setattr("parimend.files.writing.copy_data", changed)
    with pytest.raises(MismatchError, match="was saved anew while it was being repaired"):
        repair_file(path)
    assert path.read_bytes() == after[0]


@pytest.mark.parametrize("act", [check_file, repair_file])
@pytest.mark.parametrize("how", ["in place", "anew"])
def test_what_is_written_while_it_is_looked_at_is_not_called_damaged(path, act, how):
    """As by a training run that has the file half written at that time."""
    save_file(state(1, 50_000), path, errors=3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert check_file(path).verdict is Verdict.UNCORRECTABLE

    def write(count):
        other = path if how == "in place" else path.with_name("other")
        other.write_bytes(whole)
        other.replace(path)

    [found] = act(path, progress=write).files
    assert (found.verdict, found.words, found.ranges) == (Verdict.UNKNOWN, (), ())
    assert "written while it was being looked at: check it again" in found.problem
    assert path.read_bytes() == whole
    assert act(path).verdict is Verdict.CLEAN


def test_saving_is_refused_during_a_repair(path, rng, monkeypatch):
    """Once the repaired file is being written."""
    save_file(state(1), path, errors=3)
    flip(path, rng, 2)
    refused = []

    def copy(*_):
        for act in (
            lambda: save_file(state(2), path, errors=3),
            lambda: protect_file(path, errors=3, force=True),
            lambda: repair_file(path),
        ):
            with pytest.raises(BusyError):
                act()
            refused.append(act)
        raise ZeroDivisionError

    monkeypatch.setattr("parimend.files.writing.copy_data", copy)
    with pytest.raises(ZeroDivisionError):
        repair_file(path)
    assert len(refused) == 3


def test_several_writers_end_with_a_pair(path):
    saved = []

    def write(value):
        for _ in range(6):
            try:
                save_file(state(value, 200 + value), path, errors=3)
                saved.append(value)
            except BusyError:
                pass

    writers = [threading.Thread(target=write, args=(value,)) for value in (1, 2, 3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        with suppress(FileNotFoundError, BusyError, SealError):  # between two saves
            assert check_file(path).verdict is Verdict.CLEAN
    assert saved
    assert load_file(path)["w"][0].item() in saved
    assert sorted(os.listdir(path.parent)) == [path.name, sidecar_of(path).name]


def test_a_pair_that_changes_while_it_is_opened_is_opened_again(path, monkeypatch):
    from parimend.files.beside import Beside

    save_file(state(1), path, errors=3)
    find, calls = Beside.find, []

    def late(beside, file, place):
        calls.append(place)
        if len(calls) == 1:
            save_file(state(2, 300), path, errors=4)
        return find(beside, file, place)

    monkeypatch.setattr(Beside, "find", late)
    with opened(path, Beside()) as found:
        assert found.sealed.seal.errors == 4
        assert found.sealed.seal.covered == 300
    assert len(calls) == 2


KILL = """
import os, sys, torch
from parimend.loading import saving
saving.seal_beside = lambda *arguments: os.kill(os.getpid(), 9)
saving.save_file({"w": torch.ones(100_000)}, sys.argv[1], errors=3)
"""


def test_a_save_that_ends_while_it_is_asked_for_leaves_a_pair(path, monkeypatch):
    """No seal was there, and when it is asked whether it is being written, it is."""
    save_file(state(1), path, errors=3)
    new = sidecar_of(path).read_bytes()
    sidecar_of(path).unlink()

    def ends(side):
        side.write_bytes(new)
        return False

    monkeypatch.setattr("parimend.files.opening.is_locked", ends)
    assert check_file(path).verdict is Verdict.CLEAN


def test_a_killed_save_leaves_nothing_for_long(path):
    subprocess.run([sys.executable, "-c", KILL, path], check=False)
    assert sum(p.stat().st_size for p in path.parent.rglob("*") if p.is_file()) < 500_000
    save_file(state(1), path, errors=3)
    assert sorted(os.listdir(path.parent)) == [path.name, sidecar_of(path).name]


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_saving_keeps_links_and_modes(tmp_path, name):
    (tmp_path / "blobs").mkdir()
    real, link = tmp_path / "blobs" / f"real-{name}", tmp_path / name
    save_file(state(1), real, errors=3)
    real.chmod(0o600)
    link.symlink_to(real)
    save_file(state(2), link, errors=3)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert sidecar_of(link).stat().st_mode & 0o777 == 0o600
    assert (load_file(link)["w"] == 2).all()
    # The old content's sidecar is not left beside the new content.
    assert os.listdir(real.parent) == [real.name]
