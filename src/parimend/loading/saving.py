"""Saving a model and its protection together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from pickle import PicklingError
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray
from safetensors import SafetensorError

from parimend.arguments import goal_of, require
from parimend.atomic import PathLike, atomic, workspace
from parimend.carriers import Carrier, CarrierName, Request
from parimend.dtypes import SAFETENSORS, of_torch
from parimend.errors import SpecError, WordError
from parimend.files.opening import sidecars_of
from parimend.files.sealing import seal_beside, seal_inside
from parimend.files.seals import sidecar_of
from parimend.formats import FORMATS, of_suffix
from parimend.formats.header import METADATA
from parimend.loading.libraries import PAIRS
from parimend.regular import open_regular
from parimend.stores.spread import is_sharded

if TYPE_CHECKING:
    import torch

# What libraries say that are not told why they cannot write: SafetensorError, RuntimeError.
_FAILED = ("I/O error", "IoError", "inline_container", "PytorchStreamWriter", "iostream error")


def save_file(
    tensors: Mapping[str, Any],
    path: PathLike,
    errors: int,
    carrier: Carrier | CarrierName = "sidecar",
    *,
    guaranteed: int | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Save and protect what a model or an optimizer consists of.

    A name that ends in ``.safetensors`` gives a safetensors file of named tensors, and any other a
    file of ``torch.save``, for nested state with optimizers, counters and the like. File and
    sidecar are made aside and then put in their places, at every moment and after every crash: the
    old pair, the new pair, or the new or old file alone. Links, modes and owners are kept.

    Args:
        tensors: named tensors, or for ``torch.save`` anything. Those in a safetensors file may lie
            in any order, and are row-major there; none may share memory with another one.
        path: where to.
        errors: number of wrong 32-bit words that can be repaired, see `parimend.protect_file`.
        carrier: where the redundancy lives; those but ``sidecar`` need a safetensors file.
        guaranteed: any that many of them are to be repaired, always; see `parimend.Options`.
        metadata: texts for a safetensors file.

    Raises:
        SpecError, WordError: if they cannot be saved or protected in this way.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile, torch, parimend as pm
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     pm.save_file({"w": torch.ones(100)}, path, errors=2)
        ...     int(pm.load_file(path)["w"].sum())
        100
    """
    path = goal_of(path)
    request = Request.of(errors, carrier, guaranteed=guaranteed)
    expected = of_suffix(path)
    is_named = expected is FORMATS["safetensors"]
    if expected and not is_named:
        raise SpecError(
            f"{path} promises a file of the format {expected.name}, and this writes others: choose "
            "another name, or save it with its own library and use protect_file"
        )
    if metadata is not None:
        require(metadata, "metadata", "texts by name", Mapping)
        metadata = dict(metadata)
    if metadata is not None and not is_named:
        raise SpecError("metadata are for safetensors files: put them into what is saved")
    texts = [text for pair in (metadata or {}).items() for text in pair]
    if not all(isinstance(text, str) and _is_unicode(text) for text in texts):
        raise SpecError(
            "metadata are texts by name: make texts of numbers, as with json.dumps, and leave out "
            "halves of surrogate pairs"
        )
    with ExitStack() as stack:
        # A library that is given a name puts a file of its own there.
        plain = stack.enter_context(workspace(path)) / "plain"
        # What is entered first takes its place last: a sidecar never lies beside another file.
        if not request.carrier.moves:
            side = stack.enter_context(atomic(sidecar_of(path), like=path))
        try:
            _write(tensors, plain, metadata, is_named)
        except (RuntimeError, SafetensorError) as error:
            if not any(mark in str(error) for mark in _FAILED):
                raise
            raise OSError(f"{path} cannot be written, as on a full disk: {error}") from error
        except (PicklingError, TypeError, AttributeError) as error:
            raise SpecError(
                f"{path} cannot be saved: {error}; give state dicts, numbers and texts"
            ) from error
        stale = sidecars_of(path)
        if not request.carrier.moves:
            new = stack.enter_context(atomic(path, made=plain, stale=stale))
            side.write(seal_beside(new, path, request)[0].to_bytes())
            side.flush()  # whether there is room for it is known before the file is replaced
        else:
            file = stack.enter_context(open_regular(plain))
            new = stack.enter_context(atomic(path, stale=stale))
            seal_inside(file, path, new, request)


