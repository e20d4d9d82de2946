"""Memory stays flat, however large a file is."""

import os
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from functools import cache

import pytest

from parimend import check_file, protect_file, receipt
from parimend.errors import MismatchError
from parimend.files.members import seals_of

SCRIPT = r"""
import os, re, sys
os.fsync = lambda descriptor: None  # slow, and takes no memory
from parimend import check_file, protect_file, repair_file
protect_file(sys.argv[1], errors=120)
with open(sys.argv[1], "r+b") as file:
    for k in range(50):
        file.seek(k * 6_000_003)
        file.write(b"damage")
print(check_file(sys.argv[1]).verdict.value)
print(repair_file(sys.argv[1]).verdict.value)
assert "torch" not in sys.modules
# Not getrusage: its peak survives exec, so that of the tests would count.
with open("/proc/self/status") as file:
    print(int(re.search(r"VmHWM:\s*(\d+) kB", file.read())[1]) // 1024)
"""


def test_large_files_take_no_more_memory(tmp_path):
    path = tmp_path / "model.bin"
    path.touch()
    os.truncate(path, 320_000_000)  # holes: they take no room on the disk
    run = subprocess.run([sys.executable, "-c", SCRIPT, path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, repaired, megabytes = run.stdout.split()
    assert (found, repaired) == ("correctable", "corrected")
    assert int(megabytes) < 300


ACTS = {
    "check": check_file,
    "check apart": lambda folder: check_file(folder, seal_dir=folder.parent / "seals"),
    "protect": lambda folder: protect_file(folder, errors=1),
    "receipt": receipt,
    "inspect": seals_of,
}


def noted(folder, count, seal_dir):
    """As many files as each of their seals names, one of which is missing."""
    folder.mkdir(parents=True)
    names = [f"{i}-{'x' * 200}.bin" for i in range(count)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr("os.fsync", lambda descriptor: None)
        protect_file(folder, errors=1, seal_dir=seal_dir)
    (folder / names[0]).unlink()
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes one with a few files and one with many, whose seals lie beside them, or apart."""

    @cache
    def made(apart):
        root = tmp_path_factory.mktemp("sets")
        return [
            noted(root / name / "folder", count, root / name / "seals" if apart else None)
            for name, count in (("few", 3), ("many", 200))
        ]

    return made


@pytest.mark.parametrize(
    "act",
    [pytest.param(name, marks=() if name == "check" else pytest.mark.long) for name in ACTS],
)
def test_names_that_all_seals_of_a_folder_note_are_there_once(folders, act):
    act, (few, many) = ACTS[act], folders(act == "check apart")
    with suppress(MismatchError):  # one is missing
        act(few)  # imports, and compiles
    tracemalloc.start()
    try:
        with suppress(MismatchError):
            act(many)
        assert 0 < tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
