"""Loops that are compiled once and kept for later processes, where that can be.

Numba keeps what it compiled in files, and raises where these cannot be read or written: on a disk
that is full or damaged, or after a power failure, when files are to be checked and repaired. Then a
loop is compiled again, which takes some seconds and gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba as nb
from numba.core.caching import FunctionCache

from parimend.errors import SpecError

if nb.config.DISABLE_JIT:
    raise SpecError(
        "NUMBA_DISABLE_JIT is set, and loops on words only work compiled: unset it, and run again"
    )


def kept(**options: Any) -> Any:
    """Compile a loop when it is first called, and keep it; with options of `numba.njit`."""

    def decorate(function: Callable[..., Any]) -> Any:
        loop = nb.njit(**options)(function)
        with suppress(RuntimeError):  # no folder for it may be written, as in many containers
            loop._cache = _Forgiving(function)
        return loop

    return decorate


class _Forgiving(FunctionCache):  # type: ignore[misc]
    """What cannot be read is compiled, and what cannot be written is not kept."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever senseless bytes lead to
            with suppress(OSError):
                self.flush()  # or nothing could be kept anew
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)
