"""A file and its seal, read as they belong together also while others save and repair."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NoReturn

from parimend.atomic import is_locked
from parimend.errors import BusyError, MismatchError, ParimendError
from parimend.files.links import steps
from parimend.files.seals import Sealed, Seals, sidecar_of
from parimend.regular import State, open_regular, state_of, unreadable

_ATTEMPTS = 20
_PAUSE = 0.02  # seconds


@dataclass(frozen=True)
class Opened:
    """A protected file that is open.

    Attributes:
        path: of the file.
        file: open for reading.
        sealed: its seal.
        side: where its sidecar is or would be; None if that is not known.
        state: of the file, when it was read; None if it is not there.
        side_state: of what is in the place of its sidecar.
    """

    path: Path
    file: BinaryIO
    sealed: Sealed
    side: Path | None
    state: State | None
    side_state: State | None

    def require_unchanged(self) -> None:
        """Refuse to go on if the file or its sidecar is another one by now.

        Raises:
            MismatchError: if one of them is.
        """
        if state_of(self.path) != self.state:
            self._refuse()
        self.require_sidecar()

    def require_sidecar(self) -> None:
        """As `require_unchanged`, of the sidecar alone: for when the file has been repaired."""
        if _state(self.side) != self.side_state:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise MismatchError(
            f"{self.path} was saved anew while it was being repaired: nothing was written; check "
            "it again"
        )


@contextmanager
def opened(path: Path, seals: Seals, *, salvage: bool = False) -> Iterator[Opened]:
    """Open a protected file and read its seal.

    Args:
        path: of the file.
        seals: where its seal is looked for.
        salvage: see `open_regular`.

    Raises:
        SealError, MismatchError, FormatError: if the file is not protected, or its seal or header
            cannot be read.
        BusyError: if it is saved over and over meanwhile.
        OSError: if it cannot be read.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        with open_regular(path, salvage=salvage) as file:
            side = seals.place(path, None)
            before = state_of(path), _state(side)
            failure, is_written = None, False
            try:
                sealed = seals.find(file, path)
            except (ParimendError, OSError) as error:
                # Asked before the states: who is done since then has changed them.
                failure, is_written = error, any(map(is_locked, sidecars_of(path)))
            # Whoever saves removes the old sidecar first and puts the new one into its place last.
            now = state_of(path), _state(side)
            if now != before or state_of(file.fileno()) != before[0]:
                continue
            if failure is None:
                side = seals.place(path, sealed)
                yield Opened(path, file, sealed, side, before[0], _state(side))
                return
            if unreadable(file) and isinstance(failure, ParimendError):  # which may be why
                why = f"{os.strerror(errno.EIO)}, so that its seal is not found: {failure}"
                failure = OSError(errno.EIO, why, str(path))
        # The new one may not be there yet.
        if attempt == _ATTEMPTS or side is None or not is_written:
            raise failure
        time.sleep(_PAUSE)
    raise BusyError(f"{path} is saved over and over while it is being read: try again later")


@contextmanager
def absent(path: Path, seals: Seals) -> Iterator[Opened]:
    """As `opened`, of a file that is not there and has a seal: all of its bytes are missing.

    Raises:
        SealError, MismatchError, FormatError, OSError: if its seal cannot be read.
    """
    with TemporaryFile() as nothing:
        before = _state(seals.place(path, None))
        sealed = seals.find(nothing, path)
        side = seals.place(path, sealed)
        yield Opened(path, nothing, sealed, side, None, before or _state(side))


def _state(side: Path | None) -> State | None:
    return None if side is None else state_of(side)


def sidecars_of(path: Path) -> list[Path]:
    """Where sidecars of a file's content may be: beside its name, and beside what that links to."""
    return sorted({sidecar_of(step) for step in steps(path)})
