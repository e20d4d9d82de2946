"""What the library of a format makes of a file: of its verified content, in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from parimend.dtypes import named
from parimend.errors import FormatError, ParimendError, SpecError, WordError
from parimend.formats import Entry
from parimend.loading.content import Content

if TYPE_CHECKING:
    import torch

Companion = Callable[[Path], Content]
"""Gives the content of a file that holds the rest of another one's tensors."""
PAIRS = "float4_e2m1fn_x2"
"""What torch has for the 4-bit numbers of files."""
_ANOTHER = "install a newer one, or load it with another library within parimend.verified"
_LONGEST = 200  # characters of what a library says
_LONGEST_NAME = 60  # characters of a file's, which is 249 bytes at most in memory


def built(content: Content, device: str | torch.device, companion: Companion) -> Any:
    """What the format's own library makes of a file.

    Args:
        content: of the file.
        device: where tensors of torch go.
        companion: see `Companion`.

    Raises:
        FormatError: if there is no such library, it is not installed, or does not load the file.
        SpecError: if it gives nothing that could be on another device than the CPU.
        WordError: if a tensor has a dtype that torch does not have.
    """
    kind = content.layout.format.loads
    if not kind:
        raise FormatError(
            f"{content.path} is a file of the format {content.layout.format.name}: load the model "
            "that names it, or use verified and load it with its own library"
        )
    if kind == "tensors":
        return _tensors(content, device)
    if kind == "torch":
        return torch_load(content.file(), content.path, device)
    if str(device) != "cpu":
        raise SpecError(
            f"{content.path} is a file of the format {content.layout.format.name}, whose library "
            "gives nothing that lies on a device: leave device out, and move what you need"
        )
    if kind == "numpy":
        return numpy_load(content.file(), content.path)
    return _gguf(content) if kind == "gguf" else _onnx(content, companion)


def _tensors(content: Content, device: str | torch.device) -> dict[str, torch.Tensor]:
    return {
        entry.name: _tensor(entry, content.data[entry.name]).to(device)
        for entry in content.layout.entries
    }


def _tensor(entry: Entry, data: NDArray[np.uint8]) -> torch.Tensor:
    """A tensor as the safetensors library gives it; of 4-bit numbers, torch holds pairs."""
    import torch

    shape = entry.shape
    if entry.dtype == "F4" and hasattr(torch, PAIRS):
        if not shape or shape[-1] % 2:
            raise WordError(
                f"{entry.name} is F4 {list(shape)}, of which torch can only hold pairs along the "
                "last axis: load it with another library"
            )
        shape, dtype = (*shape[:-1], shape[-1] // 2), getattr(torch, PAIRS)
    else:
        dtype = named(entry.dtype).torch_dtype(entry.name)
    if not data.size:
        # torch cannot view nothing as another type
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.from_numpy(data).view(dtype).reshape(shape)


def torch_load(file: BinaryIO, path: Path, device: str | torch.device = "cpu") -> Any:
    """What ``torch.load`` makes of a file, with ``weights_only=True``.

    Args:
        file: open for reading. Nothing of it is mapped.
        path: of the file, for messages.
        device: where tensors go.

    Raises:
        FormatError: if it makes nothing of it; names the file.
    """
    import torch

    with reading(
        f"{path} cannot be loaded by torch.load with weights_only=True",
        "load it yourself, within parimend.verified: TorchScript with torch.jit.load; objects, if "
        "you trust where they come from, with weights_only=False, or with their classes among "
        "torch.serialization.add_safe_globals; anything else with its own library",
    ):
        return torch.load(file, map_location=device, weights_only=True)


def numpy_load(file: BinaryIO, path: Path) -> Any:
    """What ``numpy.load`` makes of a file: an array, or an archive that reads arrays one by one.

    Args:
        file: open for reading; of an archive to be kept open.
        path: of the file, for messages.

    Raises:
        FormatError, OSError: if it makes nothing of it; names the file.
    """
    try:
        with reading_array(str(path)):
            found = np.load(file)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    if isinstance(found, np.ndarray) and file.read(1):
        raise FormatError(
            f"{path} has more than the array that numpy.load reads: read one after the other of an "
            "open file, within parimend.verified"
        )
    return found


@contextmanager
def reading_array(what: str) -> Iterator[None]:
    """Tell what numpy cannot read; see `reading`."""
    with reading(
        f"{what} cannot be loaded by numpy.load",
        "objects need allow_pickle=True: load them yourself, if you trust where they come from; "
        "if it is damaged, fetch it again",
    ):
        yield


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Tell what a library cannot read: what it raises then may be anything.

    Args:
        what: cannot be read by which library, for the message.
        remedy: what to do.

    Raises:
        FormatError: if it raises something.

    Example:
        >>> with reading("a.bin cannot be loaded", "take another"):
        ...     raise KeyError(101)
        Traceback (most recent call last):
        parimend.errors.FormatError: a.bin cannot be loaded (KeyError: 101): take another
    """
    try:
        yield
    except (ParimendError, MemoryError, OSError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # of torch
            raise
        raise FormatError(f"{what} ({_said(error)}): {remedy}") from error


def _said(error: Exception) -> str:
    """The sentence of a library that tells what is wrong, without what it advises."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if lines[0].startswith("Weights only load failed") and len(lines) > 1:
        # Of torch: its reason stands at the end, before where to read more.
        lines = [lines[-2].rpartition("WeightsUnpickler error:")[2].strip()]
    first = lines[0].partition(". ")[0].rstrip(".")[:_LONGEST]
    return first if " " in first else f"{type(error).__name__}: {first}".removesuffix(": ")


def _gguf(content: Content) -> Any:
    gguf = _library("gguf", content)
    # It maps what has a name; this file has one in this process, and is nowhere on a disk.
    with os.fdopen(os.memfd_create(content.path.name[:_LONGEST_NAME]), "w+b") as file:
        content.layout.write(file, content.data)
        file.flush()
        with reading(f"{content.path} cannot be loaded by the package gguf", _ANOTHER):
            return gguf.GGUFReader(f"/proc/self/fd/{file.fileno()}")


def _onnx(content: Content, companion: Companion) -> Any:
    onnx = _library("onnx", content)
    with reading(f"{content.path} cannot be loaded by the package onnx", _ANOTHER):
        model = onnx.load_model_from_string(content.file().read())
    files: dict[str, memoryview] = {}
    for tensor in _all_tensors(model, onnx.TensorProto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = onnx.external_data_helper.ExternalDataInfo(tensor)
        if place.location not in files:
            found = companion(content.path.parent / place.location)
            files[place.location] = memoryview(found.file().read())
        begin = place.offset or 0
        end = None if place.length is None else begin + place.length
        tensor.raw_data = bytes(files[place.location][begin:end])
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return model


def _all_tensors(message: Any, kind: type) -> Iterator[Any]:
    """The tensors in a message of protobuf, however deep in it."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if hasattr(value, "__len__") else (value,):
                yield from _all_tensors(each, kind)


def _library(name: str, content: Content) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise FormatError(
            f"{content.path} is loaded with the package {name}, which is not installed: "
            f"pip install 'parimend[{name}]'"
        ) from None
