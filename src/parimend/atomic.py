"""Files that are written as a whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from parimend.errors import BusyError, MismatchError
from parimend.regular import require_place

PathLike = str | os.PathLike[str]

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
# What one may not do, or a file system does not know: shares and sticks have no modes and owners,
# and not every folder can be asked to last.
_REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
_NO_FILE = {errno.EISDIR, errno.ELOOP, errno.ENXIO}  # a folder, a link, a socket
_LONGEST = 255  # bytes of a file's name
_PATIENCE = 2.0  # seconds, with those who ask whether a file is locked
_PAUSE = 0.001  # seconds before the next attempt
_ACL = "system.posix_acl_access"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def hidden(path: Path, what: str) -> Path:
    """The hidden companion of a file, of a name that is always the same.

    >>> hidden(Path("model.safetensors"), "new").name
    '.model.safetensors.new'
    """
    name = f".{path.name}.{what}"
    if len(os.fsencode(name)) > _LONGEST:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.{what}"
    return path.with_name(name)


@contextmanager
def locked(path: PathLike) -> Iterator[None]:
    """Be the only one to write a file; links are followed.

    The lock is on ``.NAME.lock``, which is removed at the end, and empty and without effect if a
    killed process leaves it behind.

    Raises:
        BusyError: if it is being written already.
        OSError: if nothing can be written there; it names ``path``.
    """
    target = _place(path)
    lock = hidden(target, "lock")
    while True:
        try:
            descriptor = _open_lock(lock)
        except OSError as error:
            if error.errno in _NO_FILE:
                why = f"{lock.name}, by which it is locked, is no file: remove it"
                error = OSError(error.errno, f"{why} ({error.strerror})")
            error.filename = str(path)
            raise error
        try:
            _take(descriptor, target)
            # Its last owner may have removed it between our opening and locking it.
            if _is_at(lock, descriptor):
                try:
                    yield
                finally:
                    with suppress(OSError):  # somebody else's, in a folder where only they may
                        lock.unlink()
                return
        finally:
            os.close(descriptor)


def is_locked(path: PathLike) -> bool:
    """Whether a file is being written; probably, where there are no locks or that may not be asked.

    A lock that a killed process left behind is none.
    """
    try:
        descriptor = os.open(hidden(_place(path), "lock"), os.O_RDONLY | _LOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def in_turn(path: PathLike, patience: float = math.inf) -> Iterator[None]:
    """One after the other, whichever process or thread; what cannot be locked, all at once.

    The lock is on the file or folder itself, which need not be one that may be written.

    Args:
        path: of the file or folder.
        patience: seconds after which nobody is waited for any more.
    """
    end = time.monotonic() + patience
    with ExitStack() as stack:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            while not _has(descriptor, fcntl.LOCK_EX) and time.monotonic() < end:
                time.sleep(_PAUSE)
            # Closing is not enough where a child was forked meanwhile: it has it open, too.
            stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
        yield


def _open_lock(lock: Path) -> int:
    while True:
        try:
            descriptor = os.open(lock, _NEW, 0o666)
        except FileExistsError:
            with suppress(FileNotFoundError):
                try:
                    return os.open(lock, os.O_RDWR | _LOCK)
                except PermissionError:
                    return os.open(lock, os.O_RDONLY | _LOCK)
        else:
            # Whoever comes next can tell whether it is in use, also if this process is killed.
            with _if_possible():
                os.fchmod(descriptor, 0o666)
            return descriptor


def _take(descriptor: int, target: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not _has(descriptor, fcntl.LOCK_EX):
        # Those who only ask whether it is locked share it for a moment; who writes does not.
        if not _has(descriptor, fcntl.LOCK_SH) or time.monotonic() > end:
            raise BusyError(
                f"{target} is being written by another process: try again when it is done"
            )
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(_PAUSE)


def _has(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks.
        if error.errno not in _NO_LOCKS:
            raise
    return True


@contextmanager
def atomic(
    path: PathLike,
    like: PathLike | None = None,
    *,
    made: Path | None = None,
    stale: Sequence[Path] = (),
    confirm: Callable[[], None] = lambda: None,
) -> Iterator[BinaryIO]:
    """Write a file so that at any moment, also after a crash, the old or the new content is there.

    What is written goes to ``.NAME.new`` in the same folder, which takes the place of the file when
    the block ends without an exception. It is a new file; what a killed process left behind is
    removed. Links are followed; an existing file keeps its mode, owner and extended attributes,
    which the new one has from the beginning. The file is `locked` meanwhile.

    Args:
        path: of the file.
        like: a new file gets the mode of this one: a copy of private data is private, too.
        made: a file in a `workspace`, which becomes what is yielded, instead of an empty one.
        stale: files that belong to the old content. They are gone before the new one is there, so
            that they never lie beside it; if it cannot take its place, they are put back.
        confirm: called immediately before the new content takes its place; it may raise.

    Yields:
        The file, open for writing and reading.

    Raises:
        BusyError: if the file is being written already.
        FormatError: if something else than a regular file is there.
        OSError: if the file cannot be written; it names ``path``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic(Path(folder, "a")) as file:
        ...         _ = file.write(b"done")
        ...     Path(folder, "a").read_bytes()
        b'done'
    """
    require_place(path)
    target = _place(path)
    temporary = hidden(target, "new")
    try:
        left = [temporary, *(_aside(_place(path)) for path in (target, *stale))]
        with locked(target), _created(temporary, target, like, made, left) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            confirm()
            _replace(file, temporary, target, stale)
        _sync_folder(target.parent)
    except OSError as error:
        # Errors of writing name no file, those of opening one that is hidden.
        if error.errno and error.filename in (None, str(target), str(temporary)):
            error.filename = str(path)
        raise


@contextmanager
def workspace(path: PathLike) -> Iterator[Path]:
    """A new folder beside a file, private and empty, for libraries that write files by their names.

    It is removed at the end; one that a killed process left behind before it is made.

    Raises:
        BusyError: if another process has it.
        OSError: if it cannot be made; it names ``path``.
    """
    folder = hidden(_place(path), "parts")
    try:
        with locked(folder):
            _remove(folder, shutil.rmtree if folder.is_dir() else Path.unlink)
            folder.mkdir(0o700)
            try:
                yield folder
            finally:
                shutil.rmtree(folder)
    except OSError as error:
        if error.filename == str(folder):
            error.filename = str(path)
        raise


def _place(path: PathLike) -> Path:
    return Path(os.path.realpath(path))


def _aside(path: Path) -> Path:
    """Where a file is until it is known whether it is needed again."""
    return hidden(path, "old")


@contextmanager
def _created(
    temporary: Path, target: Path, like: PathLike | None, made: Path | None, left: Sequence[Path]
) -> Iterator[BinaryIO]:
    """A new file that looks from the outside as the one whose place it takes; what a killed process
    may have ``left`` behind is removed.
    """
    for path in left:
        _remove(path)
    model = next((path for path in (target, like) if path and os.path.exists(path)), None)
    # Private until it is known who may read it.
    mode = 0o666 if model is None else 0o600
    with open(temporary, "w+b", opener=lambda name, _: os.open(name, _NEW, mode)) as file:
        try:
            if model is target:
                _adopt(file.fileno(), target)
            elif model is not None:
                mode = _shared(file.fileno(), model, os.stat(model).st_mode & 0o777)
                with _if_possible():
                    os.fchmod(file.fileno(), mode)
            if made is None:
                yield file
            else:
                with _moved(made, temporary, file) as moved:
                    yield moved
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _moved(made: Path, temporary: Path, empty: BinaryIO) -> Iterator[BinaryIO]:
    """Let a file take the place of an empty one, and look like it."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(made, "r+b", opener=lambda name, _: os.open(name, flags)) as file:
        as_it = os.fstat(empty.fileno())
        with _if_possible():
            os.fchown(file.fileno(), as_it.st_uid, as_it.st_gid)
        with _if_possible():
            shutil.copystat(empty.fileno(), file.fileno())  # type: ignore[arg-type]
        os.replace(made, temporary)
        yield file


