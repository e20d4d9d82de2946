"""Only regular files are read and replaced; everything else is named at once."""

import os
import socket

import pytest
import torch

from parimend import Seal, check_file, load_file, plan, protect_file, repair_file, save_file
from parimend.atomic import locked
from parimend.cli import main
from parimend.errors import FormatError
from parimend.files import sidecar_of
from parimend.regular import open_regular, read_regular

KINDS = {
    "fifo": "is a FIFO",
    "device": "is a device",
    "socket": "is a socket",
    "folder": "is a folder",
    "link": "is a device",
}


@pytest.fixture(params=KINDS)
def special(request, tmp_path, monkeypatch):
    """Puts something that is no regular file somewhere; gives what is said of it."""

    def put(path):
        if request.param == "fifo":
            os.mkfifo(path)
        elif request.param == "socket":
            monkeypatch.chdir(path.parent)  # the names of sockets are short
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        elif request.param == "folder":
            path.mkdir()
        elif request.param == "device":
            # Making nodes needs rights that not everybody has.
            monkeypatch.setattr("os.stat", as_device(path, os.stat))
            path.touch()
        else:
            path.symlink_to("/dev/zero")
        return KINDS[request.param]

    return put


def as_device(path, stat):
    def found(place, **how):
        return stat("/dev/zero" if str(place) == str(path) else place, **how)

    return found


@pytest.mark.parametrize("kind", ["folder", "socket", "link"])
def test_in_the_place_of_a_lock(kind, tmp_path, monkeypatch):
    """What cannot be locked is named, and not the file, which is none of it."""
    monkeypatch.chdir(tmp_path)
    if kind == "folder":
        os.mkdir(".a.lock")
    elif kind == "link":
        os.symlink("elsewhere", ".a.lock")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(".a.lock")
    says = r"\.a\.lock, by which it is locked, is no file: remove it .*'a'"
    with pytest.raises(OSError, match=says), locked("a"):
        pass
    assert os.listdir() == [".a.lock"]


def test_opening(special, tmp_path):
    says = special(tmp_path / "a")
    with pytest.raises(FormatError, match=f"a {says}"):
        open_regular(tmp_path / "a")


def test_reading_is_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_regular(tmp_path / "a", 3) == b"abc"
    with pytest.raises(FormatError, match=r"a has 3 bytes, too many .*2 at most"):
        read_regular(tmp_path / "a", 2)


def test_sidecars_and_seals(special, model):
    says = special(sidecar_of(model))
    for act in (check_file, repair_file, load_file):
        with pytest.raises(FormatError, match=f"parimend {says}"):
            act(model)
    with pytest.raises(FormatError, match=says):
        Seal.load(sidecar_of(model))


def test_files(special, tmp_path):
    path = tmp_path / "m.bin"
    says = special(path)
    if says == "is a folder":  # it stands for the files in it
        says = "has no|is a folder"
    calls = (check_file, repair_file, load_file, lambda path: protect_file(path, 3))
    for act in (*calls, lambda path: plan(path, 3)):
        with pytest.raises(FormatError, match=f"m.bin ({says})"):
            act(path)


def test_places(special, model, tmp_path):
    """They are refused before any work, and stay as they are."""
    protect_file(model, errors=3)
    place = tmp_path / "place.safetensors"
    says = special(place)
    before = os.lstat(place)
    work = []
    if says != "is a folder":  # in which the file gets its own name
        with pytest.raises(FormatError, match=says):
            repair_file(model, place, progress=work.append)
        with pytest.raises(FormatError, match=says):
            protect_file(model, 3, "lowbits", place, progress=work.append)
    with pytest.raises(FormatError, match=says):
        save_file({"w": torch.zeros(100)}, place, errors=3)
    with pytest.raises(FormatError, match=says):
        Seal.load(sidecar_of(model)).save(place)
    assert not work
    assert os.path.samestat(os.lstat(place), before)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {model.name, sidecar_of(model).name, place.name}


def test_the_damaging_command_reads_and_writes_files_only(special, model, tmp_path, capsys):
    place = tmp_path / "place.safetensors"
    says = special(place)
    for arguments in ((place, "-o", tmp_path / "out"), (model, "-o", place)):
        with pytest.raises(SystemExit) as status:
            main(["inject", *map(str, arguments), "-f", "zero"])
        assert status.value.code == 2
        assert says in capsys.readouterr().err
