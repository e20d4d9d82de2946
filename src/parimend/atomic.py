"""Files that are written as a whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from parimend.errors import BusyError

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


@contextmanager
def atomic(
    path: str | os.PathLike[str], like: str | os.PathLike[str] | None = None
) -> Iterator[BinaryIO]:
    """Write a file so that at any moment, also after a crash, the old or the new content is there.

    What is written goes to ``.NAME.new`` in the same folder, which takes the place of the file when
    the block ends without an exception. Links are followed; an existing file keeps its mode and
    owner. The temporary file serves as the lock, too: its name is fixed, so that one that a killed
    process left behind is used again.

    Args:
        path: of the file.
        like: a new file gets the mode of this one: a copy of private data is private, too.

    Yields:
        An empty file, open for writing and reading.

    Raises:
        BusyError: if another process is writing the same file.
        OSError: if the file cannot be written; it names ``path``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic(Path(folder, "a")) as file:
        ...         _ = file.write(b"done")
        ...     Path(folder, "a").read_bytes()
        b'done'
    """
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.name}.new")
    try:
        with _locked(temporary, target) as file:
            try:
                _adopt_owner(file.fileno(), target, like)
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        _sync_folder(target.parent)
    except OSError as error:
        # Errors of writing name no file, those of opening the temporary one.
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


@contextmanager
def _locked(temporary: Path, target: Path) -> Iterator[BinaryIO]:
    """Open the temporary file, empty, as the only process that has it open."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o666), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"{target} is being written by another process: try again when it is done"
                ) from None
            except OSError as error:
                # Some network file systems have no locks.
                if error.errno not in _NO_LOCKS:
                    raise
            # Its last owner may have renamed or removed it between our opening and locking it.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(temporary)):
                    file.truncate(0)
                    yield file
                    return


def _adopt_owner(descriptor: int, target: Path, like: str | os.PathLike[str] | None) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        if like is not None:
            os.fchmod(descriptor, os.stat(like).st_mode & 0o777)
        return
    os.fchmod(descriptor, old.st_mode & 0o7777)
    with suppress(PermissionError):
        os.fchown(descriptor, old.st_uid, old.st_gid)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