def _remove(left: Path, remove: Callable[[Path], None] = Path.unlink) -> None:
    """Remove what a killed process left behind, whoever owns it, if the folder lets us."""
    try:
        with suppress(FileNotFoundError):
            remove(left)
    except OSError as error:
        why = f"{left.name}, which an earlier run left behind, cannot be removed"
        raise type(error)(error.errno, f"{why}: {error.strerror}", str(left)) from None


def _adopt(descriptor: int, target: Path) -> None:
    """Take over owner, mode and attributes of a file as far as one may."""
    old = target.stat()
    with _if_possible():
        os.fchown(descriptor, old.st_uid, -1)
    mode = _shared(descriptor, target, stat.S_IMODE(old.st_mode))
    now = os.fstat(descriptor)
    with _if_possible():
        shutil.copystat(target, descriptor)  # type: ignore[arg-type]
    with _if_possible():  # of this content, not of the old
        os.utime(descriptor, ns=(now.st_atime_ns, now.st_mtime_ns))
    with _if_possible():
        os.fchmod(descriptor, mode)


def _shared(descriptor: int, like: PathLike, mode: int) -> int:
    """Share a file with those whom another one of some mode is shared with; the mode that it then
    may have.

    The rights of a group are not for another one, beyond those that all have; nor are those of a
    list of users and groups (ACL), which the mode shows as if they were the group's.
    """
    mode, full = mode & (~0o070 | (mode & 0o007) << 3), mode
    with _if_possible():
        os.fchown(descriptor, -1, os.stat(like).st_gid)
        if hasattr(os, "getxattr"):
            _take_list(descriptor, like)
        mode = full
    return mode


def _take_list(descriptor: int, like: PathLike) -> None:
    try:
        users = os.getxattr(like, _ACL)
    except OSError:  # it has none
        with suppress(OSError):  # one that the folder gives to all that is new in it
            os.removexattr(descriptor, _ACL)
    else:
        os.setxattr(descriptor, _ACL, users)


def _replace(file: BinaryIO, temporary: Path, target: Path, stale: Sequence[Path]) -> None:
    if not _is_at(temporary, file.fileno()):
        raise MismatchError(f"{target} was not written: another process took {temporary.name} away")
    places = map(_place, stale)
    moved = {path: _aside(path) for path in places if path.exists()}
    try:
        for path, old in moved.items():
            os.replace(path, old)
        if moved:
            _sync_folder(target.parent)
        os.replace(temporary, target)
    finally:
        # An interrupt may come when the new content is there already.
        is_there = _is_at(target, file.fileno())
        for path, old in moved.items():
            with suppress(FileNotFoundError):
                if is_there:
                    old.unlink()
                else:
                    os.replace(old, path)


def _is_at(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last, where that can be asked for."""
    with _if_possible():
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _if_possible() -> Iterator[None]:
    """Go on where something is refused that a file can do without."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
