"""An ONNX file with int8 weights, and how well it does, as a spec names it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from parimend.campaign import filled


def make(path):
    """y = x W, with W in 8 bits."""
    rng = np.random.default_rng(0)
    held = {
        "weight": rng.integers(-100, 100, (20, 8), np.int8),
        "scale": np.float32(0.01),
        "zero": np.int8(0),
    }
    nodes = [
        helper.make_node("DequantizeLinear", list(held), ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])]
        for name, size in (("x", 20), ("y", 8))
    )
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def answers(path):
    """Inputs, and what the file answers."""
    inputs = np.random.default_rng(1).standard_normal((50, 20), np.float32)
    return path, inputs, _run(Path(path).read_bytes(), inputs)


def agreement(tensors, data):
    """The share of inputs that get the same class."""
    path, inputs, right = data
    return float((_run(filled(path, tensors), inputs) == right).mean())


def _run(content, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    return session.run(None, {"x": inputs})[0].argmax(1)
