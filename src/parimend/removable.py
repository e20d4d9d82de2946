"""Hooks on models, and handles that take them off again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self


class Hook:
    """A hook on a module that stays behind when the module is copied or pickled.

    A handle belongs to the module that it was made for. Copies (`copy.deepcopy`, `torch.save`,
    processes that are spawned) get `nothing` in its place: they carry no handle, and neither its
    locks nor its threads stand in their way.

    Example:
        >>> import copy
        >>> hooks = {0: Hook(print)}
        >>> hooks[0]("called")
        called
        >>> copy.deepcopy(hooks)[0] is nothing
        True
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _left_behind, ()


def nothing(*args: Any, **kwargs: Any) -> None:
    """What a copied module calls where the original has a `Hook`."""


def _left_behind() -> Callable[..., None]:
    return nothing


class Removable(ABC):
    """Something with hooks, as a context manager: leaving it removes them."""

    @abstractmethod
    def remove(self) -> None:
        """Take the hooks off; the weights stay as they are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
