"""Seals of files that were made before they named the format: their only blob is the header."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from parimend import Seal, check_file, protect_file, repair_file
from parimend.armor import unarmor
from parimend.errors import FormatError, SealError
from parimend.files import sidecar_of
from parimend.formats.safetensors import Safetensors
from parimend.outcomes import Verdict


def older(seal):
    """The seal as it was written then."""
    ((name, frame),) = seal.blobs.items()
    return replace(seal, blobs={"header": frame if name == "safetensors" else b""})


@pytest.fixture(params=["model.safetensors", "model.pt"])
def path(request, tmp_path, rng):
    path = tmp_path / request.param
    save_file({"w": rng.standard_normal((20, 30), dtype=np.float32)}, path)
    if path.suffix == ".pt":
        path.write_bytes(path.read_bytes()[3:])  # it is nothing that is known
    return path


def test_sidecars(path):
    original = path.read_bytes()
    seal = older(protect_file(path, errors=4)[0].seal)
    seal.save(sidecar_of(path))
    beside = sidecar_of(path).read_bytes()
    assert (b'"tensors":[["bytes"' in bytes(unarmor(beside, "it")[0])) == (path.suffix == ".pt")
    assert protect_file(path, errors=4)[0].is_kept
    damaged = bytearray(original)
    damaged[3] ^= 4
    damaged[-9] ^= 8
    path.write_bytes(damaged[:-2])
    wrong = bytearray(beside)
    wrong[70] ^= 1
    sidecar_of(path).write_bytes(wrong)
    assert check_file(path).verdict is Verdict.CORRECTABLE
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original
    assert sidecar_of(path).read_bytes() == beside
    assert Seal.load(sidecar_of(path)).to_bytes() == beside


def test_seals_inside(tmp_path, rng):
    plain, path = tmp_path / "plain.safetensors", tmp_path / "model.safetensors"
    save_file({"w": rng.standard_normal((40, 50), dtype=np.float32)}, plain)
    seal = older(protect_file(plain, 2, "lowbits", path)[0].seal)
    format = Safetensors()
    with path.open("rb") as file:
        layout = format.parse(file, "it")
    content = path.read_bytes()
    header = format.with_seal(layout, seal.to_bytes()).frame
    original = header + content[len(layout.frame) :]
    path.write_bytes(original)
    assert check_file(path).verdict is Verdict.CLEAN
    damaged = bytearray(original)
    damaged[:40] = bytes(40)
    damaged[-9] ^= 8
    path.write_bytes(damaged)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


@pytest.mark.parametrize(
    ("blobs", "says"),
    [
        ({"header": b""}, "it does not describe a file"),
        ({"header": b"x"}, "its copy of the frame has 1 bytes, too few"),
        ({"safetensors": b"x", "raw": b"y"}, "it has several frames"),
        ({"raw": bytes(8)}, "its copy of the frame is not the size of a file: 0000000000000000"),
        ({"tflite": b"x"}, "'tflite' is not known to this parimend: install a newer one"),
    ],
)
def test_what_makes_no_sense(tmp_path, rng, blobs, says):
    path = tmp_path / "model.safetensors"
    save_file({"w": rng.standard_normal(30, dtype=np.float32)}, path)
    seal = protect_file(path, errors=4)[0].seal
    with pytest.raises((SealError, FormatError), match=says):
        Seal.from_bytes(replace(seal, blobs=blobs).to_bytes())
