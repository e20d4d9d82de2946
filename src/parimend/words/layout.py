"""Which tensors make a word, and in which order.

A layout is plain data: it names tensors and ranges of their elements, so that it can be sealed and
used again on a live model, a state dict or a file.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import one_of
from parimend.dtypes import named
from parimend.errors import WordError
from parimend.lasting import cached_property
from parimend.record import Record
from parimend.words.bits import WORD

LINE = 64
"""Bytes that the words of a part are filled up to: 16 words."""

Per = Literal["model", "tensor", "row"]


@dataclass(frozen=True, repr=False)
class Part(Record):
    """A range of elements of one tensor, in row-major order, or some of their bits.

    Attributes:
        name: of the tensor.
        dtype: as safetensors names it (F32, BF16, I8, ...).
        shape: of the whole tensor.
        start: first element.
        count: number of elements.
        exponent: of the grid step, for words on a grid.
        mask: which bits of every element it stands for, as a little-endian number; 0 for all.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    count: int
    exponent: int = 0
    mask: int = 0

    @cached_property
    def itemsize(self) -> int:
        """Bytes of an element.

        Raises:
            WordError: for an unknown dtype, or one whose elements are no whole bytes.
        """
        return named(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements.

        >>> whole("w", "BF16", (2, 3)).nbytes
        12
        """
        return self.count * self.itemsize

    @property
    def bits(self) -> int:
        """Number of bits of every element that it stands for.

        >>> Part("w", "BF16", (2, 3), 0, 6).bits, Part("w", "BF16", (6,), 0, 6, mask=0x7F80).bits
        (16, 8)
        """
        return self.mask.bit_count() or 8 * self.itemsize

    @property
    def line(self) -> int:
        """Number of elements that are whole lines of 64 bytes, the least there is.

        >>> whole("w", "F32", (9,)).line, whole("w", "Q4_0", (9,)).line
        (16, 32)
        """
        return LINE // math.gcd(self.itemsize, LINE)

    @property
    def label(self) -> str:
        """For messages: the name of the tensor, and which elements, if not all.

        >>> [Part("w", "F32", (9, 5), *some).label for some in ((0, 45), (10, 5), (10, 15), (3, 9))]
        ['w', 'w[2]', 'w[2:5]', 'w.flat[3:12]']
        """
        below = math.prod(self.shape[1:])
        if self.count == below * (self.shape or (1,))[0]:
            return self.name
        if self.start % below or self.count % below:
            return f"{self.name}.flat[{self.start}:{self.start + self.count}]"
        first, last = self.start // below, (self.start + self.count) // below
        return f"{self.name}[{first}{f':{last}' * (last - first > 1)}]"

    def index(self, offset: int) -> tuple[int, ...]:
        """The index in the tensor of the part's element ``offset``.

        >>> Part("w", "F32", (3, 4), 4, 8).index(5)
        (2, 1)
        """
        flat = self.start + offset
        index: list[int] = []
        for size in reversed(self.shape):
            flat, i = divmod(flat, size)
            index.append(i)
        return tuple(reversed(index))


def whole(name: str, dtype: str, shape: Sequence[int]) -> Part:
    """All of a tensor as one part."""
    return _whole(name, dtype, tuple(shape))


@lru_cache(maxsize=1 << 16)
def _whole(name: str, dtype: str, shape: tuple[int, ...]) -> Part:
    """Kept, since models are looked at again and again."""
    return Part(name, dtype, shape, 0, math.prod(shape))


def bytes_in(parts: Iterable[Part]) -> int:
    """How many whole bytes the bits of some parts are.

    >>> from dataclasses import replace
    >>> w = Part("w", "F32", (10,), 0, 10)
    >>> bytes_in([w]), bytes_in([replace(w, mask=1), replace(w, mask=0xFE)])
    (40, 10)
    """
    return sum(part.count * part.bits for part in parts) // 8


def elements_in(parts: Iterable[Part]) -> int:
    """How many elements some parts are; where a part has some of their bits, so much of each.

    >>> from dataclasses import replace
    >>> w = Part("w", "F32", (10,), 0, 10)
    >>> elements_in([w]), elements_in([replace(w, mask=1), replace(w, mask=0xFFFFFFFE)])
    (10, 10)
    """
    total, of_some = 0, Fraction(0)
    for part in parts:
        if part.mask:
            of_some += Fraction(part.count * part.bits, 8 * part.itemsize)
        else:
            total += part.count
    return int(total + of_some)


def padded_words(*parts: Part) -> int:
    """Number of 32-bit words of the bytes of parts, each padded to whole lines of 16 words.

    >>> padded_words(whole("w", "BF16", (5, 7)), whole("b", "F32", (16,)))
    48
    """
    return sum(-(-part.nbytes // LINE) * (LINE // WORD) for part in parts)


@dataclass(frozen=True, repr=False)
class Word(Record):
    """Elements of tensors one after the other, which belong to one code.

    Attributes:
        parts: in order, none of them empty. Positions count the elements of all of them.

    Example:
        >>> word = Word((whole("fc.weight", "F32", (2, 3)), whole("fc.bias", "F32", (2,))))
        >>> word.elements, word.name, word.locate(7)
        (8, 'fc.weight .. fc.bias', (1, 1))
        >>> [piece.tolist() for piece in word.split(np.arange(8))]
        [[0, 1, 2, 3, 4, 5], [6, 7]]
    """

    parts: tuple[Part, ...]

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Where every part ends."""
        return tuple(accumulate(part.count for part in self.parts))

    @property
    def starts(self) -> tuple[int, ...]:
        """Where every part begins."""
        return (0, *self.ends[:-1])

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.ends[-1] if self.parts else 0

    @cached_property
    def padded(self) -> int:
        """Number of 32-bit words of its bytes, every part filled up to whole lines of 16."""
        return padded_words(*self.parts)

    def elements_within(self, words: int) -> int:
        """How many elements are wrong at most where ``words`` words of 32 bits are.

        >>> [Word((whole("w", x, (99,)),)).elements_within(10) for x in ("F64", "F32", "I8")]
        [10, 10, 40]
        """
        return words * max(1, *(WORD // part.itemsize for part in self.parts))

    def words_within(self, words: int) -> int:
        """How many of its own words of 32 bits are wrong at most where so many of its tensors' are:
        its own begin with every part, which may be within one of the tensor.

        >>> [Word((Part("w", "BF16", (9, 5), 5 * i, 5),)).words_within(10) for i in (1, 2)]
        [20, 10]
        """
        within = (p.start * p.itemsize % WORD and p.nbytes > WORD for p in self.parts)
        return 2 * words if any(within) else words

    @cached_property
    def lines(self) -> tuple[int, ...]:
        """The first of these words of every part."""
        return tuple(accumulate((padded_words(part) for part in self.parts[:-1]), initial=0))

    @cached_property
    def odd(self) -> tuple[tuple[int, int], ...]:
        """Sizes in bytes of its tensors that are no whole words of 32 bits, and how many of each
        there are, where there are several tensors: each has a last word that is not full.

        >>> tensors = [whole(name, "U8", (size,)) for name, size in (("a", 8), ("b", 1), ("c", 1))]
        >>> Word(tuple(tensors)).odd
        ((1, 2),)
        """
        sizes = Counter(part.nbytes for part in self.parts if part.nbytes % WORD)
        return tuple(sorted(sizes.items())) if len(self.parts) > 1 else ()

    @cached_property
    def narrow(self) -> tuple[tuple[int, int], ...]:
        """Words of 32 bits with fewer of its own, at the end of tensors and in planes: how many
        bits, and how many such words there are.

        >>> Word((whole("w", "BF16", (5,)), Part("v", "F32", (9,), 0, 9, mask=1 << 30))).narrow
        ((1, 9), (16, 1))
        """
        found = Counter[int]()
        for part in self.parts:
            if not part.mask and part.nbytes % WORD == 0:
                continue
            size = part.itemsize
            each = (part.mask or (1 << 8 * size) - 1).to_bytes(size, "little")
            together = WORD // math.gcd(size, WORD)  # elements that are whole words
            times, rest = divmod(part.count, together)
            for data, count in ((each * together, times), (each * rest, 1)):
                for at in range(0, len(data), WORD):
                    found[int.from_bytes(data[at : at + WORD], "little").bit_count()] += count
        return tuple(sorted((bits, n) for bits, n in found.items() if n and 0 < bits < 8 * WORD))

    def bits_beyond(self, words: int) -> int:
        """How many bits of its own some ``words`` of 32 bits have, at least, of any more that are
        wrong: all but the narrowest.

        >>> scales = tuple(whole(name, "F16", ()) for name in "abc")
        >>> Word((*scales, whole("w", "F32", (9,)))).bits_beyond(4)
        96
        """
        if self.words_within(1) > 1:  # of a tensor's words, whose parts are in words of its own
            return words * 8 * min(part.itemsize for part in self.parts)
        bits: list[int] = []
        for each, count in (*self.narrow, (8 * WORD, words + 1)):
            bits += [each] * min(count, words + 1 - len(bits))
        return sum(bits[1:])

    @cached_property
    def masked(self) -> bool:
        """Whether it has only some of the bits of an element."""
        return any(part.mask for part in self.parts)

    @property
    def tensors(self) -> str:
        """For messages: the tensor, or the first and last of several."""
        return _first_and_last(self.parts[0].name, self.parts[-1].name)

    @cached_property
    def name(self) -> str:
        """For messages: `tensors`, with the elements and the bits, if it is not all of them.

        >>> Word((Part("w", "F32", (3,), 0, 3, mask=0xC0000000),)).name
        'w (2 bits of each)'
        >>> split([whole("fc.weight", "F32", (2, 3)), whole("fc.bias", "F32", (2,))], "row")[1].name
        'fc.weight[1] .. fc.bias[1]'
        """
        name = _first_and_last(self.parts[0].label, self.parts[-1].label)
        if not self.masked:
            return name
        fewest, most = min(p.bits for p in self.parts), max(p.bits for p in self.parts)
        bits = f"{fewest} to {most} bits" if fewest < most else f"{most} bit{'s' * (most > 1)}"
        return f"{name} ({bits} of each)"

    def locate(self, position: int) -> tuple[int, int]:
        """The number of the part that an element is in, and its offset there."""
        number = bisect_right(self.ends, position)
        return number, position - self.starts[number]

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """An array of one value for every element, cut into those of the parts."""
        return np.split(values, self.ends[:-1])


def _first_and_last(first: str, last: str) -> str:
    return first if first == last else f"{first} .. {last}"


def split(tensors: Iterable[Part], per: Per) -> list[Word]:
    """Group whole tensors into words.

    Args:
        tensors: whole tensors.
        per: ``model``, one word over everything; ``tensor``, one each; ``row``, one for each index
            of the first dimension of a tensor that has several, for a weight's output row with the
            element of its bias (same prefix). Other tensors are words of their own.

    Raises:
        WordError: for another ``per``.

    Example:
        >>> w, b = whole("fc.weight", "F32", (2, 3)), whole("fc.bias", "F32", (2,))
        >>> [[(p.name, p.start, p.count) for p in word] for word in split([w, b], "row")]
        [[('fc.weight', 0, 3), ('fc.bias', 0, 1)], [('fc.weight', 3, 3), ('fc.bias', 1, 1)]]
    """
    parts = [part for part in tensors if part.count]
    one_of(per, "per", ("model", "tensor", "row"), error=WordError)
    if per == "model":
        return [Word(tuple(parts))] if parts else []
    if per == "tensor":
        return [Word((part,)) for part in parts]
    by_name = {part.name: part for part in parts}
    rows: list[Word] = []
    taken: set[str] = set()
    for part in parts:
        if len(part.shape) < 2:
            continue
        outputs, bias = part.shape[0], None
        if part.name.endswith("weight"):
            bias = by_name.get(part.name.removesuffix("weight") + "bias")
        if bias is not None and bias.shape != (outputs,):
            bias = None
        taken |= {part.name} | ({bias.name} if bias else set())
        width = part.count // outputs
        for row in range(outputs):
            word = [_range(part, row * width, width)]
            if bias is not None:
                word.append(_range(bias, row, 1))
            rows.append(Word(tuple(word)))
    return rows + [Word((part,)) for part in parts if part.name not in taken]


def _range(part: Part, start: int, count: int) -> Part:
    """Some elements of the tensor of a part; rows may be many, and `replace` takes its time."""
    return Part(part.name, part.dtype, part.shape, start, count, part.exponent, part.mask)
