"""Protecting files."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from parimend.atomic import atomic
from parimend.carriers import Carrier, PlannedWord, Request, diagnose, protect_
from parimend.carriers import plan as plan_tensors
from parimend.errors import FormatError, MismatchError, SpecError
from parimend.files.seals import KEY, layout_of, sidecar_of, with_seal
from parimend.files.targets import INDEX, targets
from parimend.files.tensors import (
    FileTensors,
    LoadedTensors,
    Progress,
    copy_data,
    silent,
)
from parimend.names import select
from parimend.records import Verdict
from parimend.seal import HEADER, Seal
from parimend.words.header import Header
from parimend.words.layout import Part, Per


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
        errors: number of wrong 32-bit words to repair wherever they fall in a file; see
            `parimend.protect_`.
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
        with target.open("rb") as file:
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
            with path.open("rb") as file:
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
    # The sidecar is locked first, so that nobody works for nothing.
    with path.open("rb") as file, atomic(beside) as new:
        before = _state(file)
        header = layout_of(file, path)
        tensors = FileTensors(file, header, progress=progress)
        seal = protect_(ChosenTensors(tensors, names), request)
        seal = replace(seal, blobs={HEADER: header.raw})
        data = seal.to_bytes()
        new.write(data)
        if _state(file) != before or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise MismatchError(f"{path} was changed while it was read: protect it when it is done")
    return _protection(path, beside, seal, header, len(data), len(header.raw))


def _state(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _inside(
    path: Path,
    out: Path,
    request: Request,
    names: Collection[str] | None,
    force: bool,
    progress: Progress,
) -> Protection:
    stale = _require_free(out, path, force)
    with path.open("rb") as file, ExitStack() as stack:
        new = stack.enter_context(atomic(out, like=path))
        header = layout_of(file, path)
        if not header.raw:
            raise FormatError(f"{path} is no safetensors file: protect it with carrier='sidecar'")
        if KEY in header.metadata and not force:
            raise MismatchError(f"{path} has a seal already: check it, or use force to replace it")
        changed = LoadedTensors(FileTensors(file, header, progress=progress))
        seal = protect_(ChosenTensors(changed, names), request)
        others = {name: value for name, value in header.metadata.items() if name != KEY}
        bare = header.with_metadata(others)
        seal = replace(seal, blobs={HEADER: bare.raw})
        sealed = with_seal(bare, seal)
        size = len(sealed.raw) + sealed.data_bytes
        copy_data(file, len(header.raw), new, sealed.raw, size)
        tensors = FileTensors(new, sealed, create=lambda: new)
        tensors.is_copied = True
        for word in seal.words:
            for part in word.parts:
                tensors.write(part, None, changed.read(part))
        tensors.look()
        if not tensors.has_header or diagnose(seal, tensors).verdict is not Verdict.CLEAN:
            raise OSError(f"{out}: what was written cannot be read back as it was")
        stale.unlink(missing_ok=True)
    return _protection(out, None, seal, sealed, len(sealed.raw) - len(bare.raw), len(bare.raw))


def _copy_index(
    path: Path,
    out: Path,
    request: Request,
    names: Collection[str] | None,
    force: bool,
    progress: Progress,
) -> Protection:
    _require_free(out, path, force).unlink(missing_ok=True)
    with atomic(out, like=path) as new:
        new.write(path.read_bytes())
    return _beside(out, _for_index(request), names, force, progress)


def _require_free(out: Path, path: Path, force: bool) -> Path:
    """Refuse to replace what is to be protected, or what a sidecar protects; returns its path."""
    if out.exists() and out.samefile(path):
        raise SpecError(f"{out} is the file to be protected: write the new one somewhere else")
    stale = sidecar_of(out)
    if stale.exists() and not force:
        raise MismatchError(
            f"{stale} belongs to another file that would be replaced: remove both, or use force"
        )
    return stale


def _protection(
    path: Path, sidecar: Path | None, seal: Seal, header: Header, seal_bytes: int, copied: int
) -> Protection:
    elements = sum(part.count for part in header.parts)
    return Protection(str(path), str(sidecar or ""), seal, elements, seal_bytes, copied)
