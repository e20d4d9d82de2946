import gzip

import numpy as np
import pytest

from parimend import demo
from parimend.errors import FormatError, ParimendError


def test_the_main_job():
    said = []
    data = demo.load("digits", None)
    result = demo.run(data, faults=["bitflip", "replace"], say=lambda *x: said.append(x))
    assert result.accuracy_inside > 90
    for damage in result.damages:
        assert (damage.verdict, damage.found, damage.sha256_equal) == ("corrected", 210, True)
        assert damage.accuracy_repaired == result.accuracy_inside
    assert result.damages[0].accuracy_damaged < 80
    assert result.damages[1].l1_verdict == "corrected"
    assert result.damages[1].l1_largest_error < 1e-9
    assert [label for label, _ in said][:4] == [
        "data",
        "trained freely",
        "trained inside the code",
        "the code",
    ]


def test_same_seed_same_result():
    data = demo.load("digits", None)
    small = data._replace(train_x=data.train_x[:200], train_y=data.train_y[:200])
    runs = [demo.run(small, errors=20, seed=3, faults=["sign"], l1=False) for _ in range(2)]
    keep = [(r.accuracy_free, r.accuracy_inside, r.damages[0].accuracy_damaged) for r in runs]
    assert keep[0] == keep[1]


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_idx_files_are_read_packed_or_not(tmp_path):
    pictures = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    classes = np.array([3, 7], np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pictures)
    write_idx(tmp_path / "train-labels-idx1-ubyte", classes)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pictures[:1])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", classes[:1])
    data = demo.load("mnist", tmp_path)
    assert data.train_x.shape == (2, 784)
    assert data.train_x[0, 255] == 1.0
    assert data.test_y.tolist() == [3]


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ParimendError, match="--root"):
        demo.load("mnist", None)
    with pytest.raises(FormatError, match="train-images-idx3-ubyte"):
        demo.load("mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(20))
    with pytest.raises(FormatError, match="truncated"):
        demo.load("mnist", tmp_path)
