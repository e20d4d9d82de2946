"""Whether memory can be read: where it cannot, as where a mapped file was cut short, reading it
would end the process.
"""

from __future__ import annotations

import ctypes
import errno
import mmap

from parimend.errors import WordError

_POPULATE_READ = 22
"""MADV_POPULATE_READ, of Linux 5.14: brings pages in, and fails where they cannot be. An older
system, and others, say that they do not know it."""
_EHWPOISON = 133
"""Of pages whose memory failed."""

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def require_readable(name: str, begin: int, end: int) -> None:
    """Refuse memory whose reading would end the process by a signal (SIGBUS).

    Args:
        name: of the tensor that lies there.
        begin: address of its first byte.
        end: address after its last one.

    Raises:
        WordError: names the tensor.

    Example:
        >>> import numpy as np
        >>> cells = np.ones(5000)
        >>> require_readable("cells", cells.ctypes.data, cells.ctypes.data + cells.nbytes)
    """
    begin -= begin % mmap.PAGESIZE
    if _madvise(begin, end - begin, _POPULATE_READ) and ctypes.get_errno() in (
        errno.EFAULT,
        _EHWPOISON,
    ):
        raise WordError(
            f"{name} lies in memory that cannot be read any more, as of a mapped file that was cut "
            "short: load it again, into memory of its own"
        )
