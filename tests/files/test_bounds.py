"""Work and memory: flat, whatever the size of a file, and whatever it claims."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from parimend import check_file, load_file
from parimend.armor import armor
from parimend.codes import LowBits, Modular, Sparse
from parimend.errors import DamageError, FormatError, SealError
from parimend.files import sidecar_of

CLAIMS = st.integers(7, 66).flatmap(lambda bits: st.integers(1 << bits, 2 << bits))


def claiming(path, count, code, checks, errors, there):
    """A file of ``there`` bytes whose header and sidecar, in order by themselves, say otherwise."""
    entry = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    text = json.dumps({"a": entry}).encode()
    header = len(text).to_bytes(8, "little") + text
    word = {"code": code, "parts": [[0, 0]], "sha256": "00" * 32, "checks": checks}
    text = {"version": 1, "carrier": "sidecar", "errors": errors, "words": [word], "notes": {}}
    text = json.dumps(text | {"blobs": {"header": len(header)}}).encode()
    sidecar_of(path).write_bytes(
        armor(len(text).to_bytes(4, "little") + text + bytes(checks) + header)
    )
    path.write_bytes(header + bytes(min(there, 4 * count)))


@given(CLAIMS, st.sampled_from([16, 100]), CLAIMS, st.integers(0, 2000))
@pytest.mark.parametrize("family", [Modular, Sparse, LowBits])
def test_claims_cost_nothing(tmp_path_factory, family, count, ratio, errors, there):
    path = tmp_path_factory.mktemp("claims") / "model.safetensors"
    if family is Modular:
        code = Modular(96, 80, bands=5)
        spec, checks = code.spec() | {"n": -(-count // 16) * 16}, code.packed_bytes
    else:
        code = family.for_errors(5120, 210)
        spec, checks = code.spec() | {"n": count, "m": max(count // ratio, 17)}, 8 * code.free
    claiming(path, count, spec, checks, errors, there)
    read = []
    try:
        check_file(path, progress=read.append)
    except (SealError, FormatError):
        assert not read
    assert sum(read) <= 20 * there + 20_000
    if sum(read) == 0:
        with pytest.raises((DamageError, SealError, FormatError)):
            load_file(path, "repair")


# Not ru_maxrss, which begins with that of the process that started this one.
PEAK = """
import re, sys
from pathlib import Path
def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search("VmHWM:[^0-9]*([0-9]+)", status)[1]) >> 10
"""

GROWTH = """
from parimend import check_file, protect_file, repair_file
def act(path):
    protect_file(path, 100, force=True)
    check_file(path)
    with open(path, "r+b") as file:
        file.seek(999)
        file.write(b"damage")
    check_file(path)
    assert repair_file(path).verdict.value == "corrected"
    return peak()
small = act(sys.argv[1])
print(act(sys.argv[2]) - small, small)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    for name, count in (("small", 1_000), ("large", 60_000_000)):
        safetensors.numpy.save_file({"a": np.zeros(count, np.float32)}, tmp_path / name)
    command = [sys.executable, "-c", PEAK + GROWTH, tmp_path / "small", tmp_path / "large"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    growth, small = map(int, done.stdout.split())
    assert growth < 80  # MiB; the file has 229
    assert small + growth < 300


CLAIM = """
from parimend import check_file
before = peak()
assert check_file(sys.argv[1]).verdict.value == "uncorrectable"
print(peak() - before)
"""


@pytest.mark.parametrize("family", [Sparse, LowBits])
def test_claims_take_no_memory(tmp_path, family):
    path = tmp_path / "model.safetensors"
    code = family.for_errors(5120, 210)
    spec = code.spec() | {"n": 1 << 32, "m": 1 << 26}  # 512 MiB of checks
    claiming(path, 1 << 32, spec, 8 * code.free, 1 << 60, 1000)
    command = [sys.executable, "-c", PEAK + CLAIM, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50
