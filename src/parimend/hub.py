"""Protection where models are saved and loaded."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.arguments import path_of
from parimend.atomic import atomic, workspace
from parimend.carriers import Carrier, CarrierName, Request, diagnose, repair_
from parimend.dtypes import named
from parimend.errors import DamageError, FormatError, SpecError, WordError
from parimend.files.checking import check_file
from parimend.files.examining import is_truncated, report_on
from parimend.files.opening import opened, sidecars_of
from parimend.files.repairing import repair_file
from parimend.files.sealing import seal_beside, seal_inside
from parimend.files.seals import sidecar_of
from parimend.formats import FORMATS, Entry, promised
from parimend.outcomes import FileOutcome, Report, Verdict
from parimend.regular import open_regular
from parimend.stores.file import FileTensors, LoadedTensors

OnDamage = Literal["raise", "repair", "warn"]
"""What to do about damage: raise `DamageError`; repair, and raise if that is not possible; or warn
and go on with what is there."""
_PAIRS = "float4_e2m1fn_x2"  # of the 4-bit numbers of files
_STATE = {Verdict.UNKNOWN: "not known to be right"}


def save_file(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
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
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     save_file({"w": torch.ones(100)}, path, errors=2)
        ...     int(load_file(path)["w"].sum())
        100
    """
    path = path_of(path)
    request = Request.of(errors, carrier, guaranteed=guaranteed)
    expected = promised(path)
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
    if not is_named:
        torch.save(tensors, plain)
        return
    from safetensors.torch import save_file as save

    save(dict(tensors), plain, metadata)


def load_file(
    path: str | os.PathLike[str],
    on_damage: OnDamage = "raise",
    device: str | torch.device = "cpu",
) -> Any:
    """Load a protected file and verify what was loaded.

    It is read once; the bytes that are returned are the ones that were verified, and repaired if
    that is asked for. The file itself is not changed: `verify` does that.

    Args:
        path: a file that `save_file` or `parimend.protect_file` protected: of safetensors, or of
            ``torch.save``.
        on_damage: see `OnDamage`.
        device: where the tensors go.

    Returns:
        Named tensors; for files that are not in the safetensors format what ``torch.load`` makes of
        them, with ``weights_only=True``.

    Raises:
        DamageError: if the file is damaged, or for ``repair`` beyond repair.
        SealError, MismatchError, FormatError, OSError: as `parimend.check_file` does.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     save_file({"w": torch.arange(5.0)}, path, errors=2)
        ...     content = bytearray(path.read_bytes())
        ...     content[-1] ^= 1
        ...     _ = path.write_bytes(content)
        ...     load_file(path, on_damage="repair")["w"]
        tensor([0., 1., 2., 3., 4.])
    """
    path = path_of(path)
    _require_policy(on_damage)
    with opened(path) as found:
        sealed, file = found.sealed, found.file
        if not sealed.layout.format.loads:
            raise FormatError(
                f"{path} is a file of the format {sealed.layout.format.name}: use verify, and load "
                "it with its own library"
            )
        tensors = FileTensors(file, sealed.layout)
        if on_damage != "warn" and is_truncated(sealed.seal, tensors):
            # Before memory is taken for what is not there.
            _tell([report_on(sealed, tensors, file, path, diagnose)], on_damage)
        loaded = LoadedTensors(tensors)
        act = repair_ if on_damage == "repair" else diagnose
        report = report_on(sealed, tensors, file, path, lambda seal, _: act(seal, loaded))
    is_right = all(word.verdict.ok for word in report.words) if on_damage == "repair" else report.ok
    if not is_right:
        _tell([report], on_damage)
    layout = sealed.layout
    if layout.format.loads == "torch":
        content = io.BytesIO()
        layout.write(content, loaded.data)
        content.seek(0)
        return torch.load(content, map_location=device, weights_only=True)
    return {
        entry.name: _tensor(entry, loaded.data[entry.name]).to(device) for entry in layout.entries
    }


def _tensor(entry: Entry, data: NDArray[np.uint8]) -> torch.Tensor:
    """A tensor as the safetensors library gives it; of 4-bit numbers, torch holds pairs."""
    shape = entry.shape
    if entry.dtype == "F4" and hasattr(torch, _PAIRS):
        if not shape or shape[-1] % 2:
            raise WordError(
                f"{entry.name} is F4 {list(shape)}, of which torch can only hold pairs along the "
                "last axis: load it with another library"
            )
        shape, dtype = (*shape[:-1], shape[-1] // 2), getattr(torch, _PAIRS)
    else:
        dtype = named(entry.dtype).torch_dtype(entry.name)
    if not data.size:
        return torch.empty(shape, dtype=dtype)  # torch cannot view nothing as another type
    return torch.from_numpy(data).view(dtype).reshape(shape)


def verify(
    path: str | os.PathLike[str],
    on_damage: OnDamage = "raise",
    *,
    seal_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """Verify protected files before something else loads them.

    Call it in front of ``from_pretrained``, for instance, with the same folder.

    Args:
        path: a file; the index of a sharded checkpoint; or a folder.
        on_damage: see `OnDamage`. ``repair`` repairs the files in place.
        seal_dir: where the seals are, see `parimend.check_file`.

    Returns:
        What was found and done.

    Raises:
        DamageError: if a file is damaged, or for ``repair`` beyond repair; also if one of several
            is missing, or cannot be looked at. Names all of them.
        SealError, MismatchError, FormatError, SpecError, OSError: as `parimend.check_file` does.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     save_file({"w": torch.arange(5.0)}, path, errors=2)
        ...     verify(path).verdict.value
        'clean'
    """
    _require_policy(on_damage)
    report = check_file(path, seal_dir=seal_dir)
    if on_damage == "repair" and not report.ok:
        report = repair_file(path, seal_dir=seal_dir)
    if not report.ok:
        _tell(report.files, on_damage)
    return report


def _require_policy(on_damage: str) -> None:
    if on_damage not in ("raise", "repair", "warn"):
        raise SpecError(f"on_damage must be 'raise', 'repair' or 'warn', not {on_damage!r}")


def _tell(files: Sequence[FileOutcome], on_damage: OnDamage) -> None:
    text = "; ".join(
        f"{file.path} is {_STATE.get(file.verdict, 'damaged')}: {'; '.join(file.findings)}"
        for file in files
        if not file.ok
    )
    if on_damage != "warn":
        raise DamageError(text)
    warnings.warn(text, stacklevel=3)
