"""Other copies of a file: here, or wherever fsspec reaches."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from parimend.atomic import PathLike
from parimend.errors import FormatError, SourceError
from parimend.files.blocks import Range
from parimend.regular import open_regular, read_at, unreadable

_AT_A_TIME = 16  # requests
_SILENCE = 60.0  # seconds after which a server that says nothing is given up
_NO_RANGES = (
    "cannot be read in ranges, as its server sends whole files only: download it and name the "
    "download instead"
)
_EXTRA = "pip install 'parimend[remote]' installs what https:// and hf:// need"


class Source(ABC):
    """Another copy of a file, which may be damaged, too.

    Args:
        name: its path or address.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._pool = ThreadPoolExecutor(_AT_A_TIME)

    def close(self) -> None:
        """Read no more of it."""
        self._pool.shutdown(cancel_futures=True)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Bytes of the copy, several ranges side by side; short where it ends early.

        Raises:
            SourceError: if it cannot be read, or not in ranges.
        """
        return list(self._pool.map(self._checked, ranges))

    def _checked(self, wanted: Range) -> bytes:
        begin, end = wanted
        data = self._read(begin, end)
        if len(data) > end - begin:
            raise SourceError(f"{self.name} {_NO_RANGES}")
        return data

    def is_same(self, file: BinaryIO) -> bool:
        """Whether it is this very file, and no copy of it."""
        return False

    @property
    def unreadable(self) -> int:
        """Bytes that the disk did not give, and for which zeros were read."""
        return 0

    @abstractmethod
    def _read(self, begin: int, end: int) -> bytes:
        """The bytes of one range; called from several threads."""


class _Here(Source):
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        try:
            self._file = open_regular(path, salvage=True)
        except FormatError as error:
            raise SourceError(str(error)) from None
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        super().close()
        self._file.close()

    def is_same(self, file: BinaryIO) -> bool:
        return os.path.samestat(os.fstat(self._file.fileno()), os.fstat(file.fileno()))

    @property
    def unreadable(self) -> int:
        return sum(end - begin for begin, end in unreadable(self._file))

    def _read(self, begin: int, end: int) -> bytes:
        try:
            end = min(end, os.fstat(self._file.fileno()).st_size)
            return read_at(self._file, begin, max(end - begin, 0)).tobytes()
        except OSError as error:
            raise SourceError(f"{self.name} cannot be read: {error.strerror}") from None


class _There(Source):
    """A file that fsspec opens."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        try:
            from fsspec.core import url_to_fs

            self._files, self._path = url_to_fs(url, **_options(url))
        except ImportError as error:
            raise SourceError(f"{url} cannot be read: {error}; {_EXTRA}") from None
        except ValueError as error:
            raise SourceError(f"{url} cannot be read: {error}") from None
        self._mine = threading.local()

    def _read(self, begin: int, end: int) -> bytes:
        try:
            file = self._opened()
            file.seek(begin)
            return bytes(file.read(end - begin))
        except FileNotFoundError as error:
            raise SourceError(f"{self.name}: {_why_none(error)}") from None
        except ValueError:  # what fsspec says of a server that does not know ranges
            raise SourceError(f"{self.name} {_NO_RANGES}") from None
        except Exception as error:  # every library behind it has its own
            raise SourceError(
                f"{self.name} cannot be read: {str(error) or type(error).__name__}; what was "
                "fetched is kept, and the same command goes on from there"
            ) from error

    def _opened(self) -> Any:
        """A file of this thread's own, as it has a place where it reads."""
        if not hasattr(self._mine, "file"):
            self._mine.file = self._files.open(self._path, "rb", cache_type="none")
        return self._mine.file


def _options(url: str) -> dict[str, Any]:
    """What fsspec is told beside an address."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    patience = ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return {"client_kwargs": {"timeout": patience}}


def _why_none(error: FileNotFoundError) -> str:
    """Why there is no file, in words: fsspec says so whatever happens to a request."""
    cause = error.__cause__
    if isinstance(cause, TimeoutError):
        return f"the server said nothing for {_SILENCE:g} seconds"
    status = getattr(cause, "status", None)
    if status is None and cause is not None:
        return f"the server cannot be reached: {cause}"
    return f"the server answers {status}" if status not in (None, 404) else "there is no such file"


def open_source(where: PathLike, name: str, is_set: bool) -> Source:
    """Another copy of a file.

    Args:
        where: its path or address; or a folder, or an address that ends in ``/``, in which it has
            the same name.
        name: of the file.
        is_set: whether it is one of several, so that ``where`` must be a folder.

    Raises:
        SourceError: if it is not there, or cannot be opened.
    """
    text = os.fspath(where)
    if "://" in text:
        if is_set and not text.endswith("/"):
            text += "/"
        if text.endswith("/"):
            text += quote(name) if text.startswith(("http://", "https://")) else name
        return _There(text)
    path = Path(text)
    return _Here(path / name if is_set or path.is_dir() else path)
