"""Files of all formats as networks."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from samples import SAMPLES

from parimend.campaign import Spec, filled, lines, run
from parimend.campaign.filed import tensors_of
from parimend.campaign.networks import struck
from parimend.errors import CampaignError, FormatError, MismatchError
from parimend.formats import layout_of
from parimend.words.bits import byte_view
from tests.campaign.conftest import HERE, tables


def spec(file, **more):
    networks, flips = {"n": {"file": str(file), **more}}, {"kind": "bitflip", "count": 2}
    return Spec.of(tables(networks=networks, faults={"flip": flips}, block=20), HERE)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_of_any_format_is_its_tensors(name, tmp_path, rng):
    path = SAMPLES[name](tmp_path, rng)
    tensors, content = struck(tensors_of(path)), path.read_bytes()
    with path.open("rb") as file:
        entries = layout_of(file, path).entries
    found = {each: byte_view(tensor, each).tobytes() for each, tensor in tensors.items()}
    assert found == {each.name: content[each.begin : each.end] for each in entries}
    assert filled(path, tensors) == content
    changed = max(tensors, key=lambda each: tensors[each].nbytes)
    byte_view(tensors[changed], changed)[0] ^= 1
    assert sum(a != b for a, b in zip(filled(path, tensors), content, strict=True)) == 1
    shares = {line.protection: line.outcomes for line in _lines(path, tmp_path / "out")}
    assert shares["none"]["silent"].value == shares["sidecar"]["repaired"].value == 1.0


def _lines(path, out):
    run(spec(path), out, workers=1)
    return lines(out)


def test_what_a_file_is_filled_with_has_its_sizes(tmp_path):
    path = tmp_path / "w.npy"
    np.save(path, np.ones(3, np.float32))
    for wrong in ({}, {"array": torch.zeros(4)}):
        with pytest.raises(MismatchError, match="has a tensor array of 12 bytes"):
            filled(path, wrong)


def test_the_files_with_the_rest_of_the_tensors_belong_to_it(tmp_path, rng):
    make = SAMPLES["onnx-data"]
    beside = tensors_of(make(tmp_path, rng))
    whole = tensors_of(tmp_path / "model.onnx")
    assert beside.keys() < whole.keys()
    index = tmp_path / "model.safetensors.index.json"
    shards = {f"model-0000{i}-of-00002.safetensors": f"w{i}" for i in (1, 2)}
    for file, tensor in shards.items():
        save_file({tensor: np.ones(3, np.float32)}, tmp_path / file)
    index.write_text(json.dumps({"weight_map": {w: file for file, w in shards.items()}}))
    assert sorted(tensors_of(index)) == ["w1", "w2"]
    for file in shards:
        save_file({"w1": np.ones(3, np.float32)}, tmp_path / file)
    with pytest.raises(MismatchError, match="two files with a tensor w1"):
        tensors_of(index)


def test_a_quantized_onnx_file_is_scored_by_its_own_library(tmp_path):
    from tests.campaign.onnx_recipe import make

    path = tmp_path / "model.onnx"
    make(path)
    recipe = "tests.campaign.onnx_recipe"
    more = {"data": f"{recipe}:answers", "metric": f"{recipe}:agreement"}
    given = spec(path, **more, data_arguments={"path": str(path)})
    assert run(given, tmp_path / "out", workers=1).finished
    found = {line.protection: line for line in lines(tmp_path / "out")}
    assert found["none"].intact == found["sidecar"].score.value == 1.0
    assert found["none"].score.value < 1.0


def test_what_cannot_be_a_network_says_so(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nothing of this kind")
    with pytest.raises(FormatError, match=r"w\.safetensors"):
        run(spec(path), tmp_path / "a", workers=1)
    save_file({"w": np.ones(50, np.float32)}, path)
    given = spec(path, metric="digits_recipe:accuracy")
    with pytest.raises(CampaignError, match=r"\(without build it is given the tensors of the file"):
        run(given, tmp_path / "b", workers=1)
