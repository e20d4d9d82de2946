"""Memory stays flat, however large a file is."""

import os
import subprocess
import sys
import tracemalloc

from parimend import check_file, protect_file
from parimend.outcomes import Verdict

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


def test_names_that_all_seals_of_a_folder_note_are_there_once(tmp_path):
    """As many seals as files each name as many."""
    names = [f"{i}-{'x' * 200}.bin" for i in range(300)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    protect_file(tmp_path, errors=1)
    (tmp_path / names[0]).unlink()
    check_file(tmp_path)
    tracemalloc.start()
    try:
        assert check_file(tmp_path).verdict is Verdict.UNKNOWN
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
