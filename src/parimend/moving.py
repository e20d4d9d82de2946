"""Weights that are moved on purpose: whoever watches them is told, and takes it for no damage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol
from weakref import WeakSet


class Watcher(Protocol):
    """Something that puts weights back which change by themselves."""

    def watches(self, tensors: Iterable[Any], as_sealed: bool) -> bool:
        """Whether what is done to these tensors would be taken for damage; see `moving`."""

    def update(self) -> AbstractContextManager[None]:
        """What is done to the weights within it is right."""


watchers: WeakSet[Watcher] = WeakSet()
"""All that there are now."""


@contextmanager
def moving(tensors: Iterable[Any], *, as_sealed: bool = False) -> Iterator[None]:
    """Within it, the elements of some tensors are changed on purpose, by Parimend itself.

    Args:
        tensors: that are changed.
        as_sealed: they are only put back as they were sealed.
    """
    moved = list(tensors)
    with ExitStack() as stack:
        for watcher in tuple(watchers):
            if watcher.watches(moved, as_sealed):
                stack.enter_context(watcher.update())
        yield
