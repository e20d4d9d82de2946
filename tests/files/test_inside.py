"""Seals inside safetensors files: the carriers that change the weights."""

import base64
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parimend import check_file, protect_file, repair_file
from parimend.errors import FormatError, MismatchError, SealError, SpecError, WordError
from parimend.files import sidecar_of
from parimend.outcomes import Verdict
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
    assert (report.files[0].carrier, report.files[0].covered) == (carrier, 5200)


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
    with pytest.raises(SpecError, match="takes no --seal-dir"):
        protect_file(plain, 5, "real", out, seal_dir=tmp_path)
    with pytest.raises(SpecError, match="both say where the seal goes"):
        protect_file(plain, 5, "sidecar", out, seal_dir=tmp_path)
    with pytest.raises(WordError, match="steps"):
        protect_file(plain, 5, "lowbits", out)
    with pytest.raises(SpecError, match=r"out.pt promises a file of another format.*safetensors$"):
        protect_file(plain, 5, "real", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
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
    way, link = tmp_path / "way.safetensors", tmp_path / "link.safetensors"
    way.symlink_to(out)
    link.symlink_to(way)
    with pytest.raises(MismatchError, match="belongs to another file"):
        protect_file(made, 5, "lowbits", link, only=["a"])
    protect_file(made, 5, "lowbits", out, only=["a"], force=True)
    assert not sidecar_of(out).exists()
    assert check_file(out).files[0].covered == 1200


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A file of many tensors, so that its seal has many blocks: (path, bytes, header's length)."""
    folder = tmp_path_factory.mktemp("many")
    noise = np.random.default_rng(0)
    arrays = {f"layer.{i}.w": noise.standard_normal(40, dtype=np.float32) for i in range(300)}
    safetensors.numpy.save_file(arrays, folder / "plain.safetensors")
    protect_file(folder / "plain.safetensors", 30, "lowbits", folder / "made.safetensors")
    good = (folder / "made.safetensors").read_bytes()
    return folder / "made.safetensors", good, header_length(good)


def restored(path, good):
    assert check_file(path).files[0].findings == ("header damaged, can be restored",)
    assert repair_file(path).verdict is Verdict.CORRECTED
    return path.read_bytes() == good


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(1, 100))
@example(64965087, 83)  # neither copy of the checksum of the seal is left whole
def test_scattered_damage_of_the_header_is_restored(many, seed, count):
    path, good, length = many
    rng = np.random.default_rng(seed)
    words = np.frombuffer(good, np.uint8).copy()
    for at in 4 * rng.choice(length // 4, count, replace=False):
        words[at : at + 4] ^= rng.integers(1, 256, 4, dtype=np.uint8)
    path.write_bytes(words)
    assert restored(path, good)


@settings(max_examples=10)
@given(st.integers(0, 400), st.integers(1, 400), st.sampled_from([b"\0", b"\xff", b'"', b"A"]))
def test_a_burst_anywhere_in_the_header_is_restored(many, where, count, byte):
    path, good, _ = many
    # Mostly at the beginning, where it counts most, and around the end of the seal.
    end = good.index(b'"', 50)
    start = where if count % 2 else end - where
    bad = good[:start] + byte * count + good[start + count :]
    path.write_bytes(bad)
    assert bad == good or restored(path, good)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_any_63_bytes_of_the_smallest_header_are_restored(tmp_path, carrier, rng):
    path = tmp_path / "made.safetensors"
    safetensors.numpy.save_file({"w": rng.standard_normal(150, np.float32)}, tmp_path / "plain")
    protect_file(tmp_path / "plain", 1, carrier, path)
    good = path.read_bytes()
    assert header_length(good) < 1200  # with a seal of three blocks
    for start in range(0, header_length(good) - 63, 29):
        bad = np.frombuffer(good, np.uint8).copy()
        bad[start : start + 63] ^= rng.integers(1, 256, 63, dtype=np.uint8)
        path.write_bytes(bad)
        assert restored(path, good)


@pytest.mark.parametrize("bit", [0, 5])
def test_one_bit_of_the_key(many, bit):
    path, good, _ = many
    for at in range(good.index(b"parimend"), good.index(b"parimend") + 8):
        bad = bytearray(good)
        bad[at] ^= 1 << bit
        path.write_bytes(bad)
        assert restored(path, good)


def test_a_seal_that_another_writer_moved(many):
    """Behind other texts and far from the usual place, with bytes inserted before it."""
    path, good, _ = many
    bad = good[:8] + b"\0" * 1234 + good[9:]
    path.write_bytes(bad)
    report = check_file(path)
    assert report.verdict is Verdict.UNCORRECTABLE  # all data have moved
    assert report.files[0].carrier == "lowbits"


def test_a_file_without_a_seal_is_searched_at_the_cost_of_what_is_there(tmp_path):
    path = tmp_path / "model.safetensors"
    head = struct.pack("<8sHHII", b"PARIMEND", 1, 0, 60_000_000, 0)
    head += struct.pack("<I", zlib.crc32(head))
    path.write_bytes(bytes(8) + base64.b64encode(head) * 40)
    os.truncate(path, 100_000_000)
    tracemalloc.start()
    with pytest.raises(SealError, match="seal"):
        check_file(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
