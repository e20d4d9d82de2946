"""Files that must not be written while something is done with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parimend.arguments import path_of
from parimend.atomic import PathLike
from parimend.errors import MismatchError
from parimend.files.members import known_members
from parimend.regular import state_of


class Files:
    """Files as they are now.

    Args:
        path: as for `parimend.check_file`.
        seal_dir: see `parimend.check_file`.

    Attributes:
        path, seal_dir: the same, wherever one goes meanwhile.
    """

    def __init__(self, path: Path, seal_dir: PathLike | None = None) -> None:
        self.path = path.absolute()
        self.seal_dir = None if seal_dir is None else path_of(seal_dir, "seal_dir").absolute()
        self._states = {file: state_of(file) for file in known_members(self.path, self.seal_dir)}

    def changed(self) -> list[str]:
        """Those that were written or replaced since, or came."""
        now = self._states.keys() | {*known_members(self.path, self.seal_dir)}
        return sorted(str(file) for file in now if state_of(file) != self._states.get(file))

    def require_unchanged(self, what: str) -> None:
        """Refuse what was done with them if they are others now.

        Args:
            what: was done, for the message.

        Raises:
            MismatchError: names those that changed.
        """
        if changed := self.changed():
            raise MismatchError(
                f"{', '.join(changed)} changed while it was being {what}, so that it is not known "
                "whether this is what was verified: do it again, or with a private copy of the "
                "files"
            )


@contextmanager
def unchanged(path: Path, what: str, seal_dir: PathLike | None = None) -> Iterator[Files]:
    """Make sure at the end that the files are those of the beginning, and not written since; see
    `Files`.
    """
    files = Files(path, seal_dir)
    yield files
    files.require_unchanged(what)
