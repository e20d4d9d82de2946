"""Handles that take hooks off a model again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Removable(ABC):
    """Something with hooks, as a context manager: leaving it removes them."""

    @abstractmethod
    def remove(self) -> None:
        """Take the hooks off; the weights stay as they are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
