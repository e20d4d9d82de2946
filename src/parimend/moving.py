"""Weights that are moved on purpose: whoever watches them is told, and takes it for no damage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol
from weakref import WeakSet


class Watcher(Protocol):
    """Something that puts weights back which change by themselves."""

    def watches(self, tensors: Iterable[Any]) -> bool:
        """Whether one of these tensors is watched."""

    def update(self) -> AbstractContextManager[None]:
        """What is done to the weights within it is right."""


watchers: WeakSet[Watcher] = WeakSet()
"""All that there are now."""


@contextmanager
def moving(tensors: Iterable[Any]) -> Iterator[None]:
    """Within it, the elements of some tensors are changed on purpose, by Parimend itself."""
    moved = list(tensors)
    with ExitStack() as stack:
        for watcher in tuple(watchers):
            if watcher.watches(moved):
                stack.enter_context(watcher.update())
        yield
