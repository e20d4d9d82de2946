"""Which files a path stands for when they are checked: the seals know."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from parimend.atomic import PathLike
from parimend.carriers import repair_
from parimend.errors import FormatError, ParimendError, SealError
from parimend.files.apart import seals_in
from parimend.files.opening import opened
from parimend.files.seals import Beside, Sealed, Seals
from parimend.files.targets import (
    LEFT_OUT,
    MAX_INDEX,
    MEMBERS,
    has_others,
    index_first,
    is_index,
    is_weights,
    missing,
    names_below,
    noted,
    others,
    shards,
)
from parimend.regular import read_regular
from parimend.stores.file import FileTensors, LoadedTensors

T = TypeVar("T")


class Members:
    """The files that a path stands for when they are to be checked.

    A folder stands for everything that is protected in it and below and everything that should be;
    an index, or a file whose tensors are also in others, for what was protected together with it.
    Iterating gives each file once, also those that are not there; what is learned meanwhile from
    the seals may add more of them.

    Args:
        path: a file, an index or a folder.
        seals: where the seals are.

    Attributes:
        path: the path.
        is_set: whether it stands for several files and not just for one.
    """

    def __init__(self, path: Path, seals: Seals | None = None) -> None:
        is_folder = path.is_dir()
        self.path = path
        self.seals = seals or Beside()
        self.is_set = is_folder or is_index(path)
        self._looks_around = self.is_set
        self._folder = path if is_folder else path.parent
        self._noted: set[str] = set()
        self._left_out: set[str] = set()
        self._listed = False
        self._is_protected = False
        self._names: list[str] = []
        self._known: set[str] = set()
        self._add(self.seals.names(path) if is_folder else [path.name])
        if not self.is_set and has_others(path):
            self._add(self._companions())
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
        members = self._learn_from(sealed.seal.notes, path)
        if not members and is_index(path):  # sealed before members were noted
            self._listed |= self._list(_original(sealed, file), path)

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
        found, problems = {}, {}
        for path in self:
            try:
                found[path] = look(path)
            except (ParimendError, OSError) as error:
                self._learn_without(path)
                problems[path] = self._problem(error, path)
        if not self._is_protected:
            self.path.stat()  # raises, if there is nothing at all
            if not problems:
                raise FormatError(f"{self.path} has no protected files and no files of weights")
            raise SealError(
                f"{self.path} is not protected: none of its {len(problems)} files has a seal "
                f"(parimend protect {self.path} makes them)"
            )
        return _in_order(found), _in_order(problems)

    def _learn_without(self, path: Path) -> None:
        """Ask what is left where a file or its seal cannot be read: the other one of both."""
        self._is_protected |= self.seals.has(path)
        with suppress(ParimendError, OSError):
            self._learn_from(self.seals.notes(path), path)
        with suppress(ParimendError, OSError):
            if is_index(path):
                self._list(read_regular(path, MAX_INDEX), path)

    def _learn_from(self, notes: Mapping[str, Any], path: Path) -> set[str]:
        """Take up what the seal of a file notes; gives the members among it."""
        name = self.name(path)
        members = noted(notes, MEMBERS, name)
        self._left_out |= noted(notes, LEFT_OUT, name)
        self._noted |= members
        self._add(members)
        return members

    def _list(self, content: bytes | None, index: Path) -> bool:
        """Take up what an index lists, if it can be read; that only ever adds members."""
        try:
            names = shards(content or b"", "")
        except FormatError:
            return False
        self._add([self.name(index.parent / name) for name in names])
        return True

    def name(self, path: Path) -> str:
        """What a member is called, from the folder on."""
        return path.relative_to(self._folder).as_posix()

    def _problem(self, error: Exception, path: Path) -> str:
        """Why a member could not be looked at, in words."""
        if not os.path.lexists(path):
            return "missing: it was protected together with the others, or is listed with them"
        if gone := missing(path):
            return f"missing: {gone}"
        if isinstance(error, OSError):
            return f"cannot be looked at: {error.strerror or error}"
        if isinstance(error, SealError) and self._noted and self.name(path) not in self._noted:
            return "added: it has no seal, and was not protected together with the others"
        return str(error)

    def _add(self, names: Collection[str]) -> None:
        new = sorted({*names} - self._known, key=lambda name: (not is_index(Path(name)), name))
        self._names += new
        self._known.update(new)

    def _rest(self) -> list[str]:
        """Names of files that lie there as members do: each is one, or was added.

        Seals of old noted no members. Where an index lists them, nothing is known of others; where
        there is no list that can be trusted, everything that might be a member is.
        """
        lost = not self._noted and not self._listed
        if not lost and not self._noted:
            return []
        names = names_below(self._folder)
        if not self.path.is_dir():  # an index stands for its own folder
            names = [name for name in names if "/" not in name]
        rest = [
            name
            for name in names
            if (is_weights(name) or (lost and is_index(Path(name))))
            and name not in self._left_out
            and not self.seals.has(self._folder / name)
        ]
        return [*rest, *self.seals.names(self._folder)] if lost else rest

    def _companions(self) -> Collection[str]:
        """The names of the files with the rest of a file's tensors, as its seal or it says."""
        with suppress(ParimendError, OSError):
            return noted(self.seals.notes(self.path), MEMBERS, self.path.name)
        with suppress(ParimendError, OSError):
            return others(self.path)
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


def known_members(path: Path, seal_dir: PathLike | None = None) -> list[Path]:
    """The files that a path stands for, as far as that is known before any of their seals is read.

    Raises:
        FileNotFoundError: if there is no such folder of seals.
    """
    return Members(path, seals_in(seal_dir)).first()


def seals_of(
    path: Path, seal_dir: PathLike | None = None
) -> tuple[dict[Path, Sealed], dict[Path, str]]:
    """The seals of the files that a path stands for, without looking at their data.

    Args:
        path: see `Members`.
        seal_dir: where the seals are; see `parimend.check_file`.

    Returns:
        They, and the problems of files without one that can be read.

    Raises:
        SealError, FormatError, OSError: as `parimend.check_file` does.
    """
    members = Members(path, seals_in(seal_dir))

    def look(target: Path) -> Sealed:
        with opened(target, members.seals) as found:
            members.learn(found.sealed, found.file, target)
        return found.sealed

    return members.visit(look)


def _in_order(results: dict[Path, T]) -> dict[Path, T]:
    return {path: results[path] for path in sorted(results, key=index_first)}
