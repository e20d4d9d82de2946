"""Files that must not be written while something is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parimend.atomic import PathLike
from parimend.errors import MismatchError
from parimend.files.members import known_members

_State = tuple[int, ...]


@contextmanager
def unchanged(path: Path, what: str, seal_dir: PathLike | None = None) -> Iterator[None]:
    """Make sure at the end that the files are those of the beginning, and not written since.

    Args:
        path: as for `parimend.check_file`.
        what: is being done with them, for the message.
        seal_dir: see `parimend.check_file`.

    Raises:
        MismatchError: names those that changed.
    """
    before = {file: _state(file) for file in known_members(path, seal_dir)}
    yield
    now = before.keys() | {*known_members(path, seal_dir)}  # with those that came meanwhile
    if changed := sorted(str(file) for file in now if _state(file) != before.get(file)):
        raise MismatchError(
            f"{', '.join(changed)} changed while it was being {what}, so that it is not known "
            "whether this is what was verified: do it again, or with a private copy of the files"
        )


def _state(file: Path) -> _State | None:
    """What tells a file from others, and from itself when it is written; None if there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
