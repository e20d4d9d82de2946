"""Protecting one file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from parimend.atomic import atomic
from parimend.carriers import Chosen, Request, diagnose, protect_
from parimend.carriers import choose as choose_codes
from parimend.errors import FormatError, MismatchError, SealError, SpecError
from parimend.files.choosing import of_file
from parimend.files.notes import LED_TO, MEMBERS, PLACE, names_of, noted
from parimend.files.opening import opened, sidecars_of
from parimend.files.seals import FORCED, Sealed, Seals, sidecar_of
from parimend.files.targets import MAX_INDEX, is_index, shards
from parimend.formats import FORMATS, Layout, layout_of
from parimend.outcomes import Verdict
from parimend.record import Record
from parimend.regular import open_regular, read_regular, state_of
from parimend.seal import Seal
from parimend.stores.file import ChosenTensors, FileTensors, LoadedTensors, Progress, silent
from parimend.words.layout import bytes_in


@dataclass(frozen=True, repr=False)
class Protection(Record):
    """How a file was protected.

    Attributes:
        path: of the protected file: the one given, or the one written.
        sidecar: path of the sidecar; empty if the seal is inside the file.
        seal: the seal.
        elements: number of elements in the file; `Seal.covered` of them are protected.
        seal_bytes: bytes that the seal takes, in the sidecar or in the file.
        header_bytes: bytes of the file that belong to no tensor, of which the seal holds a copy.
        data_bytes: bytes of all tensors in the file.
        is_kept: whether it was protected in this way already, and found to be as it was then.
    """

    path: str
    sidecar: str
    seal: Seal
    elements: int
    seal_bytes: int
    header_bytes: int
    data_bytes: int = 0
    is_kept: bool = False

    @property
    def covered_bytes(self) -> int:
        """Bytes of the elements that are protected."""
        return bytes_in(part for word in self.seal.words for part in word.parts)

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; `docs/reference.md` describes the keys."""
        return {
            "path": self.path,
            "sidecar": self.sidecar,
            "carrier": self.seal.carrier,
            "errors": self.seal.errors,
            **self.seal.promise.as_dict(),
            "elements": self.elements,
            "covered": self.seal.covered,
            "bytes": self.data_bytes,
            "covered_bytes": self.covered_bytes,
            "seal_bytes": self.seal_bytes,
            "header_bytes": self.header_bytes,
            "moved": self.seal.notes.get("moved", []),
            "kept": self.is_kept,
        }


class Task(NamedTuple):
    """What is to be done with every file of a set.

    Attributes:
        request: how to protect them.
        notes: what each seal tells about the set.
        folder: from which on these name them.
        seals: where the sidecars go.
        force: whether seals that are there do not count.
        progress: see `Progress`.
    """

    request: Request
    notes: Mapping[str, Any]
    folder: Path
    seals: Seals
    force: bool
    progress: Progress

    def notes_of(self, path: Path) -> dict[str, Any]:
        """What the seal of a file tells about the set."""
        place = path.relative_to(self.folder).as_posix() if self.notes else path.name
        return {**self.notes, **({PLACE: place} if place != path.name else {})}


def prepare(
    task: Task, path: Path, out: Path, names: Collection[str] | None
) -> Callable[[], Protection]:
    """Look whether a file can be protected; nothing is written yet.

    Args:
        path: of the file.
        out: of the protected file; for a sidecar, the file itself.
        names: of the tensors to protect; None for all.

    Returns:
        What protects it.
    """
    if not task.request.carrier.moves:
        return _prepare_beside(task, path, names)
    if is_index(path):
        return _prepare_copy(task, path, out)
    _require_free(path, out, task.force)
    with open_regular(path) as file:
        layout = with_room(file, path)
    if layout.format.seal_in(layout) is not None and not task.force:
        raise MismatchError(f"{path} has a seal already: check it, {FORCED} to replace it")
    return partial(_inside, task, path, out, names)


