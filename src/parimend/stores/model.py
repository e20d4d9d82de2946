"""Tensors in memory: of a module, a state dict or a checkpoint."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.dtypes import of_torch
from parimend.errors import WordError
from parimend.kernels.pieces_torch import exact
from parimend.stores.base import Tensors
from parimend.stores.memory import require_readable
from parimend.words.bits import WORD, byte_view
from parimend.words.layout import Part, whole

_Span = tuple[int, int]
_T = TypeVar("_T")
_FABRIC = {"_forward_module", "_original_module"}
"""What Lightning's Fabric keeps a module as in its wrapper, the first perhaps in another one."""


_PARTS = {"_orig_mod", "_checkpoint_wrapped_module"}
"""What a part of a model is within itself once it is compiled, or checkpoints activations."""


def plain_name(name: str) -> str:
    """The name that a tensor has where no part of its model is wrapped.

    >>> plain_name("encoder._orig_mod.0.weight")
    'encoder.0.weight'
    """
    return ".".join(each for each in name.split(".") if each not in _PARTS)


def of_names(there: Mapping[str, _T], names: Iterable[str]) -> dict[str, _T]:
    """What has some names, or had them before a part of the model was wrapped, or since.

    >>> of_names({"0._orig_mod.weight": 1, "1.bias": 2}, ["0.weight", "1.bias", "2.bias"])
    {'0.weight': 1, '1.bias': 2}
    """
    names = list(names)
    if there.keys() >= set(names):
        return {name: there[name] for name in names}
    plain = {plain_name(name): each for name, each in there.items()}
    renamed = {name: plain[plain_name(name)] for name in names if plain_name(name) in plain}
    return renamed | {name: there[name] for name in names if name in there}


def unwrapped(model: Any) -> Any:
    """The module inside `torch.compile`, data parallelism, Fabric's wrapper or an averaged copy,
    with its own names.

    Seals then fit the plain model; anything else is returned as it is.
    """
    wrappers = (
        torch.nn.parallel.DistributedDataParallel,
        torch.nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
    )
    while True:
        if isinstance(model, torch.nn.Module) and "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]  # of torch.compile
        elif isinstance(model, torch.nn.Module) and all(name in model._modules for name in _FABRIC):
            model = model._modules["_original_module"]
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


