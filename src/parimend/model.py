"""Protection of a live model: `protect_`, `check`, `repair_`, `refresh`, `plan`."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.arguments import require, whole_number
from parimend.carriers import Carrier, PlannedWord, Request, Tensors, diagnose
from parimend.carriers import plan as plan_tensors
from parimend.carriers import protect_ as protect_tensors_
from parimend.carriers import refresh as refresh_tensors
from parimend.carriers import repair_ as repair_tensors_
from parimend.carriers.base import Find, find
from parimend.codes import Sparse
from parimend.errors import SpecError
from parimend.impose import surgeon
from parimend.impose.moments import second_moments
from parimend.records import Diagnosis, Repair
from parimend.seal import Seal
from parimend.words.bits import byte_view, dtype_name
from parimend.words.layout import Part, Per, whole
from parimend.words.naming import buffers_of, leaves, named_tensors, require_plain


def unwrapped(model: Any) -> Any:
    """The module inside `torch.compile`, data parallelism or an averaged copy, with its own names.

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
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


class ModelTensors:
    """The tensors of a module or a state dict, for `parimend.carriers`.

    Attributes:
        lock: held where weights are located and put back, so that threads that repair one model do
            so one after the other. One for all models: they may share tensors.
    """

    lock = threading.RLock()

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    @classmethod
    def sealed(cls, model: torch.nn.Module | Mapping[str, Any], seal: Seal) -> ModelTensors:
        """Those tensors of a model that a seal names.

        Raises:
            WordError: if one has no plain memory; names it.
        """
        there = leaves(unwrapped(model))
        names = {part.name for word in seal.words for part in word.parts}
        tensors = {name: there[name].value for name in sorted(names) if name in there}
        for name, tensor in tensors.items():
            require_plain(name, tensor)
        return cls(tensors)

    @property
    def sharded(self) -> bool:
        """Whether some of them are spread over processes."""
        return any(hasattr(tensor, "device_mesh") for tensor in self.tensors.values())

    def whole(self) -> list[Part]:
        return [
            whole(name, dtype_name(tensor.dtype, name), tuple(tensor.shape))
            for name, tensor in self.tensors.items()
        ]

    def read(self, part: Part) -> NDArray[np.uint8]:
        tensor = self.tensors[part.name]
        if tensor.is_contiguous():  # a tensor on a GPU comes over piece by piece
            return byte_view(tensor.view(-1)[part.start : part.start + part.count], part.name)
        data = byte_view(tensor, part.name)
        size = len(data) // max(math.prod(part.shape), 1)
        return data[part.start * size : (part.start + part.count) * size]

    def resident(self, part: Part) -> torch.Tensor | None:
        """The elements of a part that is on another device than the CPU: sums stay there."""
        tensor = self.tensors[part.name]
        if tensor.device.type in ("cpu", "meta") or tensor.layout is not torch.strided:
            return None
        return tensor.detach().reshape(-1)[part.start : part.start + part.count]

    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        data = self.tensors[part.name].detach()
        size = data.element_size()
        reach = 1 + sum((n - 1) * step for n, step in zip(data.shape, data.stride(), strict=True))
        # Bytes, as NaN payloads must arrive as they are; in memory, wherever the strides lead.
        cells = data.as_strided((reach,), (1,)).view(torch.uint8).view(-1, size)
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
        # Weights that were made in inference mode can only be changed there.
        with torch.inference_mode() if data.is_inference() else torch.no_grad():
            cells[at] = new.view(-1, size)


def protect_(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    errors: int,
    carrier: Carrier = "sidecar",
    *,
    only: Sequence[str] | None = None,
    per: Per = "model",
    buffers: bool = False,
    bits: int | None = None,
    rows: int | None = None,
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
) -> Seal:
    """Protect the weights of a model, so that any ``errors`` wrong ones can be repaired.

    ``sidecar`` changes nothing: sums of the bit patterns go into the seal. ``real`` moves the
    weights to the nearest ones that satisfy linear constraints, so that the weights themselves
    carry the redundancy; ``lowbits`` does so with the lowest mantissa bits of float32 weights,
    which changes them by about 1e-6. Both need only a few numbers in the seal.

    Args:
        model: a module, a state dict, or a training checkpoint: all tensors in nested dicts, lists
            and tuples, under dotted names.
        errors: number of wrong 32-bit words that can be repaired wherever they fall, in each
            protected word. Such a word is one float32, half a float64, two weights of 16 bits, or
            four of 8.
        carrier: where the redundancy lives.
        only: shell patterns; protects the tensors whose names match one of them.
        per: one protected word for the whole model, per tensor, or per output row.
        buffers: protect the buffers of modules too. Without them, and without ``only``, a warning
            says if more than half of the bytes are left out.
        bits: of a float weight on its grid, ``real`` only; 18 by default.
        rows: number of checks of every word, instead of as many as are needed; not for
            ``sidecar``.
        calibration: batches of inputs, ``real`` only: the weights then move where that changes the
            outputs of the model least, not where the way is shortest. 500 inputs or more; a batch
            is a tensor, a tuple that begins with one, or a dict of keyword arguments.
        seed: selects the code.

    Returns:
        The seal. Keep it beside the weights: `check` and `repair_` need it.

    Raises:
        SpecError: if a word has too few weights for so many errors.
        WordError: if there is nothing to protect, or a tensor cannot be protected in this way;
            names it. Nothing was changed then.

    Example:
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5)
        >>> with torch.no_grad():
        ...     _ = model.weight[3].fill_(float("nan"))
        >>> check(model, seal).verdict.value
        'uncorrectable'
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5, carrier="real")
        >>> with torch.no_grad():
        ...     _ = model.weight[3, :5].fill_(0.125)
        >>> repair_(model, seal).verdict.value
        'corrected'
    """
    model = unwrapped(model)
    tensors = _chosen(model, only, buffers)
    request = Request(whole_number(errors), carrier, per, bits, rows, seed)
    if tensors.sharded:
        from parimend import sharded

        if calibration is not None:
            raise SpecError("calibration is for models in one piece; train with constrain_ instead")
        return sharded.protect_(sharded.ShardedTensors(tensors.tensors), request)
    if calibration is None:
        return protect_tensors_(tensors, request)
    if carrier != "real" or not isinstance(model, torch.nn.Module):
        raise SpecError("calibration is for carrier='real' on a module, which can be run")
    moments = second_moments(model, calibration)

    def gentlest(
        code: Sparse, x: NDArray[np.float64], parts: tuple[Part, ...]
    ) -> NDArray[np.float64]:
        return surgeon.project(code, x, surgeon.BlockMetric(moments, parts))

    return protect_tensors_(tensors, request, project=gentlest)


