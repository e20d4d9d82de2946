"""What a carrier finds in a word: a verdict, and the right bytes of the wrong elements.

These may be hundreds of thousands, so they are kept in arrays, and records are made when asked for.
A carrier may be told of memory that fails again and again, as `Place`s.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import eq
from typing import NamedTuple, TypeVar, overload

from parimend.outcomes import Change, Verdict
from parimend.showing import brief
from parimend.words.bits import WORD
from parimend.words.layout import Part

T = TypeVar("T")
Element = tuple[int, int, bytes, bytes]
"""A wrong element: (part number, offset in the part, received, original)."""


class Place(NamedTuple):
    """A 32-bit word of memory: the number of a part, and which one of its bytes' words."""

    part: int
    word: int

    def elements(self, part: Part) -> range:
        """The offsets of the elements that lie in it, or that it is a piece of.

        >>> from parimend.words.layout import whole
        >>> [list(Place(0, 3).elements(whole("w", dtype, (9,)))) for dtype in ("I16", "F64")]
        [[6, 7], [1]]
        """
        size = part.itemsize
        return range(WORD * self.word // size, min(-(-WORD * (self.word + 1) // size), part.count))


def places_of(parts: Sequence[Part], elements: Iterable[Element]) -> Iterator[Place]:
    """Where elements are wrong, in order, each place once."""
    last = None
    for number, offset, received, original in elements:
        first = offset * parts[number].itemsize
        for at in range(len(original)):
            place = Place(number, (first + at) // WORD)
            if received[at] != original[at] and place != last:
                yield (last := place)


class _Made(Sequence[T]):
    """Many items, each of which is made when it is asked for."""

    @abstractmethod
    def _item(self, i: int) -> T:
        """Item i, 0 <= i < len(self)."""

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[T]: ...
    def __getitem__(self, i: int | slice) -> T | Sequence[T]:
        every = range(len(self))
        return [self._item(k) for k in every[i]] if isinstance(i, slice) else self._item(every[i])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))


class WrongElements(_Made[Element]):
    """Many wrong elements, in little memory; added in the order of parts and offsets."""

    def __init__(self) -> None:
        self._places = array("q")  # part numbers, offsets and ends in turn
        self._received, self._original = bytearray(), bytearray()

    def add(self, number: int, offset: int, received: bytes, original: bytes) -> None:
        """Add an element; the other half of the last one, if it is the same."""
        if len(self) and (number, offset) == (self._places[-3], self._places[-2]):
            *_, before = self[-1]
            pairs = zip(original, received, before, strict=True)
            self._original[-len(before) :] = bytes(n if n != o else b for n, o, b in pairs)
            return
        self._received += received
        self._original += original
        self._places.extend((number, offset, len(self._received)))

    def __len__(self) -> int:
        return len(self._places) // 3

    def _item(self, i: int) -> Element:
        number, offset, end = self._places[3 * i : 3 * i + 3]
        begin = self._places[3 * i - 1] if i else 0
        return number, offset, bytes(self._received[begin:end]), bytes(self._original[begin:end])


class Finding(NamedTuple):
    """What a carrier read out of one word: the verdict, and the right bytes of wrong elements.

    ``elements`` are in the order of parts and offsets.
    """

    verdict: Verdict
    elements: Sequence[Element] = ()
    unexplained: int = 0
    reason: str = ""

    def __repr__(self) -> str:
        found = f"{len(self.elements)} elements, {self.unexplained} checks unexplained"
        return f"<Finding: {self.verdict}, {found}{self.reason and f', {brief(self.reason)}'}>"


class Changes(_Made[Change]):
    """Wrong elements as records."""

    def __init__(self, parts: Sequence[Part], elements: Sequence[Element]) -> None:
        self._parts, self._elements = parts, elements

    def __len__(self) -> int:
        return len(self._elements)

    def _item(self, i: int) -> Change:
        number, offset, received, original = self._elements[i]
        part = self._parts[number]
        return Change(part.name, part.index(offset), part.dtype, received, original, part.mask)
