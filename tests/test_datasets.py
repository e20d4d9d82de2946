"""The readers, on small files made here in every layout."""

import gzip
import io
import json
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from parimend import datasets
from parimend.errors import FormatError, ParimendError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def test_digits():
    data = datasets.digits()
    assert (data.train_x.shape, data.test_x.shape) == ((1437, 64), (360, 64))
    assert (data.train_x.dtype, data.train_y.dtype) == (np.float32, np.int64)
    assert (data.train_x.min(), data.train_x.max()) == (0.0, 1.0)
    assert sorted(set(data.test_y.tolist())) == list(range(10))
    assert len(repr(data)) < 300


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ParimendError, match=r"pip install 'parimend\[demo\]'"):
        datasets.digits()


# IDX files


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def write(path, data):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def idx_folder(tmp_path):
    pictures = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    classes = np.array([3, 7], np.uint8)
    write(tmp_path / "train-images-idx3-ubyte.gz", idx(pictures))
    write(tmp_path / "train-labels-idx1-ubyte", idx(classes))
    write(tmp_path / "t10k-images-idx3-ubyte", idx(pictures[:1]))
    write(tmp_path / "t10k-labels-idx1-ubyte.gz", idx(classes[:1]))
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_are_read_packed_or_not(idx_folder, name):
    data = datasets.load(name, idx_folder)
    assert data.name == name
    assert data.train_x.shape == (2, 784)
    assert (data.train_x.dtype, data.train_y.dtype) == (np.float32, np.int64)
    assert data.train_x[0, 255] == 1.0
    assert data.test_y.tolist() == [3]