def _chosen(model: Any, only: Sequence[str] | None, buffers: bool) -> ModelTensors:
    """The tensors to protect; warns where most of a model is in buffers that nobody asked for."""
    tensors = named_tensors(model, only=only, buffers=buffers)
    if only is None and not buffers:
        left_out = buffers_of(model)
        covered, more = (sum(t.nbytes for t in each.values()) for each in (tensors, left_out))
        if covered < more:
            names = ", ".join(list(left_out)[:3]) + (", ..." if len(left_out) > 3 else "")
            warnings.warn(
                f"{covered} of {covered + more} bytes are protected: the others are buffers, which "
                f"buffers=True takes in ({names})",
                stacklevel=3,
            )
    return ModelTensors(tensors)


def check(model: torch.nn.Module | Mapping[str, torch.Tensor], seal: Seal) -> Diagnosis:
    """Compare a model with its seal; nothing is changed.

    Raises:
        MismatchError: if the seal does not fit the model; names the tensor and both shapes.
    """
    tensors, find = _sealed(model, seal)
    return diagnose(seal, tensors, find=find)


def repair_(model: torch.nn.Module | Mapping[str, torch.Tensor], seal: Seal) -> Repair:
    """Put back every wrong weight of a model, bit for bit.

    A word is ``corrected`` only if its SHA-256 is the sealed one again. Words with more damage than
    their code can repair are left as found and named.

    Raises:
        MismatchError: if the seal does not fit the model; names the tensor and both shapes.
    """
    tensors, find = _sealed(model, seal)
    return repair_tensors_(seal, tensors, find=find)


def refresh(model: torch.nn.Module | Mapping[str, torch.Tensor], seal: Seal) -> Seal:
    """A new seal after weights were changed on purpose, with the layout and codes of the old one.

    What is there now is taken for right, so check before the change. (While a `Scrubber` runs, its
    `Scrubber.update` does all of this.)

    Raises:
        MismatchError: if the seal does not fit the model; names the tensor and both shapes.
        SpecError: for carriers that live in the weights, which an update takes out of their code.

    Example:
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5)
        >>> with torch.no_grad():
        ...     _ = model.weight.mul_(0.5)
        >>> seal = refresh(model, seal)
        >>> check(model, seal).verdict.value
        'clean'
    """
    return refresh_tensors(seal, _sealed(model, seal)[0])


def _sealed(
    model: torch.nn.Module | Mapping[str, torch.Tensor], seal: Seal
) -> tuple[Tensors, Find]:
    """The tensors that a seal names, and how their words are decoded where they are."""
    require(seal, "seal", "a Seal (Seal.load reads one from a file)", Seal)
    tensors = ModelTensors.sealed(model, seal)
    if tensors.sharded:
        from parimend import sharded

        return sharded.ShardedTensors(tensors.tensors), sharded.find
    return tensors, find


def plan(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    errors: int,
    carrier: Carrier = "sidecar",
    *,
    only: Sequence[str] | None = None,
    per: Per = "model",
    buffers: bool = False,
    bits: int | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> tuple[PlannedWord, ...]:
    """What `protect_` with the same arguments would take; nothing is changed.

    Raises:
        SpecError, WordError: as `protect_` does.

    Example:
        >>> [word] = plan(torch.nn.Linear(512, 10), errors=210, carrier="real")
        >>> word.checks, round(word.redundancy, 3), word.seal_bytes
        (173, 0.034, 128)
    """
    return plan_tensors(
        _chosen(unwrapped(model), only, buffers),
        Request(whole_number(errors), carrier, per, bits, rows, seed),
    )
