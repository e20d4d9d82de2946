"""Small files of every format, each made by its own library and read by it.

    python scripts/samples.py DIRECTORY

writes `tests/golden/formats`: a folder for each format, with a file and its seal. A seal once
written has to stay readable; these were made by version 0.1.0, and are never written again.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import onnx
import safetensors.numpy
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from parimend import protect_file

Arrays = dict[str, NDArray[Any]]


def arrays(rng: np.random.Generator) -> Arrays:
    """A few arrays of several types, one of them of no whole words."""
    return {
        "fc.weight": rng.standard_normal((30, 40), dtype=np.float32),
        "fc.bias": rng.standard_normal(41).astype(np.float16),
        "ids": rng.integers(-9, 9, (3, 7), np.int64),
        "scale": np.array(0.5),
    }


def make_safetensors(folder: Path, rng: np.random.Generator) -> Path:
    """Named arrays."""
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(arrays(rng), path, {"made": "by nobody"})
    return path


def make_npy(folder: Path, rng: np.random.Generator) -> Path:
    """One array."""
    path = folder / "model.npy"
    np.save(path, rng.standard_normal((30, 41), dtype=np.float32))
    return path


def make_npz(folder: Path, rng: np.random.Generator) -> Path:
    """Named arrays, one column by column, one of objects, one of texts, one without elements."""
    path = folder / "model.npz"
    more = {
        "turned": np.asfortranarray(rng.standard_normal((7, 9))),
        "objects": np.array([None, "x"], object),
        "texts": np.array(["a", "bc"]),
        "none": np.zeros((0, 4), np.float32),
    }
    np.savez(path, **arrays(rng), **more)
    return path


def make_torch(folder: Path, rng: np.random.Generator) -> Path:
    """A checkpoint with a network, an optimizer, views, and types that have no storage."""
    path = folder / "model.pt"
    state = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays(rng).items())
    table = torch.from_numpy(rng.standard_normal((6, 20)))
    checkpoint = {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 0.1}]},
        "tied": state["fc.weight"],
        "turned": table.t(),
        "row": table[2],
        "half": torch.from_numpy(rng.standard_normal(9)).to(torch.bfloat16),
        "tiny": torch.from_numpy(rng.standard_normal(9)).to(torch.float8_e4m3fn),
    }
    torch.save(checkpoint, path)
    return path


def make_gguf(folder: Path, rng: np.random.Generator) -> Path:
    """Arrays and tensors of blocks, after facts of every type."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.small", 3)
    writer.add_float64("a.float", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(50)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 50)
    for name, array in arrays(rng).items():
        writer.add_tensor(name, array.reshape(array.shape or (1,)))
    weights = rng.standard_normal((3, 512), dtype=np.float32)
    for kind in ("Q4_1", "Q8_0", "Q4_0"):
        dtype = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind, gguf.quants.quantize(weights, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _model(rng: np.random.Generator) -> onnx.ModelProto:
    held = [numpy_helper.from_array(array, name) for name, array in arrays(rng).items()]
    floats = rng.standard_normal(40)
    held.append(helper.make_tensor("shift", TensorProto.FLOAT, [40], floats.tolist()))
    held.append(helper.make_tensor("axes", TensorProto.INT64, [2], [1, 300]))
    constant = numpy_helper.from_array(np.arange(5.0, dtype=np.float32), "")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "fc.weight"], ["product"]),
            helper.make_node("Constant", [], ["constant"], value=constant),
            helper.make_node("Add", ["product", "shift"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 30])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40])],
        held,
    )
    return helper.make_model(graph, producer_name="nobody")


def make_onnx(folder: Path, rng: np.random.Generator) -> Path:
    """A model that holds its weights."""
    path = folder / "model.onnx"
    onnx.save(_model(rng), path)
    return path


def make_onnx_data(folder: Path, rng: np.random.Generator) -> Path:
    """The weights of a model, which is beside them."""
    path = folder / "model.onnx_data"
    onnx.save_model(
        _model(rng),
        folder / "model.onnx",
        save_as_external_data=True,
        location=path.name,
        size_threshold=0,
    )
    return path


def make_raw(folder: Path, rng: np.random.Generator) -> Path:
    """Bytes."""
    path = folder / "model.bin"
    path.write_bytes(rng.bytes(5003))
    return path


SAMPLES: Mapping[str, Callable[[Path, np.random.Generator], Path]] = MappingProxyType(
    {
        "safetensors": make_safetensors,
        "gguf": make_gguf,
        "npy": make_npy,
        "npz": make_npz,
        "torch": make_torch,
        "onnx": make_onnx,
        "onnx-data": make_onnx_data,
        "raw": make_raw,
    }
)
"""What makes a file of a format in a folder, by the name of the format."""


def load(path: Path) -> dict[str, bytes]:
    """The tensors that its own library finds in a file: the bytes of each, by its name."""
    if path.suffix == ".gguf":
        tensors = gguf.GGUFReader(path).tensors
        return {tensor.name: tensor.data.tobytes() for tensor in tensors}
    if path.suffix == ".npy":
        return {"array": np.load(path).tobytes("A")}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=True) as found:
            return {name: found[name].tobytes("A") for name in found.files if name != "objects"}
    if path.suffix == ".pt":
        return dict(_storages("", torch.load(path, weights_only=True)))
    if path.suffix in (".onnx", ".onnx_data"):
        model = onnx.load(path.with_suffix(".onnx"))
        return {
            held.name: numpy_helper.to_array(held).tobytes() for held in model.graph.initializer
        }
    if path.suffix == ".safetensors":
        found = safetensors.numpy.load(path.read_bytes())
        return {name: array.tobytes() for name, array in found.items()}
    return {"bytes": path.read_bytes()}


def _storages(name: str, value: Any) -> list[tuple[str, bytes]]:
    """The storages of tensors in something nested, under the names of these."""
    if isinstance(value, torch.Tensor):
        return [(name, bytes(value.untyped_storage().tolist()))]
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    return [pair for key, each in inside for pair in _storages(f"{name}.{key}".strip("."), each)]


def main(directory: Path) -> None:
    """Write all of them, and protect them."""
    for name, make in SAMPLES.items():
        folder = directory / name
        folder.mkdir(parents=True)
        path = make(folder, np.random.default_rng(0))
        # Data beside a model are protected together with it.
        protect_file(folder / "model.onnx" if name == "onnx-data" else path, errors=5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
