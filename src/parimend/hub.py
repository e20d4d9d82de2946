"""Protection where models are saved and loaded."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.arguments import path_of, whole_number
from parimend.carriers import Carrier, diagnose, repair_
from parimend.errors import DamageError, SpecError
from parimend.files.checking import check_file, is_truncated, repair_file, report_on
from parimend.files.protecting import protect_file
from parimend.files.seals import find_seal, sidecar_of
from parimend.files.tensors import FileTensors, LoadedTensors
from parimend.records import FileReport, Report, Verdict
from parimend.words.bits import torch_dtype
from parimend.words.layout import Part

OnDamage = Literal["raise", "repair", "warn"]
"""What to do about damage: raise `DamageError`; repair, and raise if that is not possible; or warn
and go on with what is there."""
_STATE = {Verdict.UNKNOWN: "not known to be right"}


def save_file(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    errors: int,
    carrier: Carrier = "sidecar",
    *,
    metadata: dict[str, str] | None = None,
) -> None:
    """Save and protect what a model or an optimizer consists of.

    A name that ends in ``.safetensors`` gives a safetensors file of named tensors, and any other a
    file of ``torch.save``, for nested state with optimizers, counters and the like. File and
    sidecar are made aside and then put in their places.

    Args:
        tensors: named tensors, or for ``torch.save`` anything.
        path: where to.
        errors: number of wrong 32-bit words that can be repaired, see `parimend.protect_file`.
        carrier: where the redundancy lives; those but ``sidecar`` need a safetensors file.
        metadata: texts for a safetensors file.

    Raises:
        SpecError, WordError: if they cannot be protected in this way.
        OSError: if the file cannot be written.

    Example:
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     save_file({"w": torch.ones(100)}, path, errors=2)
        ...     int(load_file(path)["w"].sum())
        100
    """
    path = path_of(path)
    whole_number(errors)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        plain = Path(folder, path.name)
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file as save

            save(dict(tensors), plain, metadata)
        elif metadata is not None:
            raise SpecError("metadata are for safetensors files: put them into what is saved")
        else:
            torch.save(tensors, plain)
        if carrier == "sidecar":
            made = plain
            protect_file(made, errors)
        else:
            made = Path(folder, "made")
            protect_file(plain, errors, carrier, made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        # In this order no file is ever beside the sidecar of another one.
        sidecar_of(path).unlink(missing_ok=True)
        made.replace(path)
        if carrier == "sidecar":
            sidecar_of(made).replace(sidecar_of(path))


def load_file(
    path: str | os.PathLike[str],
    on_damage: OnDamage = "raise",
    device: str | torch.device = "cpu",
) -> Any:
    """Load a protected file and verify what was loaded.

    It is read once; the bytes that are returned are the ones that were verified, and repaired if
    that is asked for. The file itself is not changed: `verify` does that.

    Args:
        path: a file that `save_file` or `parimend.protect_file` protected.
        on_damage: see `OnDamage`.
        device: where the tensors go.

    Returns:
        Named tensors; for files that are not in the safetensors format what ``torch.load`` makes of
        them, with ``weights_only=True``.

    Raises:
        DamageError: if the file is damaged, or for ``repair`` beyond repair.
        SealError, MismatchError, FormatError, OSError: as `parimend.check_file` does.
    """
    path = path_of(path)
    _require_policy(on_damage)
    with path.open("rb") as file:
        sealed = find_seal(file, path)
        tensors = FileTensors(file, sealed.header)
        if on_damage != "warn" and is_truncated(sealed.seal, tensors):
            # Before memory is taken for what is not there.
            _tell([report_on(sealed, tensors, file, path, diagnose)], on_damage)
        loaded = LoadedTensors(tensors)
        act = repair_ if on_damage == "repair" else diagnose
        report = report_on(sealed, tensors, file, path, lambda seal, _: act(seal, loaded))
    if not report.outcome.verdict.ok or (on_damage != "repair" and not report.verdict.ok):
        _tell([report], on_damage)
    if not sealed.header.raw:
        (data,) = loaded.data.values()
        return torch.load(io.BytesIO(data.data), map_location=device, weights_only=True)
    return {part.name: _tensor(part, loaded.data[part.name]).to(device) for part in loaded.whole()}


def _tensor(part: Part, data: NDArray[np.uint8]) -> torch.Tensor:
    dtype = torch_dtype(part.dtype, part.name)
    if not part.count:
        return torch.empty(part.shape, dtype=dtype)  # torch cannot view nothing as another type
    return torch.from_numpy(data).view(dtype).reshape(part.shape)


def verify(path: str | os.PathLike[str], on_damage: OnDamage = "raise") -> Report:
    """Verify protected files before something else loads them.

    Call it in front of ``from_pretrained``, for instance, with the same folder.

    Args:
        path: a file; or the index or the folder of a sharded checkpoint.
        on_damage: see `OnDamage`. ``repair`` repairs the files in place.

    Returns:
        What was found and done.

    Raises:
        DamageError: if a file is damaged, or for ``repair`` beyond repair; also if one of several
            is missing, or cannot be looked at. Names all of them.
        SealError, MismatchError, FormatError, SpecError, OSError: as `parimend.check_file` does.
    """
    _require_policy(on_damage)
    report = check_file(path)
    if on_damage == "repair" and not report.verdict.ok:
        report = repair_file(path)
    if not report.verdict.ok:
        _tell(report.files, on_damage)
    return report


def _require_policy(on_damage: str) -> None:
    if on_damage not in ("raise", "repair", "warn"):
        raise SpecError(f"on_damage must be 'raise', 'repair' or 'warn', not {on_damage!r}")


def _tell(files: Sequence[FileReport], on_damage: OnDamage) -> None:
    text = "; ".join(
        f"{file.path} is {_STATE.get(file.verdict, 'damaged')}: {'; '.join(file.findings)}"
        for file in files
        if not file.verdict.ok
    )
    if on_damage != "warn":
        raise DamageError(text)
    warnings.warn(text, stacklevel=3)