def _prepare_beside(
    task: Task, path: Path, names: Collection[str] | None
) -> Callable[[], Protection]:
    task.seals.require_place(path)
    if task.force or not task.seals.is_sealed(path, task.notes_of(path).get(PLACE)):
        _require_readable(path)
        return partial(_beside, task, path, names)
    sealed = _kept(task, path, names)
    if task.seals.place(path, None) not in (None, sealed.path):  # that of what a link leads to
        return partial(_beside, task, path, names)
    return partial(_keep, task, path, sealed)


def _require_readable(path: Path) -> None:
    """Raise what keeps a file from being protected."""
    if is_index(path):
        shards(read_regular(path, MAX_INDEX), str(path))
    with open_regular(path) as file:
        layout_of(file, path)


def _prepare_copy(task: Task, path: Path, out: Path) -> Callable[[], Protection]:
    """An index carries nothing: a copy of it gets a sidecar."""
    task = task._replace(request=of_file(task.request, path))
    content = read_regular(path, MAX_INDEX)
    was_copied = out.exists() and not out.samefile(path) and sidecar_of(out).exists()
    if was_copied and not task.force and read_regular(out, MAX_INDEX) == content:
        return _prepare_beside(task, out, None)
    _require_free(path, out, task.force)

    def copy() -> Protection:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic(out, like=path, stale=sidecars_of(out)) as new:
            new.write(content)
        return _beside(task, out, None)

    return copy


def _kept(task: Task, path: Path, names: Collection[str] | None) -> Sealed:
    """The seal that a file has already.

    Raises:
        MismatchError: if it is not the one that would be made now.
    """
    side = task.seals.place(path, None)  # until it is known which one it is
    changed = ", and is not as it was then"
    if task.seals.option:  # where it was found by its content
        changed += ", or is another file that differs in little"

    def refusal(reason: str) -> MismatchError:
        by = f", by {side.name if side.parent == path.parent else side}" if side else ""
        return MismatchError(
            f"{path} is protected already{by}{reason}: check it, {FORCED} to protect "
            "what is there now"
        )

    try:
        with opened(path, task.seals) as found:
            sealed = found.sealed
            side = sealed.path or side
            seal, tensors = sealed.seal, FileTensors(found.file, sealed.layout, task.progress)
            if not seal.blobs or seal.carrier != task.request.carrier.name:
                raise refusal(", in another way")
            if not tensors.has_header or tensors.found != tensors.size:
                raise refusal(changed)
            request = of_file(task.request, path)
            wanted = choose_codes(ChosenTensors(tensors, names), request)
            there = [Chosen(word.code, word.word, word.certificate) for word in seal.words]
            if request.errors != seal.errors or wanted != there:
                raise refusal(", with other settings")
            names_now, name = task.notes.get(MEMBERS), path.relative_to(task.folder).as_posix()
            if names_now and (gone := noted(seal.notes, MEMBERS, name).difference(names_now)):
                other = min(gone)
                state = "left out" if (task.folder / other).exists() else "not there"
                raise refusal(f", together with {other}, which is {state} now")
            if diagnose(seal, tensors).verdict is not Verdict.CLEAN:
                raise refusal(changed)
    except SealError:
        raise refusal(", which cannot be read") from None
    return sealed


def _keep(task: Task, path: Path, sealed: Sealed) -> Protection:
    notes = {**sealed.seal.notes, **names_of(path), **task.notes_of(path)}
    if not path.is_symlink():
        notes.pop(LED_TO, None)
    if task.notes and PLACE not in task.notes_of(path):
        notes.pop(PLACE, None)
    seal = replace(sealed.seal, notes=notes)
    data = seal.to_bytes()
    side = sealed.path or sidecar_of(path)
    if seal.notes != sealed.seal.notes or not sealed.is_intact:
        seal.save(side)
    return replace(_protection(path, side, seal, sealed.layout, len(data)), is_kept=True)


def _beside(task: Task, path: Path, names: Collection[str] | None) -> Protection:
    request = of_file(task.request, path)
    with open_regular(path) as file:
        before = state_of(file.fileno())

        def confirm() -> None:
            if state_of(path) != before:
                raise MismatchError(
                    f"{path} was changed while it was read: protect it when it is done"
                )

        with task.seals.saving(path, confirm) as save:
            notes = task.notes_of(path)
            seal, layout = seal_beside(file, path, request, names, notes, task.progress)
            side = save(seal)
    return _protection(path, side, seal, layout, len(seal.to_bytes()))