def _write(tensors: Any, plain: Path, metadata: dict[str, str] | None, is_named: bool) -> None:
    if is_named:
        from safetensors.torch import save_file as save

        save(_contiguous(tensors), plain, metadata)
    else:
        import torch

        torch.save(tensors, plain)


def _contiguous(tensors: Any) -> dict[str, torch.Tensor]:
    """Tensors as safetensors files hold them: in row-major order, each with memory of its own.

    Raises:
        SpecError: if they have no names.
        WordError: if one is no tensor, or has no such memory; names it.
    """
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise SpecError(
            "safetensors files hold tensors by name: give a state dict (of a module its "
            f"state_dict()), with texts as names, not {type(tensors).__name__}; files with other "
            "names hold anything"
        )
    for name in tensors:
        if name == METADATA or not _is_unicode(name):
            raise SpecError(
                f"{name!r} cannot be the name of a tensor in a safetensors file ({METADATA} is the "
                "place of its texts, and half a surrogate pair is no text): call it something else"
            )
    # The library writes what lies in memory, which is something else for views read differently.
    resolved = {name: _plain(name, value) for name, value in tensors.items()}
    _require_apart(resolved)
    return {name: tensor.contiguous() for name, tensor in resolved.items()}


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, as names of files in other encodings have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(name: str, value: Any) -> torch.Tensor:
    import torch
    from torch.nn.parameter import is_lazy

    from parimend.stores.aliasing import address_of

    if not isinstance(value, torch.Tensor):
        raise WordError(
            f"{name} is {type(value).__name__}, and safetensors files hold tensors of torch alone: "
            "make one of it (torch.from_numpy, torch.tensor), or save a file with another name"
        )
    hides = value.layout is not torch.strided or value.is_nested or value.is_meta
    if is_lazy(value) or hides or is_sharded(value) or (value.numel() and not address_of(value)):
        raise WordError(
            f"{name} has no plain memory here (it is sparse, nested, sharded, lazy, on the meta "
            "device, or of a class that hides it): make it a dense tensor in one piece, or leave "
            "it out"
        )
    if str(value.dtype).removeprefix("torch.") == PAIRS:
        if not value.ndim:
            raise WordError(
                f"{name} is one pair of 4-bit numbers, for which safetensors files need an axis: "
                "give it one (reshape(1))"
            )
        return value.detach()
    dtype = of_torch(value.dtype, name).name
    if dtype not in SAFETENSORS:
        raise WordError(f"{name} is {dtype}, which safetensors files do not have: convert it")
    return value.detach().resolve_conj().resolve_neg()


def _require_apart(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that share memory: loaded again they would be apart.

    Raises:
        WordError: names two of them.
    """
    cells = {name: _cells(tensor) for name, tensor in tensors.items() if tensor.numel()}
    before: list[str] = []
    # In the order of their places: what ended before one begins is out of reach of all that follow.
    for name in sorted(cells, key=lambda each: cells[each].ctypes.data):
        begin, device = cells[name].ctypes.data, tensors[name].device
        before = [each for each in before if byte_bounds(cells[each])[1] > begin]
        for each in before:
            if tensors[each].device == device and np.shares_memory(cells[each], cells[name]):
                raise WordError(
                    f"{each} and {name} share memory, and a safetensors file would hold it twice: "
                    "leave one of them out, and tie them again when they are loaded (as save_model "
                    "and load_model of safetensors.torch do), or put a clone() in its place"
                )
        before.append(name)


def _cells(tensor: torch.Tensor) -> NDArray[Any]:
    """An array at the same addresses, of whatever device; it must not be read."""
    size = tensor.element_size()
    described = {
        "data": (tensor.data_ptr(), True),
        "shape": tuple(tensor.shape),
        "strides": tuple(size * stride for stride in tensor.stride()),
        "typestr": f"|V{size}",
        "version": 3,
    }
    return np.asarray(SimpleNamespace(__array_interface__=described))
