"""Which files a path stands for when they are checked: the seals know."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from parimend.atomic import PathLike
from parimend.errors import DamagedFileError, FormatError, MismatchError, ParimendError, SealError
from parimend.files.apart import holding, seals_in
from parimend.files.engines import Engine, Threads
from parimend.files.looking import Looked, companions_in, listed_in, looked_at
from parimend.files.notes import LEFT_OUT, MEMBERS, PLACE, noted, shared
from parimend.files.opening import absent, opened
from parimend.files.places import Displaced, Origin, displaced, exchanged, homes, origin_of
from parimend.files.problems import Problems
from parimend.files.seals import Sealed, Seals, name_of, sidecar_of
from parimend.files.targets import (
    MAX_INDEX,
    has_others,
    index_first,
    is_index,
    is_weights,
    names_below,
    others,
)
from parimend.files.walking import unreadable
from parimend.regular import read_regular

T = TypeVar("T")


class Members:
    """The files that a path stands for when they are to be checked.

    A folder stands for everything that is protected in it and below and everything that should be;
    an index for what was protected together with it; a file for itself and those that hold the rest
    of its tensors. Each file is given once, also those that are not there; what is learned
    meanwhile from the seals may add more of them.

    Args:
        path: a file, an index or a folder.
        seals: where the seals are.

    Attributes:
        path: the path.
        is_set: whether it stands for several files and not just for one.
    """

    def __init__(self, path: Path, seals: Seals) -> None:
        is_folder = os.path.isdir(path)  # no error where it cannot be seen
        self.path = path
        self.seals = seals
        self.is_set = is_folder or is_index(path)
        self._looks_around = self.is_set
        self._folder = path if is_folder else path.parent
        self._noted: set[str] = set()
        self._problems = Problems(path, seals, self.name, self._noted)
        self._left_out: set[str] = set()
        self._displaced: dict[Path, Displaced] = {}
        self._looked: dict[Path, Looked] = {}
        self._failed: dict[Path, Exception] = {}
        self._unheard: list[Path] = []  # members whose notes have not been taken up yet
        self._unseen = unreadable(path) if is_folder else {}
        self._names: dict[str, None] = {}  # of the members, in their order
        self._given = 0  # so many of them
        self._add(self.seals.names(path) if is_folder else [path.name])
        if not self.is_set and has_others(path):
            self._add(self._companions())
            self.is_set = len(self._names) > 1

    def next(self) -> list[Path]:
        """Those that have not been given yet, as far as they are known; when there are none, the
        rest.
        """
        if self._given == len(self._names) and self.is_set:
            self._learn()
        if self._given == len(self._names) and self._looks_around:
            self._add(self._rest())
        names = [*self._names][self._given :]
        self._given = len(self._names)
        return [self._folder / name for name in names]

    def first(self) -> list[Path]:
        """Those that are known before any of their seals is read."""
        rest = self._rest() if self._looks_around else []
        return [self._folder / name for name in dict.fromkeys([*self._names, *rest])]

    def take(self, path: Path, looked: Looked | ParimendError | OSError) -> None:
        """Take up what a look at a member gave, and what its seal says of the others."""
        self._unheard.append(path)
        if not isinstance(looked, Looked):
            self._failed[path] = looked
            return
        self._looked[path] = looked._replace(notes=shared(looked.notes))
        if self.is_set and looked.listed is not None:
            self._add([self.name(path.parent / name) for name in looked.listed])

    @property
    def named(self) -> dict[Path, str]:
        """What the members were called when they were sealed, as far as that is known."""
        return {path: looked.name for path, looked in self._looked.items() if looked.name}

    def outcome(
        self, named: Mapping[Path, str] | None = None
    ) -> tuple[dict[Path, Any], dict[Path, str]]:
        """What was found in each member, and the problems of the others, in words; both in order.

        Args:
            named: `named` of all files that were looked at, if these are more.

        Raises:
            ParimendError, OSError: why a single file could not be looked at.
            SealError: if none of several files is protected.
            FormatError: if a folder has no files that could be.
        """
        self._require_any()
        failed = self._failed | self._unseen
        problems = {path: self._problems.of(error, path) for path, error in failed.items()}
        elsewhere = exchanged(named or self.named) | self._displaced
        problems |= {
            path: self._problems.displaced(where)
            for path, where in elsewhere.items()
            if path in self._looked
        }
        for path, where in self._left_seals():
            problems[path] = self._problems.displaced(where)
            self._looked.pop(path, None)  # compared with the seal of another file
        found = {path: each.found for path, each in self._looked.items() if path not in problems}
        return _in_order(found), _in_order(problems)

    def _require_any(self) -> None:
        """Raise why nothing could be looked at; see `outcome`."""
        if not self.is_set:
            for path, error in self._failed.items():
                if isinstance(error, FileNotFoundError) and self._is_gone(path):
                    why = self._problems.missing(path)
                    raise FileNotFoundError(errno.ENOENT, why, str(path))
                raise error
        elif not self._looked and not any(map(self.seals.has, self._failed)):
            self.path.stat()  # raises, if there is nothing at all
            for error in self._unseen.values():
                raise error
            if not self._failed:
                raise FormatError(f"{self.path} has no protected files and no files of weights")
            none = f"{self.path} is not protected: none of its {len(self._failed)} files has a seal"
            for error in self._failed.values():
                if isinstance(error, DamagedFileError):
                    raise DamagedFileError(f"{none}, and {error}")
            raise SealError(f"{none} ({self._problems.protect} makes them)")

    def _left_seals(self) -> Iterator[tuple[Path, Displaced]]:
        """Files that took each other's places and left their seals: each is as another's says."""
        strange = [path for path, looked in self._looked.items() if looked.is_strange]
        strange += [path for path, e in self._failed.items() if isinstance(e, MismatchError)]
        if not (strange and self.is_set) or self.seals.option:
            return
        holds = holding(sorted(strange), (self._folder / name for name in self._names))
        own = {held: path for path, held in holds.items()}
        for path, held in holds.items():
            names = self.name(path), self.name(held)
            yield path, Displaced(*names, own.get(path), None, sidecar_of(held))

    def looked(self, path: Path) -> Any:
        """What was found in a member, wherever it lies; None if it could not be looked at."""
        return self._looked[path].found if path in self._looked else None

    def name(self, path: Path) -> str:
        """What a member is called, from the folder on."""
        return path.relative_to(self._folder).as_posix()

    def note(self, path: Path) -> str:
        """What there is to know of a member in which nothing else is wrong, in words."""
        name = self._looked[path].name or path.name
        # Where seals are elsewhere, names mean little, and files of one content have one seal.
        is_told = name != path.name and not self.seals.option
        return f"it was protected as {name}, and renamed or exchanged since" if is_told else ""

    def _learn(self) -> None:
        """Take up what the seals note of the members that were looked at since the last time.

        The seal of a member that is lost or damaged is found by the name alone. It may be that of
        another file of this name, and name members that there are not, and these others again. So
        it is asked only where no other seal names the member.
        """
        known = self.seals.known().items()
        sides = {side: origin_of(each, Path(name_of(each))) for side, each in known}
        apart = {side: origin for side, origin in sides.items() if origin}
        sure = {path: looked for path, looked in self._looked.items() if looked.is_sure}
        lying = {path: looked.origin for path, looked in sure.items() if looked.origin}
        seen = [path for path in (*self._looked, *self._failed) if os.path.exists(path)]
        places = homes((*apart.values(), *lying.values()))
        self._displaced = displaced(lying, apart, seen, places)
        # Sets that surely begin in this folder: a file of theirs that has no equal is in its place.
        here = {
            each.members
            for path, each in lying.items()
            if places[each.members, each.content] == {self.name(path)}
        }
        unheard, self._unheard = self._unheard, []
        for path in unheard:
            if path in sure:
                place = self._place(path, lying.get(path), here)
                notes = sure[path].notes
                self._learn_from({**notes, PLACE: place} if place else notes, path)
        for path in sorted({*unheard} - sure.keys(), key=index_first):
            found = self._looked.get(path)
            with suppress(ParimendError, OSError):
                if self.name(path) not in self._noted:
                    self._learn_from(found.notes if found else self.seals.notes(path), path)
            with suppress(ParimendError, OSError):
                if not found and is_index(path):
                    names = listed_in(read_regular(path, MAX_INDEX)) or []
                    self._add([self.name(path.parent / name) for name in names])

    def _place(
        self, path: Path, origin: Origin | None, here: Collection[frozenset[str]]
    ) -> str | None:
        """Where a file lies in its set, if that is not where its seal says."""
        if where := self._displaced.get(path):
            return where.place
        name = self.name(path)
        # A seal elsewhere may be that of another file of this content.
        return name if origin and origin.members in here and name in origin.members else None

    def _learn_from(self, notes: Mapping[str, Any], path: Path) -> None:
        """Take up what the seal of a file notes."""
        name = self.name(path)
        members = noted(notes, MEMBERS, name)
        self._left_out |= noted(notes, LEFT_OUT, name)
        self._noted |= members
        if self._looks_around:
            self._add(members)

    def _is_gone(self, path: Path) -> bool:
        """Whether a file is not there, and its seal is."""
        return not os.path.exists(path) and self.seals.has(path)

    def _add(self, names: Collection[str]) -> None:
        new = {*names} - self._names.keys()
        order = sorted(new, key=lambda name: (not is_index(Path(name)), name))
        self._names |= dict.fromkeys(order)

    def _rest(self) -> list[str]:
        """Names of files that lie there as members do: each is one, or was added.

        Seals of old noted no members. Where an index lists them, nothing is known of others; where
        there is no list that can be trusted, everything that might be a member is.
        """
        if not self._noted and any(each.listed is not None for each in self._looked.values()):
            return []
        lost = not self._noted
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
            read = absent if self._is_gone(self.path) else opened
            with read(self.path, self.seals) as found:
                if found.sealed.layout.format.has_others:
                    return companions_in(found)
                # One of the others, in its place.
                return noted(found.sealed.seal.notes, MEMBERS, self.path.name)
        with suppress(ParimendError, OSError):
            return noted(self.seals.notes(self.path), MEMBERS, self.path.name)
        with suppress(ParimendError, OSError):
            return others(self.path)
        return ()


def visit(
    groups: Sequence[Members], look: Callable[[Path], Looked], engine: Engine
) -> Iterator[Path]:
    """Look at every member of some groups; among several, one that cannot be does not stop it.

    Args:
        groups: that take what is found.
        look: at a path.
        engine: that looks.

    Yields:
        Each path that has been looked at.
    """
    while todo := [(group, path) for group in groups for path in group.next()]:
        for number, looked in engine.each(look, [path for _, path in todo]):
            group, path = todo[number]
            group.take(path, looked)
            yield path


def visit_all(members: Members, look: Callable[[Path], Looked]) -> None:
    """`visit` one group, one member after the other, in this thread."""
    for _ in visit([members], look, Threads(1)):
        pass


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

    def look(target: Path) -> Looked:
        with opened(target, members.seals) as found:
            return looked_at(found.sealed, found)

    visit_all(members, look)
    return members.outcome()


def _in_order(results: dict[Path, T]) -> dict[Path, T]:
    return {path: results[path] for path in sorted(results, key=index_first)}
