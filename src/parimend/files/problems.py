"""What is the matter with files of a set that are lost, unreadable or misplaced, in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from parimend.errors import DamagedFileError, FormatError, SealError, SourceError
from parimend.files.places import Displaced
from parimend.files.seals import Seals
from parimend.files.targets import is_shard
from parimend.showing import command_word


class Problems:
    """Says what is wrong with members of a set, and what to do.

    Args:
        path: that stands for the set.
        seals: where the seals are.
        name: what a member is called.
        noted: names of the members that seals note; may become more.
    """

    def __init__(
        self, path: Path, seals: Seals, name: Callable[[Path], str], noted: Collection[str]
    ) -> None:
        self._path = path
        self._seals = seals
        self._name = name
        self._noted = noted

    def of(self, error: Exception, path: Path) -> str:
        """Why a member could not be looked at, in words."""
        is_hidden = isinstance(error, PermissionError)  # by itself, or by a folder on the way
        if not is_hidden and not os.path.exists(path):
            if isinstance(error, SourceError | FormatError):  # it cannot be fetched, or put there
                return f"missing: {error}"
            return self.missing(path)
        if isinstance(error, OSError):
            return f"cannot be looked at: {reason(error, path)}"
        if not isinstance(error, SealError) or not self._noted:
            return str(error)
        if self._name(path) not in self._noted:
            return (
                "added: it has no seal, and was not protected together with the others "
                f"({self.protect} takes it up)"
            )
        if self._seals.has(path) or isinstance(error, DamagedFileError):
            return str(error)
        return (
            "its seal is lost: it was protected together with the others, and nobody knows whether "
            "it is what it was; fetch its seal again, or compare it with a copy before "
            f"{self.protect} seals what is there now"
        )

    def missing(self, path: Path) -> str:
        """What to do about a member that is not there, in words."""
        is_noted, known = self._name(path) in self._noted, self._seals.has(path)
        why = "it was protected together with the others, or is listed with them"
        if os.path.islink(path):
            why = absence(path)
        elif known and not is_noted:
            why = "its seal is there"
        at = f"{command_word(path)}{self._seals.option}"
        fetch = f" (parimend repair {at} --in-place --from OTHER does, and proves it)"
        steps = []
        if self._path.is_dir() and not is_shard(path.name):
            side = self._seals.place(path, None)
            stale = [path] if os.path.islink(path) else []
            if side and known:
                stale.append(side)
            if stale:
                steps.append(f"remove {' and '.join(map(command_word, stale))}")
            if is_noted:  # only then, as --force seals what is damaged as it is
                steps.append(f"when the others are clean, {self.protect} --force")
        unwanted = f"; or, if it is no longer wanted, {', and '.join(steps)}" if steps else ""
        return f"missing: {why}; fetch it again{fetch if known else ''}{unwanted}"

    def displaced(self, where: Displaced) -> str:
        """What is the matter with a member that holds what another one held, in words."""
        with_seals = "" if self._seals.option or where.beside else ", with their seals"
        own = (
            f"its own is in {where.own}: exchange them{with_seals}"
            if where.own
            else "its own is lost: fetch it"
        )
        # Not --force: it would seal what is damaged elsewhere in the set.
        meant = f"{self.protect}, with the options of before, notes it"
        if where.seal:
            meant = f"remove {where.seal}"
        elif where.beside:
            meant = f"put {where.beside} beside it as its seal, and {meant}"
        return (
            f"holds what was protected as {where.holds}, and {own}; or, if that is meant, {meant}"
        )

    @property
    def protect(self) -> str:
        """The command that protects the set."""
        return f"parimend protect {command_word(self._path)}{self._seals.option}"


def absence(path: Path) -> str:
    """In words that a file is not there; empty if it is."""
    is_there = os.path.exists(path)  # no error where the name is too long for one
    if os.path.islink(path) and not is_there:
        return f"it is a link to {os.readlink(path)}, which is not there"
    return "" if is_there else "it is missing"


def reason(error: OSError, path: Path) -> str:
    """Why a path cannot be read or written, in words, and what else that is the fault of."""
    why = str(error.strerror or error)
    is_its_own = error.filename is None or Path(error.filename) == path
    return why if is_its_own else f"{error.filename}: {why}"
