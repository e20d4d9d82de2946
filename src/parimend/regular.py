"""Regular files, opened, and read and written at their places.

Nothing else is read as a user's file, nor replaced by one.

Opening a FIFO waits for a writer, opening a device may rewind it, and reading from either need not
come to an end. Nothing is mapped into memory: a page that cannot be read is an exception then and
no crash.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from parimend.errors import FormatError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_PIECE = 1 << 22  # bytes
_PAGE = 1 << 12
"""Bytes that a disk gives together, or not at all."""
_MOST_LOST = 1 << 8  # pages, as a disk takes seconds for each

State = tuple[int, int, int, int, int]
"""Device, inode, size and times of change: where they are the same, so is the content."""


class Salvaged(io.BufferedReader):
    """A file in which zeros stand for what its disk does not give.

    A page that was not given once is not asked for again: that takes seconds, and what is read
    twice is the same.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self._lock = threading.Lock()
        self.lost = frozenset[int]()
        """The pages that were not given."""
        self._most = sys.maxsize  # bytes to ask for together

    def read_some(self, data: memoryview, at: int) -> int:
        """Fill the beginning of ``data``, and return how much of it; 0 at the end of the file.

        Raises:
            OSError: if too much is lost: the disk is failing.
        """
        page = at // _PAGE
        rest = _PAGE * (page + 1) - at
        if page not in self.lost:
            until = min((_PAGE * lost for lost in self.lost if lost > page), default=sys.maxsize)
            try:
                got = self._ask(data[: min(until - at, max(self._most, rest))], at, rest)
            except OSError as error:
                self._lose(page, error)
            else:
                self._most = min(2 * self._most, sys.maxsize)
                return got
        lost = data[:rest]
        lost[:] = bytes(len(lost))
        return len(lost)

    def _ask(self, data: memoryview, at: int, rest: int) -> int:
        """Ask for all of ``data``, and if that is refused, as it is where one page of it is lost,
        or one beside it, for the ``rest`` of the first page.
        """
        try:
            return os.preadv(self.fileno(), [data], at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        self._most = rest
        self._forget(at)
        return os.preadv(self.fileno(), [data[:rest]], at)

    def _forget(self, at: int) -> None:
        """Let the system read single pages: what it reads ahead together fails together."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            first = max(at - _PIECE, 0)
            os.posix_fadvise(self.fileno(), first, at + _PIECE - first, os.POSIX_FADV_DONTNEED)

    def _lose(self, page: int, error: OSError) -> None:
        with self._lock:
            if error.errno != errno.EIO or len(self.lost) == _MOST_LOST:
                raise error
            self.lost |= {page}


def open_regular(path: str | os.PathLike[str], *, salvage: bool = False) -> BinaryIO:
    """Open a file for reading; links are followed.

    Args:
        path: of the file.
        salvage: whether it is to be read also where its disk does not give it; see `Salvaged`.

    Raises:
        FormatError: if it is no regular file.
        OSError: if it is not there or cannot be read.

    Example:
        >>> open_regular("/dev/zero")
        Traceback (most recent call last):
        parimend.errors.FormatError: /dev/zero is a device: name a regular file
    """
    # Looked at before it is opened, and again in case another one has taken its place meanwhile.
    _require_regular(os.stat(path), path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    raw = io.FileIO(os.fspath(path), "rb", opener=lambda name, _: os.open(name, flags))
    file = Salvaged(raw) if salvage else io.BufferedReader(raw)
    try:
        _require_regular(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes.

    Raises:
        FormatError: if it is larger, or no regular file.
        OSError: if it is not there or cannot be read.
    """
    with open_regular(path) as file:
        return read_whole(file, limit)


def read_whole(file: BinaryIO, limit: int) -> bytes:
    """`read_regular`, of a file that is open."""
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise FormatError(
            f"{file.name} has {size} bytes, too many for what it should be ({limit} at most)"
        )
    return read_at(file, 0, size).tobytes()


def require_place(path: str | os.PathLike[str]) -> None:
    """Refuse a path where no file can be, or that is taken by what a file must not replace.

    Raises:
        FormatError: if its folder is not there; if there is something else than a regular file,
            or the one that this process prints to, as ``/dev/stdout`` may be: what is printed
            would be lost with it.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        place = os.path.realpath(path) if os.path.islink(path) else os.fspath(path)
        folder = os.path.dirname(place) or os.curdir
        if not os.path.isdir(folder):
            raise FormatError(
                f"{os.fspath(path)}: there is no folder {folder}: make it, or take another"
            ) from None
        return
    _require_regular(found, path)
    if any(os.path.samestat(found, each) for each in _printed_to()):
        raise FormatError(f"{os.fspath(path)} is what this process prints to: name another file")


def _printed_to() -> Iterator[os.stat_result]:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, closed, or no file
            yield os.fstat(stream.fileno())


def state_of(path: str | os.PathLike[str] | int) -> State | None:
    """What tells a file, by its path or descriptor, from others and from what it was before it was
    written; None if there is none.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    # Whoever writes may set the time of modification back; that of the status is the system's own.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def size_of(path: str | os.PathLike[str]) -> int:
    """Bytes of a file; 0 if there is none, or no more."""
    state = state_of(path)
    return state[2] if state else 0


def read_at(file: BinaryIO, at: int, count: int) -> NDArray[np.uint8]:
    """Bytes of a file; zeros beyond its end.

    Raises:
        OSError: if they cannot be read; it names the file. Of one that is `Salvaged`, only if that
            is not because they are lost, or too many are.
    """
    data = np.empty(count, np.uint8)
    done = 0
    while done < count:
        try:
            if isinstance(file, Salvaged):
                got = file.read_some(data[done:].data, at + done)
            else:
                got = os.preadv(file.fileno(), [data[done:].data], at + done)
        except OSError as error:
            raise _named(error, file, at + done, at + count) from error
        if not got:
            data[done:] = 0
            break
        done += got
    return data


def _named(error: OSError, file: BinaryIO, begin: int, end: int) -> OSError:
    """The error of a read, which itself does not say what was read."""
    why = os.strerror(error.errno or 0)
    if error.errno == errno.EIO:
        remedy = "parimend repair puts it right if it is protected; or fetch the file again"
        if isinstance(file, Salvaged):
            remedy = (
                "much else is lost, too: copy what can be read to another disk, as ddrescue does, "
                "and repair that; or fetch the file again"
            )
        why = f"{why} in bytes {begin} to {end - 1}: {remedy}"
    return OSError(error.errno, why, file.name)


def unreadable(file: BinaryIO) -> list[tuple[int, int]]:
    """What the disk did not give of a file that is `Salvaged`, as pairs of the first byte and the
    one after the last, in order.
    """
    found = list[tuple[int, int]]()
    if not isinstance(file, Salvaged) or not file.lost:
        return found
    size = os.fstat(file.fileno()).st_size
    for page in sorted(file.lost):
        begin, end = _PAGE * page, min(_PAGE * (page + 1), size)
        if found and found[-1][1] == begin:
            begin = found.pop()[0]
        found.append((begin, end))
    return found


def holds(file: BinaryIO, at: int, data: bytes | memoryview) -> bool:
    """Whether a file has some bytes at a place."""
    return not any(_compared(file, at, data))


def differing(file: BinaryIO, at: int, data: bytes | memoryview) -> int:
    """How many bytes at a place of a file are not what they should be."""
    return sum(_compared(file, at, data))


def _compared(file: BinaryIO, at: int, data: bytes | memoryview) -> Iterator[int]:
    """The same of one piece after the other, as they may be many."""
    expected = np.frombuffer(data, np.uint8)
    for start in range(0, expected.size, _PIECE):
        piece = expected[start : start + _PIECE]
        yield int(np.count_nonzero(read_at(file, at + start, piece.size) != piece))


def write_at(file: BinaryIO, at: int, values: NDArray[Any]) -> None:
    """Put bytes into a file."""
    data = np.ascontiguousarray(values).reshape(-1).data
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data[done:], at + done)


def copy_bytes(source: BinaryIO, new: BinaryIO, size: int = sys.maxsize) -> None:
    """Put the first ``size`` bytes of a file into another one; all, if there are no more.

    Raises:
        OSError: as `read_at` does.
    """
    size = min(size, os.fstat(source.fileno()).st_size)
    for at in range(0, size, _PIECE):
        write_at(new, at, read_at(source, at, min(_PIECE, size - at)))


def _require_regular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise FormatError(f"{os.fspath(path)} is {kind}: name a regular file")
