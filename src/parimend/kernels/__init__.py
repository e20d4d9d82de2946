"""Every compiled loop, and what runs on devices other than the CPU.

A file holds one operation for one kind of hardware, ``<operation>_<numba|torch|triton>.py``;
another kind is one more file. ``<operation>.py`` beside them has the numbers that all kinds and
their users know. Kernels know arrays and numbers, never codes, words or models, so
everything may build on them. Where an operation exists for several kinds, `on` picks by device; a
test compares each with a plain oracle.
"""

from __future__ import annotations

import logging  # noqa: F401  its lock, which a compiler takes, is to be taken after ours
import os
import re
import sys
import threading
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from parimend.warning import warn

ALONE = threading.RLock()
"""Held by the thread that loads or compiles loops, and wherever a process is forked: in the new one
there would be no other thread to end that, and nobody else may begin it."""
os.register_at_fork(
    before=ALONE.acquire, after_in_parent=ALONE.release, after_in_child=ALONE.release
)


def on(operation: str, device: str = "cpu") -> ModuleType:
    """The kernels of an operation for a type of device, loaded when they are first used.

    Everything else asks for them here: a compiler takes longer to load than a file to check.

    Args:
        operation: what the names of the files begin with.
        device: a type of device, as torch names it.

    Example:
        >>> on("modular", "cuda").__name__
        'parimend.kernels.modular_torch'
    """
    if device == "cpu":
        return _first(operation, "numba")
    if device == "cuda" and _has_triton():
        return _first(operation, "triton", "torch")
    return _first(operation, "torch")


@cache
def _first(operation: str, *kinds: str) -> ModuleType:
    """The first of some kinds of kernels that there is; sought once, as steps and decoders ask."""
    names = (f"{__name__}.{operation}_{kind}" for kind in kinds)
    with ALONE:
        return import_module(next(name for name in names if find_spec(name)))


def loaded() -> bool:
    """Whether compiled loops are loaded already; the first ones take most of a second."""
    return "numba" in sys.modules


@cache
def _has_triton() -> bool:
    """Whether Triton is there (the extra ``gpu``), and not so old that kernels need not work."""
    if find_spec("triton") is None:
        return False
    try:
        version = import_module("triton").__version__
    except Exception as error:  # whatever a library that does not fit this machine may raise
        why = f"{type(error).__name__}: {error}"
        warn(f"Triton cannot be loaded, so operations of PyTorch take its place ({why})")
        return False
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (3, 2)
