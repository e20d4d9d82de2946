"""Guards in compiled graphs, which can hold strings and tensors, but no guard.

There a guard is an operator with the guard's key. Keys are known to the whole process, as operators
are; they hold no guard alive.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Protocol

import torch
from torch import Tensor

from parimend.guards.journal import Parameters


class Inspector(Protocol):
    """What looks at outputs."""

    def inspect(self, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        """See `parimend.guards.layer.LayerGuard.inspect`."""


_ADMITTED: weakref.WeakValueDictionary[str, Inspector] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


def admit(inspector: Inspector) -> str:
    """Lets graphs call it; its key, which no other has or will have."""
    key = str(next(_NUMBERS))
    _ADMITTED[key] = inspector
    return key


def dismiss(key: str) -> None:
    """From now on graphs pass it by."""
    _ADMITTED.pop(key, None)


def inspect_(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: str) -> None:
    """Puts an inspection into the graph that is being compiled."""
    # Detached: what it writes are the values that should have been there all along.
    tensors = (None if t is None else t.detach() for t in (y, x, weight, bias))
    torch.ops.parimend.inspect_(*tensors, key)


def _inspect(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: str) -> None:
    inspector = _ADMITTED.get(key)
    if inspector is not None:  # otherwise removed, and the graph not compiled again yet
        inspector.inspect(y, x, lambda: (weight, bias))


# Not `torch.library.custom_op`: its wrapping costs 100 us a call.
_LIBRARY = torch.library.Library("parimend", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "inspect_(Tensor(a!) y, Tensor x, Tensor weight, Tensor? bias, str key) -> ()"
)
_LIBRARY.impl("inspect_", _inspect, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("parimend::inspect_", lambda *args: None, lib=_LIBRARY)