def test_missing_and_broken_idx_files_are_named(tmp_path):
    with pytest.raises(ParimendError, match="--root"):
        datasets.load("mnist", None)
    with pytest.raises(FormatError, match="train-images-idx3-ubyte"):
        datasets.load("mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(20))
    with pytest.raises(FormatError, match="truncated"):
        datasets.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("t10k-labels-idx1-ubyte.gz", b"\x1f\x8b\x08 no gzip", "no gzip file"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(bytes(99), mtime=0)[:-12], "truncated"),
        ("t10k-images-idx3-ubyte", b"", "no IDX file"),
        ("t10k-images-idx3-ubyte", idx(np.zeros(784, np.uint8)), "in 3 dimensions"),
        ("train-labels-idx1-ubyte", idx(np.zeros(3, np.uint8)), "3 classes for 2 pictures"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(idx_folder, file, data, message):
    (idx_folder / file).write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        datasets.mnist(idx_folder)
    assert file in str(caught.value)


def test_an_unknown_name():
    with pytest.raises(ParimendError, match="no data set 'imagenet': take digits, mnist"):
        datasets.load("imagenet")


# CIFAR-10


class Pictures:
    """Three pictures a batch, and how to write them in every layout."""

    def __init__(self, rng):
        self.x = rng.integers(256, size=(6, 3, 3, 32, 32), dtype=np.uint8)
        self.y = rng.integers(10, size=(6, 3))

    def pickles(self, root, protocol=2):
        folder = root / "cifar-10-batches-py"
        folder.mkdir()
        for name, x, y in zip(BATCHES, self.x, self.y, strict=True):
            batch = {"data": x.reshape(3, 3072), "labels": y.tolist(), "batch_label": name}
            (folder / name).write_bytes(pickle.dumps(batch, protocol))
        return folder

    def binary(self, root):
        folder = root / "cifar-10-batches-bin"
        folder.mkdir()
        for name, x, y in zip(BATCHES, self.x, self.y, strict=True):
            rows = np.column_stack([y.astype(np.uint8), x.reshape(3, 3072)])
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        return folder

    def npm(self, root):
        folder = root / "package"
        folder.mkdir()
        for name, x in zip(BATCHES, self.x, strict=True):
            pixels = np.ascontiguousarray(x.reshape(3, 3, 1024).transpose(0, 2, 1))
            Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / "train_lables.json").write_text(json.dumps(self.y[:5].ravel().tolist()))
        (folder / "test_lables.json").write_text(json.dumps(self.y[5].tolist()))
        return folder

    def are(self, data):
        right = (self.x[:5].reshape(15, 3, 32, 32), self.y[:5].ravel(), self.x[5], self.y[5])
        found = (data.train_x, data.train_y, data.test_x, data.test_y)
        return all(
            a.dtype == b.dtype and np.array_equal(a, b) and b.flags.writeable
            for a, b in zip(right, found, strict=True)
        )


@pytest.fixture
def pictures(rng):
    return Pictures(rng)


@pytest.mark.parametrize("layout", ["pickles", "binary", "npm"])
def test_cifar10_in_every_layout(pictures, tmp_path, layout):
    folder = getattr(pictures, layout)(tmp_path)
    assert pictures.are(datasets.load("cifar10", tmp_path))
    assert pictures.are(datasets.cifar10(str(folder)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(pictures, tmp_path, protocol):
    pictures.pickles(tmp_path, protocol)
    assert pictures.are(datasets.cifar10(tmp_path))


def test_pickles_of_python_2_and_an_old_numpy(pictures, tmp_path):
    """As in the original: arrays under the names of numpy 1, their bytes as strings."""
    folder = pictures.pickles(tmp_path)
    for name in BATCHES:
        data = (folder / name).read_bytes()
        assert b"numpy._core.multiarray\n" in data
        data = data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
        (folder / name).write_bytes(data)
    assert pictures.are(datasets.cifar10(tmp_path))


def test_a_pickle_cannot_run_code(pictures, tmp_path):
    folder = pictures.pickles(tmp_path)
    victim = tmp_path / "victim"
    victim.touch()

    class Calls:
        def __init__(self, function):
            self.function = function

        def __reduce__(self):
            return self.function, (str(victim),)

    for payload in (Calls(os.remove), Calls(np.fromfile), Calls(eval)):
        (folder / "data_batch_2").write_bytes(pickle.dumps({"data": payload}))
        with pytest.raises(FormatError, match=r"data_batch_2.*has no place in a CIFAR-10 batch"):
            datasets.cifar10(tmp_path)
    assert victim.exists()


def test_a_missing_batch_is_named(pictures, tmp_path):
    (pictures.pickles(tmp_path) / "data_batch_3").unlink()
    with pytest.raises(FormatError, match=r"cifar-10-batches-py: data_batch_3 missing"):
        datasets.cifar10(tmp_path)


@pytest.mark.parametrize("layout", ["pickles", "binary", "npm"])
def test_cifar10_for_testing_needs_the_last_batch_alone(pictures, tmp_path, layout):
    folder = getattr(pictures, layout)(tmp_path)
    for file in [*folder.glob("data_batch*"), *folder.glob("train_lables*")]:
        file.unlink()
    data = datasets.cifar10(tmp_path, train=False)
    assert (data.train_x.shape, data.train_y.shape) == ((0, 3, 32, 32), (0,))
    assert np.array_equal(data.test_x, pictures.x[5])
    assert np.array_equal(data.test_y, pictures.y[5])
    with pytest.raises(FormatError, match="data_batch_1"):
        datasets.cifar10(tmp_path)


def test_a_folder_without_cifar10(tmp_path):
    with pytest.raises(FormatError, match="holds no CIFAR-10: name the folder of"):
        datasets.cifar10(tmp_path / "nowhere")


def png(shape):
    file = io.BytesIO()
    Image.new("RGB", shape).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("layout", "file", "data"),
    [
        ("pickles", "test_batch", b""),
        ("pickles", "test_batch", pickle.dumps([])),
        ("pickles", "test_batch", pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]})),
        ("pickles", "test_batch", pickle.dumps({"data": np.zeros(9, np.uint8), "labels": [0]})),
        ("pickles", "test_batch", pickle.dumps({"data": np.zeros(3072, np.uint8), "labels": []})),
        ("pickles", "test_batch", pickle.dumps({"data": np.zeros(3072, np.uint8), "labels": [10]})),
        ("binary", "data_batch_4.bin", bytes(3072)),
        ("binary", "data_batch_4.bin", b"\x0a" + bytes(3072)),
        ("npm", "data_batch_5.png", b""),
        ("npm", "data_batch_5.png", png((1024, 3))[:60]),
        ("npm", "data_batch_5.png", png((32, 32))),
        ("npm", "data_batch_5.png", png((1024, 4))),
        ("npm", "test_lables.json", b"[1, 2"),
        ("npm", "test_lables.json", b'["a", "b", "c"]'),
        ("npm", "train_lables.json", b"[0, 1, 2]"),
    ],
)
def test_a_batch_that_is_not_what_it_should_be(pictures, tmp_path, layout, file, data):
    (getattr(pictures, layout)(tmp_path) / file).write_bytes(data)
    with pytest.raises(FormatError) as caught:
        datasets.cifar10(tmp_path)
    # Short lists of classes are noticed at the picture that lacks one.
    assert (file in str(caught.value)) or file == "train_lables.json"


def test_missing_classes_and_a_missing_pillow(pictures, tmp_path, monkeypatch):
    folder = pictures.npm(tmp_path)
    (folder / "test_lables.json").unlink()
    with pytest.raises(FormatError, match=r"test_lables.json is missing"):
        datasets.cifar10(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ParimendError, match=r"pip install 'parimend\[recipes\]'"):
        datasets.cifar10(tmp_path)
