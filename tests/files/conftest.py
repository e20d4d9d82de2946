import numpy as np
import pytest
from safetensors.numpy import save_file

from parimend import check_file, repair_file
from parimend.outcomes import Verdict


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Forcing data to the disk takes long, and shows only when the power fails."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def arrays(rng):
    """A small model of many dtypes, with an empty tensor, a scalar and an odd number of bytes."""
    return {
        "fc.weight": rng.standard_normal((64, 50), dtype=np.float32),
        "fc.bias": rng.standard_normal(64).astype(np.float16),
        "ids": rng.integers(0, 9, (33,), np.int64),
        "int8": rng.integers(-128, 127, (7, 3), np.int8),
        "mask": rng.integers(0, 2, 5).astype(bool),
        "scale": np.float64(0.5),
        "none": np.zeros((0, 4), np.float32),
    }


@pytest.fixture
def model(tmp_path, rng):
    """A safetensors file."""
    path = tmp_path / "model.safetensors"
    save_file({k: np.asarray(v) for k, v in arrays(rng).items()}, path, {"author": "me"})
    return path


def damage(path, at, data):
    """Overwrite bytes of a file; negative places count from its end."""
    content = bytearray(path.read_bytes())
    at = at % len(content)
    assert content[at : at + len(data)] != data
    content[at : at + len(data)] = data
    path.write_bytes(content)


def flip(path, rng, count, start=None):
    """Flip a bit in each of ``count`` words of a file, from byte ``start`` on."""
    content = bytearray(path.read_bytes())
    start = header_length(content) if start is None else start
    words = (len(content) - start) // 4
    for word in rng.choice(words, count, replace=False):
        content[start + 4 * word + int(rng.integers(4))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def flip_bit(path, at=-1):
    """Flip the lowest bit of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def header_length(content):
    return 8 + int.from_bytes(content[:8], "little")


def repaired(path, original):
    """Repair in place, and compare."""
    report = repair_file(path)
    assert report.verdict is Verdict.CORRECTED
    assert path.read_bytes() == original
    assert check_file(path).verdict is Verdict.CLEAN
    return report
