"""What every store of tensors does."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.stores.spread import Spread, Whole
from parimend.words.layout import LINE, Part

if TYPE_CHECKING:
    import torch

CHUNK = 1 << 22
"""Bytes that are looked at together, a multiple of 64."""


class Tensors(ABC):
    """Named tensors, wherever they live.

    A store says what there is, reads bytes and writes some; the rest is for stores that are in
    several places or in several hands.
    """

    spread: Spread = Whole()
    """How elements are spread over processes. Of a store that is spread, all methods are
    collective: all processes call them, with the same arguments."""
    live: ClassVar[bool] = False
    """Whether others may change the tensors at any time."""
    lock: AbstractContextManager[Any] = nullcontext()
    """Held by whoever puts weights back, from locating them to proving the result; re-entrant."""

    @abstractmethod
    def whole(self) -> Sequence[Part]:
        """Every tensor as one part, in a stable order."""

    @abstractmethod
    def read(self, part: Part) -> NDArray[np.uint8]:
        """The bytes of a part, row-major, little-endian: (count * item size,)."""

    @abstractmethod
    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        """Set elements of a part: (k,) offsets in the part (None: all), (k, item size) bytes."""

    def read_held(self, part: Part) -> NDArray[np.uint8]:
        """The bytes of those elements of a part that this process holds."""
        return self.read(part)

    def write_held(self, part: Part, values: NDArray[np.uint8]) -> None:
        """Set all elements of a part that this process holds: (k, item size) bytes."""
        self.write(part, None, values)

    def resident(self, part: Part) -> torch.Tensor | None:
        """The elements of a part, flat, if they are on another device than the CPU; else None."""
        return None


def subparts(part: Part, step: int | None = None) -> Iterator[Part]:
    """Cut a part into pieces of at most ``step`` elements, by default `CHUNK` bytes.

    By default all pieces but the last are whole lines of 64 bytes, as sums need them.
    """
    size = part.itemsize
    together = LINE // math.gcd(size, LINE)  # so many elements are whole lines
    step = CHUNK // (size * together) * together if step is None else step
    if part.count <= step:
        yield part
        return
    for start in range(0, part.count, step):
        yield replace(part, start=part.start + start, count=min(step, part.count - start))
