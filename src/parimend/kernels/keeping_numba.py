"""Loops that are compiled once and kept for later processes, where that can be.

Numba keeps what it compiled in files, and raises where these cannot be read or written: on a disk
that is full or damaged, or after a power failure, when files are to be checked and repaired. It
runs what it reads, whatever became of it, and does not notice where other files changed from which
a loop was compiled. So a digest is kept beside each loop. Where something is wrong, the loop is
compiled again, which takes some seconds and gives the same.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba as nb
import numpy.ma  # noqa: F401  numba's loops load it when they are called
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from parimend import hashing
from parimend.atomic import in_turn
from parimend.errors import SpecError
from parimend.kernels import ALONE

if nb.config.DISABLE_JIT:
    raise SpecError(
        "NUMBA_DISABLE_JIT is set, and loops on words only work compiled: unset it, and run again"
    )


_PATIENCE = 60.0  # seconds, with another process that compiles; no loop takes so long
_given_up = set[str]()  # files of which one took longer: it has been stopped, perhaps


def kept(**options: Any) -> Any:
    """Compile a loop when it is first called, and keep it; with options of `numba.njit`.

    While it runs, the interpreter goes on with other threads: they serve, or train.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        loop = nb.njit(nogil=True, **options)(function)
        loop.__class__ = _Loop
        with suppress(RuntimeError):  # no folder for it may be written, as in many containers
            loop._cache = _Forgiving(function)
        return loop

    return decorate


class _Loop(CPUDispatcher):  # type: ignore[misc]
    """A loop that processes which start together compile once, and that can be interrupted."""

    def compile(self, signature: Any) -> Any:
        """What another process compiles now is waited for, and found kept.

        The compiler's lock comes first: a thread that waited for it might be waited for by others.
        """
        is_kept = isinstance(self._cache, _Forgiving)
        turn = _turn(self.py_func.__code__.co_filename) if is_kept else nullcontext()
        with ALONE, global_compiler_lock, turn:
            return super().compile(signature)

    def __call__(self, *args: Any) -> Any:
        """Raises what a handler of signals raised while it ran, such as an interrupt: numba returns
        its result nevertheless, which Python takes for a fault of the interpreter.
        """
        try:
            return super().__call__(*args)
        except SystemError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None


_mine = set[str]()  # files whose loops this process compiles; it has the compiler's lock then


@contextmanager
def _turn(file: str) -> Iterator[None]:
    """Be the only process that compiles loops of a file. These may call each other."""
    if file in _mine:
        yield
        return
    began = time.monotonic()
    with in_turn(file, 0.0 if file in _given_up else _PATIENCE):
        if time.monotonic() - began > _PATIENCE:
            _given_up.add(file)
        _mine.add(file)
        try:
            yield
        finally:
            _mine.remove(file)


class _Digested(CompileResultCacheImpl):  # type: ignore[misc]
    """What is kept of a loop: what was compiled, as bytes, and their digest."""

    def reduce(self, compiled: Any) -> tuple[bytes, bytes]:
        content = dumps(super().reduce(compiled))
        return _digest(content), content

    def rebuild(self, context: Any, kept: tuple[bytes, bytes]) -> Any:
        digest, content = kept
        if _digest(content) != digest:
            raise ValueError("it is damaged, or was compiled from other sources")
        return super().rebuild(context, pickle.loads(content))


def _digest(content: bytes) -> bytes:
    return sha256(_sources() + content).digest()


@cache
def _sources() -> bytes:
    """A digest of all that loops are compiled from."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(hashing.__file__)]
    return b"".join(sha256(file.read_bytes()).digest() for file in files)


class _Forgiving(FunctionCache):  # type: ignore[misc]
    """What cannot be read is compiled, and what cannot be written is not kept."""

    _impl_class = _Digested

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            compiled = super().load_overload(sig, target_context)
            # What says which file is for which arguments has no digest.
            if compiled is None or compiled.signature.args == normalize_signature(sig)[0]:
                return compiled
        except Exception:  # whatever senseless bytes lead to
            pass
        with suppress(OSError):
            self.flush()  # or nothing could be kept anew
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)
