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

from parimend.stores.spread import Spread
from parimend.words.layout import Part

if TYPE_CHECKING:
    import torch

CHUNK = 1 << 22
"""Bytes that are looked at together, a multiple of 64."""


class Tensors(ABC):
    """Named tensors, wherever they live.

    A store says what there is, reads bytes and writes some (`whole`, `_read`, `_write`); the rest
    is for stores that are in several places or in several hands. Hooks see all bits of elements.
    What is read of a part with a mask has zeros for the others, and what is written keeps them.
    """

    spread = Spread()
    """How elements are spread over processes. Of a store that is spread, all methods are
    collective: all processes call them, with the same arguments."""
    live: ClassVar[bool] = False
    """Whether others may change the tensors at any time."""
    threads: int | None = None
    """Threads that read at the same time, at most; None for one on each core."""
    lock: AbstractContextManager[Any] = nullcontext()
    """Held by whoever puts weights back, from locating them to proving the result; re-entrant."""

    @abstractmethod
    def whole(self) -> Sequence[Part]:
        """Every tensor as one part, in a stable order."""

    def read(self, part: Part) -> NDArray[np.uint8]:
        """The bytes of a part, row-major, little-endian: (count * item size,)."""
        data = self._read(part)
        return masked(data, part) if part.mask else data

    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        """Set elements of a part: (k,) offsets in the part (None: all), (k, item size) bytes."""
        if part.mask:
            pieces = [part] if elements is None else _each(part, elements)
            values = _merged(np.concatenate([self._read(p) for p in pieces]), values, part)
        self._write(part, elements, values)

    def read_held(self, part: Part) -> NDArray[np.uint8]:
        """The bytes of those elements of a part that this process holds."""
        data = self._read_held(part)
        return masked(data, part) if part.mask else data

    def share(self, part: Part) -> NDArray[np.uint8]:
        """The bytes of a part, with zeros for elements that other processes hold.

        What all processes give adds up to `read`. Not collective.
        """
        return self.read(part)

    def write_held(self, part: Part, values: NDArray[np.uint8]) -> None:
        """Set all elements of a part that this process holds: (k, item size) bytes."""
        if part.mask:
            values = _merged(self._read_held(part), values, part)
        self._write_held(part, values)

    def is_elsewhere(self, part: Part) -> bool:
        """Whether a part is on another device than the CPU, and `resident` gives it."""
        return False

    def resident(self, part: Part) -> torch.Tensor | None:
        """The elements of a part, flat, if they are on another device than the CPU; else None.

        Of a part with a mask they are bytes.
        """
        elements = self._resident(part)
        if elements is None or not part.mask:
            return elements
        import torch

        cells = elements.view(torch.uint8).view(-1, part.itemsize)
        pattern = torch.tensor(list(_bytes(part)), dtype=torch.uint8, device=cells.device)
        return (cells & pattern).flatten()

    @abstractmethod
    def _read(self, part: Part) -> NDArray[np.uint8]:
        """`read`, with all bits."""

    @abstractmethod
    def _write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        """`write`, with all bits."""

    def _read_held(self, part: Part) -> NDArray[np.uint8]:
        """`read_held`, with all bits."""
        return self._read(part)

    def _write_held(self, part: Part, values: NDArray[np.uint8]) -> None:
        """`write_held`, with all bits."""
        self._write(part, None, values)

    def _resident(self, part: Part) -> torch.Tensor | None:
        """`resident`, with all bits."""
        return None

    def apart(self, part: Part) -> int:
        """In how many words of a part the bytes are, at most, that are 32 bits in a row here."""
        return 1

    def copies(self, part: Part) -> bool:
        """Whether what `read`, or `resident`, gives takes memory of its own."""
        return True


def masked(data: NDArray[np.uint8], part: Part) -> NDArray[np.uint8]:
    """Bytes of whole elements, with only those bits that a part with a mask stands for.

    >>> masked(np.full(4, 0xFF, np.uint8), Part("w", "I16", (9,), 0, 2, mask=0x8001)).tolist()
    [1, 128, 1, 128]
    """
    width = math.gcd(part.itemsize, 8)  # of blocks of other formats as far as it goes
    pattern = np.frombuffer(_bytes(part), f"<u{width}")
    return (data.view(pattern.dtype).reshape(-1, pattern.size) & pattern).reshape(-1).view(np.uint8)


def _bytes(part: Part) -> bytes:
    return part.mask.to_bytes(part.itemsize, "little")


def _each(part: Part, elements: NDArray[np.int64]) -> list[Part]:
    """Elements of a part as parts of their own."""
    return [replace(part, start=part.start + k, count=1) for k in elements.tolist()]


def _merged(now: NDArray[np.uint8], values: NDArray[np.uint8], part: Part) -> NDArray[np.uint8]:
    """(k, item size) bytes: the bits of a part from ``values``, the others as they are now."""
    new = np.ascontiguousarray(values).reshape(-1)
    return (now ^ masked(now ^ new, part)).reshape(-1, part.itemsize)


def subparts(part: Part, most: int | None = None) -> Iterator[Part]:
    """Cut a part into pieces of at most ``most`` bytes, by default `CHUNK`.

    All pieces but the last are whole lines of 64 bytes, as sums need them.
    """
    step = (most or CHUNK) // (part.itemsize * part.line) * part.line
    if part.count <= step:
        yield part
        return
    for start in range(0, part.count, step):
        yield replace(part, start=part.start + start, count=min(step, part.count - start))
