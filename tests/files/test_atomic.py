"""All or nothing: crashes, locks, errors of the file system."""

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import safetensors.numpy
import torch

from parimend import check_file, protect_file, repair_file, save_file
from parimend.atomic import atomic, is_locked
from parimend.errors import BusyError, MismatchError
from parimend.files import sidecar_of
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip


@pytest.fixture
def large(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": rng.standard_normal((1000, 4000), dtype=np.float32)}, path)
    return path


def start(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def test_content_and_failure(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail():
        with atomic(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_the_disk_has_it_before_it_takes_its_place(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    synced = []

    def fsync(descriptor):
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((place, path.read_bytes()))

    monkeypatch.setattr("os.fsync", fsync)
    with atomic(path) as file:
        file.write(b"new")
    assert synced == [(str(tmp_path / ".a.new"), b"old"), (str(tmp_path), b"new")]


@pytest.mark.parametrize("what", ["a.new", "a.lock", "a.old", "a.side.old"])
def test_what_a_killed_process_left_behind_is_removed(tmp_path, what):
    (tmp_path / f".{what}").write_bytes(b"half of something")
    with atomic(tmp_path / "a", stale=[tmp_path / "a.side"]) as file:
        file.write(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["a"]


def test_a_temporary_file_is_a_new_one(tmp_path):
    """Whoever made what is there before has it open still, or by another name, or links away."""
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_bytes(b"precious")
    planted = tmp_path / ".a.new"
    for plant in (os.link, os.symlink):
        plant(victim, planted)
        with atomic(path) as file:
            file.write(b"x")
        assert victim.read_bytes() == b"precious"
        assert (path.read_bytes(), path.is_symlink()) == (b"x", False)
    with planted.open("w+b") as older, atomic(path) as file:
        file.write(b"y")
        older.write(b"evil")
    assert path.read_bytes() == b"y"


def test_what_cannot_be_removed_is_named(tmp_path):
    (tmp_path / ".a.new").mkdir()
    with pytest.raises(
        OSError, match=r"\.a\.new, which an earlier run left.*cannot be removed"
    ) as e:
        atomic(tmp_path / "a").__enter__()
    assert e.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == [".a.new"]


def test_nothing_is_written_if_the_temporary_file_is_taken_away(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def lose(thief):
        with atomic(path) as file:
            file.write(b"new")
            (tmp_path / ".a.new").unlink()
            (tmp_path / ".a.new").write_bytes(b"another")

    with pytest.raises(MismatchError, match=r"took \.a\.new away"):
        lose(path)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_leaves_no_file_beside_what_belongs_to_another_one(
    tmp_path, monkeypatch, number
):
    """It may come as soon as one of the files is in its place."""
    path, side = tmp_path / "a", tmp_path / "a.side"
    path.write_bytes(b"old")
    side.write_bytes(b"of old")
    put, done = os.replace, []

    def interrupted(*places):
        put(*places)
        done.append(places)
        if len(done) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic(path, stale=[side]) as file:
        file.write(b"new")
    there = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert there == ({"a": b"old", "a.side": b"of old"} if number == 1 else {"a": b"new"})


@pytest.mark.parametrize("like", [True, False])
def test_a_private_file_is_private_from_the_beginning(tmp_path, like):
    old, path = tmp_path / "old", tmp_path / "a"
    made = old if like else path
    made.write_bytes(b"old")
    made.chmod(0o600)
    modes = []
    opened = os.open

    def watch(name, flags, mode=0o777, **how):
        descriptor = opened(name, flags, mode, **how)
        if str(name).endswith(".new"):
            modes.append(os.fstat(descriptor).st_mode & 0o777)
        return descriptor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.open", watch)
        with atomic(path, like=old if like else None) as file:
            modes.append(os.fstat(file.fileno()).st_mode & 0o777)
    assert modes == [0o600, 0o600]
    assert path.stat().st_mode & 0o777 == 0o600


def test_new_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_owner_and_attributes_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o664)
    attributes = {}

    def read(place, name, **_):
        if name != "user.origin":
            raise OSError(errno.ENODATA, "No data available")
        return b"here"

    # Not every file system has them, and not everybody may give files away.
    monkeypatch.setattr("os.listxattr", lambda p, **_: ["user.origin"] if p == path else [])
    monkeypatch.setattr("os.getxattr", read)
    monkeypatch.setattr("os.setxattr", lambda p, name, value, **_: attributes.update({name: value}))
    owners = []
    monkeypatch.setattr("os.fchown", lambda _, user, group: owners.append((user, group)))
    with atomic(path) as file:
        file.write(b"new")
    assert owners == [(os.getuid(), -1), (-1, os.getgid())]
    assert attributes == {"user.origin": b"here"}
    assert path.stat().st_mode & 0o777 == 0o664
    assert time.time_ns() - path.stat().st_mtime_ns < 60e9


@pytest.mark.parametrize("like", [True, False])
@pytest.mark.parametrize("refused", ["fchown", "setxattr"])
@pytest.mark.parametrize(("mode", "left"), [(0o664, 0o644), (0o640, 0o600)])
def test_the_rights_of_a_group_or_a_list_are_not_given_to_others(
    tmp_path, monkeypatch, like, refused, mode, left
):
    old, path = tmp_path / "old", tmp_path / "a"
    made = old if like else path
    made.write_bytes(b"old")
    made.chmod(mode)

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.getxattr", lambda *_, **__: b"a list of users")
    monkeypatch.setattr("os.setxattr", lambda *_, **__: None)
    monkeypatch.setattr(f"os.{refused}", refuse)
    with atomic(path, like=old if like else None) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == left


@pytest.mark.parametrize("has_list", [True, False])
@pytest.mark.parametrize("like", [True, False])
def test_a_list_of_users_is_that_of_the_old_file(tmp_path, monkeypatch, like, has_list):
    """Also where the folder has one for what is new in it."""
    old, path = tmp_path / "old", tmp_path / "a"
    made = old if like else path
    made.write_bytes(b"old")
    made.chmod(0o660)
    lists = {made: b"bob"} if has_list else {}

    def get(place, name, **_):
        if place not in lists:
            raise OSError(errno.ENODATA, "No data available")
        return lists[place]

    done = []
    monkeypatch.setattr("os.listxattr", lambda *_, **__: [])
    monkeypatch.setattr("os.getxattr", get)
    monkeypatch.setattr("os.setxattr", lambda _, name, value: done.append((name, value)))
    monkeypatch.setattr("os.removexattr", lambda _, name: done.append((name, None)))
    with atomic(path, like=old if like else None):
        pass
    assert done == [("system.posix_acl_access", b"bob" if has_list else None)]
    assert path.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("why", [errno.EPERM, errno.ENOTSUP])
def test_file_systems_without_modes_and_owners(model, rng, monkeypatch, why):
    """As sticks and shares are, where one is not the owner of anything."""
    original = model.read_bytes()
    model.chmod(0o640)

    def refuse(*_, **__):
        raise OSError(why, os.strerror(why))

    for name in ("chmod", "fchmod", "chown", "fchown", "utime"):
        monkeypatch.setattr(f"os.{name}", refuse)
    protect_file(model, errors=3)
    flip(model, rng, 3)
    assert repair_file(model).verdict is Verdict.CORRECTED
    assert model.read_bytes() == original
    assert not model.stat().st_mode & 0o007  # as private as it was
    assert sorted(os.listdir(model.parent)) == [model.name, sidecar_of(model).name]


@pytest.mark.parametrize("why", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_folders_that_cannot_be_asked_to_last(model, rng, monkeypatch, why):
    """As of some file systems, and those that may be written and not be read."""
    original, sync = model.read_bytes(), os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(why, os.strerror(why))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", refuse)
    protect_file(model, errors=3)
    protect_file(model, errors=4, force=True)
    flip(model, rng, 4)
    assert repair_file(model).verdict is Verdict.CORRECTED
    assert model.read_bytes() == original
    save_file({"w": torch.ones(3)}, model, errors=3)
    assert check_file(model).verdict is Verdict.CLEAN


@pytest.mark.parametrize("length", [248, 255])
def test_the_longest_names(tmp_path, length):
    path = tmp_path / ("a" * length)
    for content in (b"x", b"y"):
        with atomic(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(OSError, match=r"File name too long: give another .* --seal-dir") as error:
        protect_file(path, errors=1)
    assert error.value.filename == f"{path}.parimend"


def test_two_processes_do_not_write_one_file(tmp_path):
    holder = start(
        "import sys; from parimend.atomic import atomic\n"
        "with atomic(sys.argv[1]) as file:\n"
        "    print('locked', flush=True); sys.stdin.read()",
        tmp_path / "a",
    )
    assert holder.stdout.readline() == "locked\n"
    try:
        assert is_locked(tmp_path / "a")
        with pytest.raises(BusyError, match="is being written by another process"):
            atomic(tmp_path / "a").__enter__()
    finally:
        holder.kill()
        holder.communicate()
    assert Path(tmp_path, ".a.lock").exists()
    assert not is_locked(tmp_path / "a"), "what a killed process left behind is no lock"
    with atomic(tmp_path / "a") as file:
        file.write(b"x")


def test_a_busy_file_is_not_repaired(model, rng):
    protect_file(model, errors=5)
    flip(model, rng, 2)
    with atomic(model) as file:
        file.write(model.read_bytes())
        with pytest.raises(BusyError):
            repair_file(model)
    assert repair_file(model).verdict is Verdict.CORRECTED


def test_who_asks_whether_a_file_is_locked_keeps_nobody_from_writing_it(tmp_path):
    path, done, seen = tmp_path / "a", Event(), set()

    def ask():
        while not done.is_set():
            seen.add(is_locked(path))

    asking = [Thread(target=ask) for _ in range(2)]
    for each in asking:
        each.start()
    try:
        for number in range(100):
            with atomic(path) as file:
                file.write(b"%d" % number)
    finally:
        done.set()
        for each in asking:
            each.join()
    assert path.read_bytes() == b"99"
    assert seen <= {True, False}
    assert False in seen


WRITERS = """
import sys
from parimend.atomic import atomic, is_locked
from parimend.errors import BusyError
mine, done = sys.argv[2].encode() * 5000, 0
while done < 40:
    try:
        with atomic(sys.argv[1]) as file:
            file.write(mine)
        done += 1
    except BusyError:
        pass
"""


def test_writers_in_turns(tmp_path):
    """Locking, renaming and removing the temporary file do not get into each other's way."""
    path = tmp_path / "a"
    writers = [start(WRITERS, path, letter) for letter in "xy"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 5000
            assert len(set(content)) == 1
    assert [writer.wait() for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["a"]
    for writer in writers:
        writer.communicate()


def killed_after(seconds, target, *arguments):
    """Run a function in a process of its own, and kill that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["parimend.files", "parimend.loading"])
    worker = context.Process(target=target, args=arguments)
    worker.start()
    time.sleep(seconds)
    worker.kill()
    worker.join()


# Loading the compiled loops takes most of the time, so most moments are drawn after that.
MOMENTS = [0.0, *np.random.default_rng(0).uniform(0.2, 0.8, 8)]


@pytest.mark.parametrize(
    "moments",
    [MOMENTS[::2], pytest.param(MOMENTS[1::2], marks=pytest.mark.long)],
    ids=["some", "others"],
)
def test_repair_killed_at_any_moment(large, rng, moments):
    protect_file(large, errors=50)
    original, seal = large.read_bytes(), sidecar_of(large).read_bytes()
    flip(large, rng, 50)
    damaged = large.read_bytes()
    for seconds in moments:
        killed_after(seconds, repair_file, large)
        assert large.read_bytes() in (original, damaged)
        assert sidecar_of(large).read_bytes() == seal
        assert repair_file(large).verdict.ok
        assert large.read_bytes() == original
        large.write_bytes(damaged)


def test_protect_killed_at_any_moment(large):
    content = large.read_bytes()
    for seconds in MOMENTS[::2]:
        killed_after(seconds, protect_file, large, 50)
        assert large.read_bytes() == content
        if sidecar_of(large).exists():
            assert check_file(large).verdict is Verdict.CLEAN
        protect_file(large, errors=50, force=True)
        assert sorted(os.listdir(large.parent)) == [large.name, sidecar_of(large).name]
        sidecar_of(large).unlink()


def save(path, value):
    from safetensors.numpy import load

    from parimend import save_file

    tensors = {name: torch.from_numpy(x) for name, x in load(path.read_bytes()).items()}
    tensors["a"].fill_(value)
    save_file(tensors, path, errors=50)


def test_save_killed_at_any_moment(large):
    protect_file(large, errors=50)
    value = None
    for new, seconds in enumerate(MOMENTS[::2]):
        killed_after(seconds, save, large, new)
        a = safetensors.numpy.load_file(large)["a"]  # whole, whether it is the old or the new one
        if value is not None:
            assert (a == a[0, 0]).all()
            assert a[0, 0] in (value, new)
        if sidecar_of(large).exists():
            assert check_file(large).verdict is Verdict.CLEAN
        save(large, new)
        value = new
        assert check_file(large).verdict is Verdict.CLEAN


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["parimend.files.writing.copy_data", "os.fsync"])
def test_a_full_disk(model, rng, monkeypatch, error, where):
    protect_file(model, errors=5)
    flip(model, rng, 2)
    before = {path.name: path.read_bytes() for path in model.parent.iterdir()}

    def full(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(where, full)
    for act in (repair_file, lambda path: save_file({"w": torch.ones(9)}, path, errors=1)):
        if where == "os.fsync" or act is repair_file:
            with pytest.raises(OSError, match=os.strerror(error)) as raised:
                act(model)
            assert raised.value.filename == str(model)
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before


@pytest.mark.parametrize("out", [None, "elsewhere"])
def test_where_there_is_no_room_another_place_is_asked_for(model, rng, monkeypatch, out):
    protect_file(model, errors=5)
    flip(model, rng, 2)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("parimend.files.writing.copy_data", full)
    goal = out and model.with_name(out)
    said = "written there; give another place" if out else "in its place; .* with -o"
    with pytest.raises(OSError, match=f"full: it cannot be (repaired )?{said}") as raised:
        repair_file(model, goal)
    assert raised.value.filename == str(goal or model)


@pytest.mark.parametrize("act", ["repair", "save"])
def test_no_room_for_the_sidecar(tmp_path, rng, act):
    """Then the file is not replaced either."""
    path = tmp_path / "model.safetensors"
    state = {"w": torch.from_numpy(rng.standard_normal(130))}
    save_file(state, path, errors=100)
    flip(path, rng, 2)
    damage(sidecar_of(path), 40, b"\1\2")
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    room = path.stat().st_size + 100
    assert sidecar_of(path).stat().st_size > room
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            repair_file(path) if act == "repair" else save_file(state, path, errors=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("missing", [100, 1000, 395_000])
def test_no_room_for_what_a_library_writes(tmp_path, name, missing):
    """Which does not say so by an error of the system, and differently at the very end."""
    state = {"w": torch.ones(100_000)}
    save_file(state, tmp_path / name, errors=1)
    room = (tmp_path / name).stat().st_size - missing
    for path in tmp_path.iterdir():
        path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match=f"{name} cannot be written, as on a full disk"):
            save_file(state, tmp_path / name, errors=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_writing_that_fails_silently_is_noticed(model, rng, monkeypatch):
    protect_file(model, errors=5)
    flip(model, rng, 2)
    before = model.read_bytes()
    monkeypatch.setattr("parimend.stores.file.write_at", lambda *_: None)
    with pytest.raises(OSError, match="cannot be read back as it was"):
        repair_file(model)
    assert model.read_bytes() == before
    assert sorted(os.listdir(model.parent)) == [model.name, sidecar_of(model).name]


@pytest.mark.parametrize("folder", ["/proc", "/sys"])
def test_a_folder_that_cannot_be_written(folder, model, rng):
    protect_file(model, errors=5)
    with pytest.raises(OSError, match=rf"'{folder}/copy.safetensors") as error:
        repair_file(model, Path(folder, "copy.safetensors"))
    assert error.value.filename.startswith(f"{folder}/copy.safetensors")


def test_a_file_that_changes_while_it_is_protected(large):
    changed = []

    def progress(count):
        if not changed:
            changed.append(os.utime(large, ns=(0, 0)))

    with pytest.raises(Exception, match="was changed while it was read"):
        protect_file(large, errors=5, progress=progress)
    assert os.listdir(large.parent) == [large.name]