class ModelTensors(Tensors):
    """The tensors of a module or a state dict, for `parimend.carriers`.

    Attributes:
        held: the tensors, by name.
        lock: held where weights are located and put back, so that threads that repair one model do
            so one after the other. One for all models: they may share tensors.
    """

    live = True
    lock = threading.RLock()

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.held = dict(tensors)
        # Where they were when that was found to be memory that can be written.
        self._writable: dict[str, _Span | None] = {}

    def whole(self) -> list[Part]:
        return [
            whole(name, of_torch(tensor.dtype, name).name, tuple(tensor.shape))
            for name, tensor in self.held.items()
        ]

    def _read(self, part: Part) -> NDArray[np.uint8]:
        elements = self.held[part.name]
        if elements.layout is torch.strided:
            # No more than is wanted: what is on a GPU, or not contiguous, is copied for it.
            elements = _range(elements, part.start, part.start + part.count, part.name)
        return byte_view(elements, part.name)

    def is_elsewhere(self, part: Part) -> bool:
        tensor = self.held[part.name]  # which may be moved at any time
        return not (tensor.is_cpu or tensor.is_meta) and tensor.layout is torch.strided

    def _resident(self, part: Part) -> torch.Tensor | None:
        if not self.is_elsewhere(part):
            return None
        elements = self.held[part.name].detach()
        return _range(elements, part.start, part.start + part.count, part.name)

    def apart(self, part: Part) -> int:
        tensor = self.held[part.name]
        # A view into a flat buffer may begin within a word of it, and share words with others.
        within = tensor.storage_offset() * part.itemsize % WORD
        return max(WORD // part.itemsize, 1) if within or not tensor.is_contiguous() else 1

    def copies(self, part: Part) -> bool:
        return bool(part.mask) or not self.held[part.name].is_contiguous()

    def _require_writable(self, name: str) -> None:
        """Asked for all tensors at once, and anew only for one that was moved: the system takes
        milliseconds to say it, and words may be many.
        """
        span = _foreign(self.held[name])
        if span is None or self._writable.get(name) == span:
            return
        refused = _read_only(self.held)
        if name in refused:
            raise _refusal(name)
        self._writable = {n: _foreign(each) for n, each in self.held.items() if n not in refused}

    def _write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        self._require_writable(part.name)
        # Past autograd: a backward pass for which they were saved is to have the right ones.
        data = self.held[part.name].data
        size = data.element_size()
        # Bytes, as NaN payloads must arrive as they are; in memory, wherever the strides lead.
        cells = data.as_strided((reach(data),), (1,)).view(torch.uint8).view(-1, size)
        at: slice | torch.Tensor
        if elements is None and data.is_contiguous():
            at = slice(part.start, part.start + part.count)
        else:
            where = np.arange(part.count) if elements is None else elements
            index = np.unravel_index(where + part.start, part.shape or (1,))
            steps = data.stride() or (1,)
            places = sum(i * step for i, step in zip(index, steps, strict=True))
            at = torch.from_numpy(np.asarray(places)).to(data.device)
        new = torch.from_numpy(np.array(values)).to(data.device)
        with changing(data):
            cells[at] = new.view(-1, size)


def _renew_lock() -> None:
    """Whoever held it is not there in a process that was forked."""
    ModelTensors.lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def changing(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Where a tensor can be changed: what was made in inference mode, only there."""
    return torch.inference_mode() if tensor.is_inference() else torch.no_grad()


def require_writable(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse memory whose writing would end the process, as that of a file mapped for reading.

    Raises:
        WordError: names a tensor.
    """
    for name in sorted(_read_only(tensors)):
        raise _refusal(name)


def _refusal(name: str) -> WordError:
    return WordError(
        f"{name} lies in memory that can only be read, as of a file that is mapped: put a clone() "
        "in its place, or repair the file"
    )


def _read_only(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of tensors in memory that can only be read; where no Linux tells it, of none."""
    known = Path("/proc/self/maps")
    spans = {name: span for name, each in tensors.items() if (span := _foreign(each))}
    found: set[str] = set()
    if not spans or not known.exists():
        return found
    with known.open() as maps:
        for line in maps:
            places, allowed = line.split(maxsplit=2)[:2]
            if "w" not in allowed:
                first, last = (int(place, 16) for place in places.split("-"))
                found |= {name for name, at in spans.items() if at[0] < last and first < at[1]}
    return found


def _require_readable(tensor: torch.Tensor, name: str) -> None:
    """Not asked for memory that PyTorch itself has given, as asking takes a tenth of a check."""
    if span := _foreign(tensor):
        require_readable(name, *span)


def _foreign(tensor: torch.Tensor) -> _Span | None:
    """`_span` of a tensor in memory that PyTorch itself has not given, of a mapped file perhaps."""
    span = _span(tensor)
    return None if span is None or tensor.untyped_storage().resizable() else span


def _span(tensor: torch.Tensor) -> _Span | None:
    """Addresses of the first byte and after the last; None if there is no memory of the host."""
    if not (tensor.is_cpu and tensor.layout is torch.strided and tensor.numel()):
        return None
    begin = tensor.data_ptr()
    return begin, begin + reach(tensor) * tensor.element_size()


def reach(tensor: torch.Tensor) -> int:
    """Number of elements from the first to the last in memory, of a tensor that is not empty."""
    if tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _range(tensor: torch.Tensor, first: int, last: int, name: str) -> torch.Tensor:
    """Elements first .. last - 1 in row-major order; a copy of no more rows than they are in.

    Raises:
        WordError: if memory of the host cannot be read; names the tensor.
    """
    if tensor.is_contiguous():
        flat = tensor if tensor.dim() == 1 else tensor.view(-1)
        piece = flat if last - first == flat.numel() else flat[first:last]
        _require_readable(piece, name)
        return piece
    below = math.prod(tensor.shape[1:])
    row, end = first // below, -(-last // below)
    _require_readable(tensor[row:end], name)
    rows, skipped = exact(tensor[row:end]), row * below
    if end - row == 1 and tensor.dim() > 1:
        return _range(rows[0], first - skipped, last - skipped, name)
    return rows.reshape(-1)[first - skipped : last - skipped]
