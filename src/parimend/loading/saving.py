"""Saving a model and its protection together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from parimend.arguments import goal_of
from parimend.atomic import PathLike, atomic, workspace
from parimend.carriers import Carrier, CarrierName, Request
from parimend.errors import SpecError
from parimend.files.opening import sidecars_of
from parimend.files.sealing import seal_beside, seal_inside
from parimend.files.seals import sidecar_of
from parimend.formats import FORMATS, of_suffix
from parimend.regular import open_regular


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
        tensors: named tensors, or for ``torch.save`` anything.
        path: where to.
        errors: number of wrong 32-bit words that can be repaired, see `parimend.protect_file`.
        carrier: where the redundancy lives; those but ``sidecar`` need a safetensors file.
        guaranteed: any so many of them are to be repaired, always; see `parimend.Options`.
        metadata: texts for a safetensors file.

    Raises:
        SpecError, WordError: if they cannot be protected in this way.
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
    if metadata is not None and not is_named:
        raise SpecError("metadata are for safetensors files: put them into what is saved")
    with ExitStack() as stack:
        # A library that is given a name puts a file of its own there.
        plain = stack.enter_context(workspace(path)) / "plain"
        # What is entered first takes its place last: a sidecar never lies beside another file.
        if not request.carrier.moves:
            side = stack.enter_context(atomic(sidecar_of(path), like=path))
        _write(tensors, plain, metadata, is_named)
        stale = sidecars_of(path)
        if not request.carrier.moves:
            new = stack.enter_context(atomic(path, made=plain, stale=stale))
            side.write(seal_beside(new, path, request)[0].to_bytes())
        else:
            file = stack.enter_context(open_regular(plain))
            new = stack.enter_context(atomic(path, stale=stale))
            seal_inside(file, path, new, request)


def _write(tensors: Any, plain: Path, metadata: dict[str, str] | None, is_named: bool) -> None:
    import torch

    if not is_named:
        torch.save(tensors, plain)
        return
    from safetensors.torch import save_file as save

    # It writes what lies in memory, which is something else for views that are read differently.
    resolved = {
        name: value.resolve_conj().resolve_neg() if isinstance(value, torch.Tensor) else value
        for name, value in tensors.items()
    }
    save(resolved, plain, metadata)
