"""Which files a path stands for when they are checked: the seals know."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from parimend.carriers import repair_
from parimend.errors import FormatError, ParimendError, SealError
from parimend.files.opening import opened
from parimend.files.seals import SUFFIX, Sealed, load_sidecar, sidecar_of
from parimend.files.targets import (
    LEFT_OUT,
    MAX_INDEX,
    MEMBERS,
    SAFETENSORS,
    has_others,
    index_first,
    is_index,
    names_in,
    noted,
    others,
    shards,
)
from parimend.regular import read_regular
from parimend.showing import command_word
from parimend.stores.file import FileTensors, LoadedTensors

T = TypeVar("T")


class Members:
    """The files that a path stands for when they are to be checked.

    A folder stands for everything that is protected in it and everything that should be; an index,
    or a file whose tensors are also in others, for what was protected together with it. Iterating
    gives each file once, also those that are not there; what is learned meanwhile from the seals
    may add more of them.

    Args:
        path: a file, an index or a folder.

    Attributes:
        path: the path.
        is_set: whether it stands for several files and not just for one.
    """

    def __init__(self, path: Path) -> None:
        is_folder = path.is_dir()
        self.path = path
        self.is_set = is_folder or is_index(path)
        self._looks_around = self.is_set
        self._folder = path if is_folder else path.parent
        self._noted: set[str] = set()
        self._left_out: set[str] = set()
        self._listed = False
        self._is_protected = False
        self._names: list[str] = []
        self._known: set[str] = set()
        self._add(self._sealed() if is_folder else [path.name])
        if not self.is_set and has_others(path):
            self._add(_companions(path))
            self.is_set = len(self._names) > 1

    def __iter__(self) -> Iterator[Path]:
        at = 0
        while True:
            if at == len(self._names) and self._looks_around:
                self._add(self._rest())
            if at == len(self._names):
                return
            yield self._folder / self._names[at]
            at += 1

    def first(self) -> list[Path]:
        """Those that are known before any of their seals is read."""
        rest = self._rest() if self._looks_around else []
        return [self._folder / name for name in dict.fromkeys([*self._names, *rest])]

    def learn(self, sealed: Sealed, file: BinaryIO, path: Path) -> None:
        """Take up what the seal of a member says of the others.

        Args:
            sealed: what its seal says.
            file: the member, open for reading.
            path: its path.
        """
        self._is_protected = True
        if not self.is_set:
            return
        members = noted(sealed.seal.notes, MEMBERS)
        self._left_out |= noted(sealed.seal.notes, LEFT_OUT)
        self._noted |= members
        self._add(members)
        if not members and is_index(path):  # sealed before members were noted
            self._listed |= self._list(_original(sealed, file))

    def visit(self, look: Callable[[Path], T]) -> tuple[dict[Path, T], dict[Path, str]]:
        """Look at every member; among several, one that cannot be looked at does not stop it.

        Args:
            look: called with the path of each; it is to call `learn`.

        Returns:
            What it returned for each path, and the problems of the others, in words; both with the
            index first, then by name.

        Raises:
            SealError: if none of several files is protected.
            FormatError: if a folder has no files that could be.
            ParimendError, OSError: of a single file.
        """
        if not self.is_set:
            return {path: look(path) for path in self}, {}
        found, problems, damaged = {}, {}, ""
        for path in self:
            try:
                found[path] = look(path)
            except (ParimendError, OSError) as error:
                self._learn_without(path)
                problems[path] = self._problem(error, path)
                if isinstance(error.__cause__, FormatError):
                    damaged = damaged or str(error)
        if not self._is_protected:
            self.path.stat()  # raises, if there is nothing at all
            if not problems:
                raise FormatError(f"{self.path} has no protected files and no safetensors files")
            none = f"{self.path} is not protected: none of its {len(problems)} files has a seal"
            if damaged:
                raise SealError(f"{none}, and {damaged}")
            raise SealError(f"{none} (parimend protect {command_word(self.path)} makes them)")
        return _in_order(found), _in_order(problems)

    def _learn_without(self, path: Path) -> None:
        """Ask what is left where a file or its seal cannot be read: the other one of both."""
        self._is_protected |= sidecar_of(path).exists()
        with suppress(ParimendError, OSError):
            notes = load_sidecar(sidecar_of(path)).seal.notes
            self._noted |= noted(notes, MEMBERS)
            self._add(noted(notes, MEMBERS))
        with suppress(ParimendError, OSError):
            if is_index(path):
                self._list(read_regular(path, MAX_INDEX))

    def _list(self, content: bytes | None) -> bool:
        """Take up what an index lists, if it can be read; that only ever adds members."""
        try:
            self._add(shards(content or b"", ""))
        except FormatError:
            return False
        return True

    def _problem(self, error: Exception, path: Path) -> str:
        """Why a member could not be looked at, in words."""
        if not os.path.lexists(path):
            return (
                "missing: it was protected together with the others, or is listed with them; fetch "
                "it again"
            )
        if isinstance(error, OSError):
            return f"cannot be looked at: {error.strerror or error}"
        if isinstance(error, SealError) and self._noted and path.name not in self._noted:
            return (
                "added: it has no seal, and was not there when the others were protected (parimend "
                f"protect {command_word(self.path)} takes it up)"
            )
        return str(error)

    def _add(self, names: Collection[str]) -> None:
        new = sorted({*names} - self._known, key=lambda name: (not is_index(Path(name)), name))
        self._names += new
        self._known.update(new)

    def _sealed(self) -> list[str]:
        """Names of the files that have sidecars, also where the files are gone."""
        found = []
        for name in names_in(self._folder):
            of = name.removesuffix(SUFFIX)
            if of not in ("", name) and (
                (self._folder / of).exists() or _is_of_file(self._folder / name)
            ):
                found.append(of)
        return found

    def _rest(self) -> list[str]:
        """Names of files that lie there as members do: each is one, or was added.

        Seals of old noted no members. Where an index lists them, nothing is known of others; where
        there is no list that can be trusted, everything in the folder that might be a member is.
        """
        lost = not self._noted and not self._listed
        if not lost and not self._noted:
            return []
        kinds = {SAFETENSORS, *(Path(name).suffix for name in self._noted)} - {".json"}
        rest = [
            name
            for name in names_in(self._folder)
            if (Path(name).suffix in kinds or (lost and is_index(Path(name))))
            and name not in self._left_out
            and not sidecar_of(self._folder / name).exists()
        ]
        return [*rest, *self._sealed()] if lost else rest


def _is_of_file(beside: Path) -> bool:
    """Whether a seal was made of a file: the seal of a live model may have any name."""
    try:
        return load_sidecar(beside).layout is not None
    except (ParimendError, OSError):
        return True


def _companions(path: Path) -> Collection[str]:
    """The names of the files with the rest of a file's tensors, as its seal or the file says."""
    with suppress(ParimendError, OSError):
        return noted(load_sidecar(sidecar_of(path)).seal.notes, MEMBERS)
    with suppress(ParimendError, OSError):
        return others(path)
    return ()


def _original(sealed: Sealed, file: BinaryIO) -> bytes | None:
    """The content of an index as it was protected, repaired in memory; None if that is lost.

    A damaged index must not say which files there are.
    """
    tensors = FileTensors(file, sealed.layout)
    # No memory for what a seal claims and is not there.
    if tensors.size > min(2 * tensors.found, MAX_INDEX):
        return None
    loaded = LoadedTensors(tensors)
    try:
        if not repair_(sealed.seal, loaded).verdict.ok:
            return None
    except ParimendError:
        return None
    content = io.BytesIO()
    sealed.layout.write(content, loaded.data)
    return content.getvalue()


def seals_of(path: Path) -> tuple[dict[Path, Sealed], dict[Path, str]]:
    """The seals of the files that a path stands for, without looking at their data.

    Returns:
        They, and the problems of files without one that can be read.

    Raises:
        SealError, FormatError, OSError: as `parimend.check_file` does.
    """
    members = Members(path)

    def look(target: Path) -> Sealed:
        with opened(target) as found:
            members.learn(found.sealed, found.file, target)
        return found.sealed

    return members.visit(look)


def _in_order(results: dict[Path, T]) -> dict[Path, T]:
    return {path: results[path] for path in sorted(results, key=index_first)}
