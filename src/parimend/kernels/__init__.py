"""Every compiled loop, and what runs on devices other than the CPU.

A file holds one operation for one kind of hardware, ``<operation>_<numba|torch>.py``; another kind
is one more file. Kernels know arrays and numbers, never codes, words or models, so everything may
build on them. Where an operation exists for several kinds, `on` picks by device; a test compares
each with a plain oracle.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def on(operation: str, device: str) -> ModuleType:
    """The kernels of an operation for a type of device, loaded when they are first used.

    Args:
        operation: what the names of the files begin with.
        device: a type of device, as torch names it.

    Example:
        >>> on("modular", "cuda").__name__
        'parimend.kernels.modular_torch'
    """
    kind = "numba" if device == "cpu" else "torch"
    return import_module(f"{__name__}.{operation}_{kind}")
