"""Every format keeps what all of them promise."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import SAMPLES

from parimend.errors import FormatError
from parimend.formats import FORMATS, layout_of
from tests.formats.contract import FormatContract


class TestSafetensors(FormatContract):
    name = "safetensors"

    @pytest.fixture
    def path(self, tmp_path, rng):
        arrays = {
            "w": rng.standard_normal((20, 30), dtype=np.float32),
            "none": np.zeros((0, 3), np.float16),
            "ids": rng.integers(0, 9, 7, np.int8),
        }
        save_file(arrays, tmp_path / "model.safetensors", {"by": "me"})
        return tmp_path / "model.safetensors"


class TestForeignSafetensors(FormatContract):
    """With dtypes that are not known, or have elements of less than a byte."""

    name = "safetensors"

    @pytest.fixture
    def path(self, tmp_path, rng):
        text = {
            "q": {"dtype": "F4", "shape": [60, 10], "data_offsets": [0, 300]},
            "x": {"dtype": "Q8_0", "shape": [9], "data_offsets": [300, 405]},
            "c": {"dtype": "C128", "shape": [2], "data_offsets": [405, 437]},
        }
        encoded = json.dumps(text).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + rng.bytes(437))
        return path


class Sampled(FormatContract):
    """A file that the format's own library made."""

    @pytest.fixture
    def path(self, tmp_path, rng):
        return SAMPLES[self.name](tmp_path, rng)


class TestGguf(Sampled):
    name = "gguf"


class TestNpy(Sampled):
    name = "npy"


class TestNpz(Sampled):
    name = "npz"


class TestTorch(Sampled):
    name = "torch"


class TestOnnx(Sampled):
    name = "onnx"


class TestOnnxData(Sampled):
    """The model beside it names the file and its tensors."""

    name = "onnx-data"

    @pytest.fixture
    def layout(self, format, path):
        with path.open("rb") as file:
            return format.parse(file, str(path))

    def test_it_is_registered_and_detected(self, format, path):
        assert FORMATS[self.name] is format
        with path.open("rb") as file:
            assert layout_of(file, path).format is format
            other = path.rename(path.with_suffix(".other"))
            assert layout_of(file, other).format.name == "raw"

    def test_a_file_of_another_size_is_refused(self, format, path):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with path.open("rb") as file, pytest.raises(FormatError, match="is truncated"):
            format.parse(file, str(path))


class TestRaw(Sampled):
    name = "raw"


def test_every_format_is_tested():
    classes = [*FormatContract.__subclasses__(), *Sampled.__subclasses__()]
    tested = {cls.name for cls in classes if cls.name}
    assert tested == set(FORMATS)