def seal_beside(
    file: BinaryIO,
    path: Path,
    request: Request,
    names: Collection[str] | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> tuple[Seal, Layout]:
    """The seal of an open file that stays as it is, and what it is made of.

    Args:
        file: the file.
        path: where it is or will be: the name says what it is to be taken for.
        request: what is asked for.
        names: of the tensors to protect; None for all.
        notes: that the seal is to hold.
        progress: see `protect_file`.
    """
    layout = layout_of(file, path)
    tensors = FileTensors(file, layout, progress)
    seal = protect_(ChosenTensors(tensors, names), request)
    return _completed(seal, layout, {**names_of(path), **(notes or {})}), layout


def _inside(task: Task, path: Path, out: Path, names: Collection[str] | None) -> Protection:
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_regular(path) as file,
        atomic(out, like=path, stale=sidecars_of(out)) as new,
    ):
        seal, bare, sealed = seal_inside(
            file, path, new, task.request, names, task.notes_of(out), task.progress
        )
    return _protection(out, None, seal, bare, sealed.size - bare.size)


def seal_inside(
    file: BinaryIO,
    path: Path,
    new: BinaryIO,
    request: Request,
    names: Collection[str] | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> tuple[Seal, Layout, Layout]:
    """Write a file that holds its seal itself.

    Returns:
        The seal, and what the file is made of without and with it.

    Args:
        file: the file to be protected.
        path: where it is or will be.
        new: an empty file.
        request, names, notes, progress: see `seal_beside`.
    """
    layout = with_room(file, path)
    changed = LoadedTensors(FileTensors(file, layout, progress))
    seal = protect_(ChosenTensors(changed, names), request)
    bare = layout.format.with_seal(layout, None)
    seal = _completed(seal, bare, notes)
    sealed = layout.format.with_seal(bare, seal.to_bytes())
    sealed.write(new, changed.data)
    new.flush()
    tensors = FileTensors(new, sealed)
    if not tensors.has_header or diagnose(seal, tensors).verdict is not Verdict.CLEAN:
        raise OSError(f"{path}: what was written cannot be read back as it was")
    return seal, bare, sealed


def _completed(seal: Seal, layout: Layout, notes: Mapping[str, Any] | None) -> Seal:
    blobs = {layout.format.name: layout.frame}
    return replace(seal, notes={**seal.notes, **(notes or {})}, blobs=blobs)


def with_room(file: BinaryIO, path: Path) -> Layout:
    """What a file is made of that can hold its seal itself.

    Raises:
        FormatError: if it cannot, or is damaged.
    """
    layout = layout_of(file, path)
    if not layout.format.holds_seal:
        able = ", ".join(name for name, format in FORMATS.items() if format.holds_seal)
        raise FormatError(
            f"{path} has no place for a seal, as it is no {able} file: protect it with "
            "--carrier sidecar (in Python: carrier='sidecar')"
        )
    return layout


def _require_free(path: Path, out: Path, force: bool) -> None:
    """Refuse to replace what is to be protected, or what a sidecar protects."""
    if out.exists() and out.samefile(path):
        raise SpecError(f"{out} is the file to be protected: write the new one somewhere else")
    stale = next((side for side in sidecars_of(out) if side.exists()), None)
    if stale and not force:
        raise MismatchError(
            f"{stale} belongs to another file that would be replaced: remove both, {FORCED}"
        )


def _protection(
    path: Path, sidecar: Path | None, seal: Seal, layout: Layout, seal_bytes: int
) -> Protection:
    return Protection(
        path=str(path),
        sidecar=str(sidecar or ""),
        seal=seal,
        elements=sum(part.count for part in layout.parts),
        seal_bytes=seal_bytes,
        header_bytes=layout.span_bytes,
        data_bytes=layout.data_bytes,
    )
