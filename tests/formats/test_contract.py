"""Every format keeps what all of them promise."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from parimend.formats import FORMATS
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


class TestRaw(FormatContract):
    name = "raw"

    @pytest.fixture
    def path(self, tmp_path, rng):
        path = tmp_path / "model.pt"
        path.write_bytes(rng.bytes(1003))
        return path


def test_every_format_is_tested():
    tested = {cls.name for cls in FormatContract.__subclasses__()}
    assert tested == set(FORMATS)
