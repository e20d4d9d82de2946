"""Repairing from other copies what the budget is not enough for."""

import numpy as np
import pytest
import safetensors.numpy

from parimend import check_file, protect_file, repair_file
from parimend.outcomes import Verdict

BLOCK = 1 << 16


@pytest.fixture
def large(tmp_path, rng):
    """A protected file of 2 MB with odd tensors, and its content."""
    path = tmp_path / "model.safetensors"
    tensors = {
        "a": rng.standard_normal((300, 1001), dtype=np.float32),
        "b": rng.integers(0, 255, 77, np.uint8),
        "c": rng.standard_normal(90_001).astype(np.float64),
        "d": rng.standard_normal((3, 7)).astype(np.float16),
    }
    safetensors.numpy.save_file(tensors, path)
    protect_file(path, errors=20)
    return path, path.read_bytes()


def spoilt(content, rng, places, size=BLOCK):
    """A content with other bytes at some places."""
    new = bytearray(content)
    for at in places:
        end = min(at + size, len(new))
        new[at:end] = bytes(b ^ 0x5A for b in new[at:end])
    return bytes(new)


def hidden_files(path):
    return [p.name for p in path.parent.iterdir() if p.name.startswith(".")]


def test_two_damaged_copies_give_one_good_one(large, rng):
    path, good = large
    path.write_bytes(spoilt(good, rng, [200_000, 1_000_000]))
    other = path.with_name("other")
    other.write_bytes(spoilt(good, rng, [500_000, 1_500_000]))
    report = repair_file(path, sources=other)
    assert report.verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    assert hidden_files(path) == []
    assert check_file(path).verdict is Verdict.CLEAN


def test_a_check_says_where_it_is_damaged(large, rng):
    path, good = large
    path.write_bytes(spoilt(good, rng, [200_000]))
    [file] = check_file(path).files
    assert file.verdict is Verdict.UNCORRECTABLE
    [(begin, end)] = file.ranges
    assert begin <= 200_000 < 200_000 + BLOCK <= end <= begin + 2 * BLOCK
