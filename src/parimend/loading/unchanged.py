"""Files that must not be written while something is done with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parimend.atomic import PathLike
from parimend.errors import MismatchError
from parimend.files.members import known_members
from parimend.regular import state_of


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
    before = {file: state_of(file) for file in known_members(path, seal_dir)}
    yield
    now = before.keys() | {*known_members(path, seal_dir)}  # with those that came meanwhile
    if changed := sorted(str(file) for file in now if state_of(file) != before.get(file)):
        raise MismatchError(
            f"{', '.join(changed)} changed while it was being {what}, so that it is not known "
            "whether this is what was verified: do it again, or with a private copy of the files"
        )
