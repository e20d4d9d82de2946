"""Protecting files."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from parimend.atomic import atomic, locked
from parimend.carriers import Carrier, PlannedWord, Request, diagnose, protect_
from parimend.carriers import plan as plan_tensors
from parimend.errors import FormatError, MismatchError, SpecError
from parimend.files.opening import sidecars_of
from parimend.files.seals import KEY, layout_of, sidecar_of, with_seal
from parimend.files.targets import INDEX, MAX_INDEX, targets
from parimend.files.tensors import (
    FileTensors,
    LoadedTensors,
    Progress,
    silent,
)
from parimend.records import Verdict
from parimend.regular import open_regular, read_regular, state_of
from parimend.seal import HEADER, Seal
from parimend.words.header import Header
from parimend.words.layout import Part, Per, select


@dataclass(frozen=True)
class Protection:
    """How a file was protected.

    Attributes:
        path: of the protected file: the one given, or the one written.
        sidecar: path of the sidecar; empty if the seal is inside the file.
        seal: the seal.
        elements: number of elements in the file; `Seal.covered` of them are protected.
        seal_bytes: bytes that the seal takes, in the sidecar or in the header.
        header_bytes: bytes of the file's header, of which the seal holds a copy.
    """

    path: str
    sidecar: str
    seal: Seal
    elements: int
    seal_bytes: int
    header_bytes: int


class ChosenTensors:
    """Some of the tensors of a file, to be protected.

    Args:
        tensors: all of them.
        names: of those that are chosen; None for all.
    """

    def __init__(self, tensors: FileTensors | LoadedTensors, names: Collection[str] | None) -> None:
        self._parts = tuple(part for part in tensors.whole() if names is None or part.name in names)
        self.read = tensors.read
        self.write = tensors.write

    def whole(self) -> tuple[Part, ...]:
        return self._parts


def protect_file(
    path: str | os.PathLike[str],
    errors: int,
    carrier: Carrier = "sidecar",
    out: str | os.PathLike[str] | None = None,
    *,
    only: Sequence[str] | None = None,
    per: Per = "model",
    bits: int | None = None,
    rows: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[Protection, ...]:
    """Protect a file, so that any ``errors`` wrong words of it can be repaired.

    ``sidecar`` leaves the file alone and writes ``NAME.parimend`` beside it; it is read once,
    whatever its size, and may be of any format. The other carriers write a new safetensors file
    ``out`` that holds its seal itself, and take safetensors files that fit into memory.

    Args:
        path: a file; or the index or the folder of a sharded checkpoint, whose index and shards are
            protected one by one, each for that many errors. (An index has no weights to carry
            anything: it always gets a sidecar.)
        errors: number of wrong words to repair wherever they fall in a file: 32-bit words for
            ``sidecar``, weights otherwise.
        carrier: where the redundancy lives.
        out: where to write the protected file, for the carriers that change it; for a sharded
            checkpoint an existing folder.
        only: shell patterns; protects the tensors whose names match one of them, and an index.
        per, bits, rows, seed: see `parimend.protect_`.
        force: protect what is there now, even if the file has a seal already.
        progress: called with the number of bytes of every read, from any thread.

    Returns:
        How each of the files was protected.

    Raises:
        FormatError: if the file is damaged or empty.
        MismatchError: if the file is protected already, or changes while it is read.
        SpecError, WordError: if it cannot be protected in this way.
        BusyError: if another process is writing the same file.
        OSError: if a file cannot be read or written.
    """
    request = Request(errors, carrier, per, bits, rows, seed)
    files = targets(Path(path))
    if carrier == "sidecar":
        if out is not None:
            raise SpecError("carrier='sidecar' leaves the file as it is: it takes no out")
        chosen = _choose(files, only)
        return tuple(_beside(file, request, chosen[file], force, progress) for file in files)
    if out is None:
        raise SpecError(f"carrier={carrier!r} changes the weights: say where to write the new file")
    folder = Path(out) if Path(out).is_dir() else None
    if len(files) > 1 and not folder:
        raise SpecError(f"{path} has {len(files)} files: give an existing folder to write them to")
    made = []
    for file, names in _choose(files, only).items():
        new = folder / file.name if folder else Path(out)
        act = _copy_index if _is_index(file) else _inside
        made.append(act(file, new, request, names, force, progress))
    return tuple(made)


def plan_file(
    path: str | os.PathLike[str],
    errors: int,
    carrier: Carrier = "sidecar",
    *,
    only: Sequence[str] | None = None,
    per: Per = "model",
    bits: int | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> tuple[tuple[str, tuple[PlannedWord, ...]], ...]:
    """What `protect_file` with the same arguments would take; nothing is written.

    Returns:
        For every file its path and its words.

    Raises:
        FormatError, SpecError, WordError, OSError: as `protect_file` does.
    """
    request = Request(errors, carrier, per, bits, rows, seed)
    planned = []
    for target, names in _choose(targets(Path(path)), only).items():
        with open_regular(target) as file:
            tensors = ChosenTensors(FileTensors(file, layout_of(file, target)), names)
            mine = _for_index(request) if _is_index(target) else request
            planned.append((str(target), plan_tensors(tensors, mine)))
    return tuple(planned)


def _choose(
    files: Sequence[Path], only: Sequence[str] | None
) -> dict[Path, Collection[str] | None]:
    """The names of the tensors to protect in every file; None for all, as in an index.

    Raises:
        WordError: if a pattern matches no tensor in any of the files.
    """
    if only is None:
        return dict.fromkeys(files)
    names = {}
    for path in files:
        if not _is_index(path):
            with open_regular(path) as file:
                names[path] = [part.name for part in layout_of(file, path).parts]
    wanted = set(select([name for found in names.values() for name in found], only))
    return {path: wanted.intersection(names[path]) if path in names else None for path in files}


def _is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def _for_index(request: Request) -> Request:
    return Request(request.errors, seed=request.seed)


def _beside(
    path: Path,
    request: Request,
    names: Collection[str] | None,
    force: bool,
    progress: Progress,
) -> Protection:
    beside = sidecar_of(path)
    if beside.exists() and not force:
        raise MismatchError(
            f"{path} is protected already, by {beside.name}: check it, or use force to protect "
            "what is there now"
        )
    with open_regular(path) as file, ExitStack() as stack:
        before = state_of(file.fileno())

        def confirm() -> None:
            if state_of(path) != before:
                raise MismatchError(
                    f"{path} was changed while it was read: protect it when it is done"
                )

        new = stack.enter_context(atomic(beside, like=path, confirm=confirm))
        stack.enter_context(locked(path))
        seal, header = seal_beside(file, path, request, names, progress)
        data = seal.to_bytes()
        new.write(data)
    return _protection(path, beside, seal, header, len(data), len(header.raw))


def seal_beside(
    file: BinaryIO,
    path: Path,
    request: Request,
    names: Collection[str] | None = None,
    progress: Progress = silent,
) -> tuple[Seal, Header]:
    """The seal of an open file that stays as it is, and its header.

    Args:
        file: the file.
        path: where it is or will be: the name says what it is to be taken for.
        request: what is asked for.
        names: of the tensors to protect; None for all.
        progress: see `protect_file`.
    """
    header = layout_of(file, path)
    tensors = FileTensors(file, header, progress)
    seal = protect_(ChosenTensors(tensors, names), request)
    return replace(seal, blobs={HEADER: header.raw}), header


def _inside(
    path: Path,
    out: Path,
    request: Request,
    names: Collection[str] | None,
    force: bool,
    progress: Progress,
) -> Protection:
    _require_free(out, path, force)
    with (
        open_regular(path) as file,
        atomic(out, like=path, stale=sidecars_of(out)) as new,
    ):
        header = layout_of(file, path)
        if KEY in header.metadata and not force:
            raise MismatchError(f"{path} has a seal already: check it, or use force to replace it")
        seal, sealed = seal_inside(file, path, new, request, names, progress)
    held = len(seal.blobs[HEADER])
    return _protection(out, None, seal, sealed, len(sealed.raw) - held, held)


def seal_inside(
    file: BinaryIO,
    path: Path,
    new: BinaryIO,
    request: Request,
    names: Collection[str] | None = None,
    progress: Progress = silent,
) -> tuple[Seal, Header]:
    """Write a file that holds its seal itself; returns that and the header with the seal.

    Args:
        file: the file to be protected.
        path: where it is or will be.
        new: an empty file.
        request, names, progress: see `seal_beside`.
    """
    header = layout_of(file, path)
    if not header.raw:
        raise FormatError(f"{path} is no safetensors file: protect it with carrier='sidecar'")
    changed = LoadedTensors(FileTensors(file, header, progress))
    seal = protect_(ChosenTensors(changed, names), request)
    others = {name: value for name, value in header.metadata.items() if name != KEY}
    bare = header.with_metadata(others)
    seal = replace(seal, blobs={HEADER: bare.raw})
    sealed = with_seal(bare, seal)
    new.write(sealed.raw)
    for part in changed.whole():
        new.write(changed.data[part.name].data)
    new.flush()
    tensors = FileTensors(new, sealed)
    if not tensors.has_header or diagnose(seal, tensors).verdict is not Verdict.CLEAN:
        raise OSError(f"{path}: what was written cannot be read back as it was")
    return seal, sealed


def _copy_index(
    path: Path,
    out: Path,
    request: Request,
    names: Collection[str] | None,
    force: bool,
    progress: Progress,
) -> Protection:
    _require_free(out, path, force)
    with atomic(out, like=path, stale=sidecars_of(out)) as new:
        new.write(read_regular(path, MAX_INDEX))
    return _beside(out, _for_index(request), names, force, progress)


def _require_free(out: Path, path: Path, force: bool) -> None:
    """Refuse to replace what is to be protected, or what a sidecar protects."""
    if out.exists() and out.samefile(path):
        raise SpecError(f"{out} is the file to be protected: write the new one somewhere else")
    stale = sidecar_of(out)
    if stale.exists() and not force:
        raise MismatchError(
            f"{stale} belongs to another file that would be replaced: remove both, or use force"
        )


def _protection(
    path: Path, sidecar: Path | None, seal: Seal, header: Header, seal_bytes: int, copied: int
) -> Protection:
    elements = sum(part.count for part in header.parts)
    return Protection(str(path), str(sidecar or ""), seal, elements, seal_bytes, copied)
