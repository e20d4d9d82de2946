"""Seals inside safetensors files: the carriers that change the weights."""

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from parimend import check_file, protect_file, repair_file
from parimend.errors import FormatError, MismatchError, SpecError, WordError
from parimend.files import sidecar_of
from parimend.records import Verdict
from tests.files.conftest import damage, flip, header_length

CARRIERS = ["real", "lowbits"]
LIMIT = {"real": 0.5, "lowbits": 1e-5}


@pytest.fixture
def plain(tmp_path, rng):
    path = tmp_path / "plain.safetensors"
    arrays = {
        "z": rng.standard_normal((50, 80), dtype=np.float32),
        "a": rng.standard_normal((30, 40), dtype=np.float32),
        "steps": np.array([3], np.int64),
    }
    safetensors.numpy.save_file(arrays, path, {"author": "me"})
    return path


@pytest.fixture(params=CARRIERS)
def made(request, plain, tmp_path):
    out = tmp_path / "made.safetensors"
    protect_file(plain, 20, request.param, out, only=["a", "z"])
    return out


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_ordinary_file_comes_out(plain, tmp_path, carrier):
    before = plain.read_bytes()
    out = tmp_path / "made.safetensors"
    [done] = protect_file(plain, 20, carrier, out, only=["a", "z"])
    assert plain.read_bytes() == before
    assert (done.path, done.sidecar, done.seal.covered) == (str(out), "", 5200)
    old, new = safetensors.numpy.load_file(plain), safetensors.numpy.load_file(out)
    with safetensors.safe_open(plain, "numpy") as a, safetensors.safe_open(out, "numpy") as b:
        assert a.offset_keys() == b.offset_keys()
        assert b.metadata().pop("author") == "me"
    assert (old["steps"] == new["steps"]).all()
    for name in ("a", "z"):
        moved = np.linalg.norm(old[name] - new[name]) / np.linalg.norm(old[name])
        assert 0 < moved < LIMIT[carrier]
    report = check_file(out)
    assert report.verdict is Verdict.CLEAN
    assert (report.files[0].carrier, report.files[0].outcome.elements) == (carrier, 5200)


def test_damage_is_repaired(made, rng):
    original = made.read_bytes()
    flip(made, rng, 20, header_length(original) + 8)
    assert check_file(made).verdict is Verdict.CORRECTABLE
    assert repair_file(made).verdict is Verdict.CORRECTED
    assert made.read_bytes() == original


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"\xff\xff\xff"),
        (8, b"\0\0"),
        (20, b"????"),
        (40, b"\0" * 20),
        (200, b'"'),
        (300, b"AAAAAAAA"),
        (-1, b"?"),
    ],
)
def test_a_damaged_header_is_restored(made, at, data):
    original = made.read_bytes()
    damage(made, at if at >= 0 else header_length(original) + at, data)
    assert check_file(made).files[0].findings == ("header damaged, can be restored",)
    assert repair_file(made).verdict is Verdict.CORRECTED
    assert made.read_bytes() == original


def test_a_repaired_copy(made, rng, tmp_path):
    original = made.read_bytes()
    flip(made, rng, 5, header_length(original) + 8)
    out = tmp_path / "copy.safetensors"
    repair_file(made, out)
    assert out.read_bytes() == original


def test_misuse_is_refused(plain, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(SpecError, match="say where to write"):
        protect_file(plain, 5, "real")
    with pytest.raises(SpecError, match="write the new one somewhere else"):
        protect_file(plain, 5, "real", plain)
    with pytest.raises(SpecError, match="takes no out"):
        protect_file(plain, 5, "sidecar", out)
    with pytest.raises(WordError, match="steps"):
        protect_file(plain, 5, "lowbits", out)
    (tmp_path / "x.bin").write_bytes(b"data")
    with pytest.raises(FormatError, match="no safetensors file"):
        protect_file(tmp_path / "x.bin", 5, "real", out)
    assert not out.exists()


def test_seals_are_not_replaced_by_accident(made, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(MismatchError, match="has a seal already"):
        protect_file(made, 5, "lowbits", out, only=["a"])
    sidecar_of(out).write_bytes(b"")
    with pytest.raises(MismatchError, match="belongs to another file"):
        protect_file(made, 5, "lowbits", out, only=["a"])
    with pytest.warns(UserWarning, match="of the bytes of the tensors are protected"):
        protect_file(made, 5, "lowbits", out, only=["a"], force=True)
    assert not sidecar_of(out).exists()
    assert check_file(out).files[0].outcome.elements == 1200
