"""Work and memory are those of the bytes that are there, whatever a file and its seal claim."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend import check_file, load_file
from parimend.armor import armor
from parimend.codes import Hashed, LowBits, Modular, Sparse
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
@pytest.mark.parametrize("family", [Modular, Hashed, Sparse, LowBits])
def test_claims_cost_nothing(tmp_path_factory, family, count, ratio, errors, there):
    path = tmp_path_factory.mktemp("claims") / "model.safetensors"
    if family in (Modular, Hashed):
        code = Modular(96, 80, bands=5) if family is Modular else Hashed(96, 168, bands=5)
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


CLAIM = r"""
import re, sys
from pathlib import Path
from parimend import check_file
def peak():  # as in test_memory
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10
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
    command = [sys.executable, "-c", CLAIM, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50
