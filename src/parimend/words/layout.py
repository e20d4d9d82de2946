"""Which tensors make a word, and in which order.

A layout is plain data: it names tensors and ranges of their elements, so that it can be sealed and
used again on a live model, a state dict or a file.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from parimend.errors import WordError
from parimend.words.bits import item_size

_LINE = 64  # bytes

Per = Literal["model", "tensor", "row"]


@dataclass(frozen=True)
class Part:
    """A range of elements of one tensor, in row-major order.

    Attributes:
        name: of the tensor.
        dtype: as safetensors names it (F32, BF16, I8, ...).
        shape: of the whole tensor.
        start: first element.
        count: number of elements.
        exponent: of the grid step, for words on a grid.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    count: int
    exponent: int = 0

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
    return Part(name, dtype, tuple(shape), 0, math.prod(shape))


def padded_words(*parts: Part) -> int:
    """Number of 32-bit words of the bytes of parts, each padded to whole lines of 16 words.

    >>> padded_words(whole("w", "BF16", (5, 7)), whole("b", "F32", (16,)))
    48
    """
    sizes = [part.count * item_size(part.dtype) for part in parts]
    return sum(-(-size // _LINE) * (_LINE // 4) for size in sizes)


def split(tensors: Iterable[Part], per: Per) -> list[tuple[Part, ...]]:
    """Group whole tensors into words.

    Args:
        tensors: whole tensors.
        per: ``model``, one word over everything; ``tensor``, one each; ``row``, one per output row
            of every weight, with the element of the bias (same prefix) that belongs to it. Other
            tensors are words of their own.

    Raises:
        WordError: for another ``per``.

    Example:
        >>> w, b = whole("fc.weight", "F32", (2, 3)), whole("fc.bias", "F32", (2,))
        >>> [[(p.name, p.start, p.count) for p in word] for word in split([w, b], "row")]
        [[('fc.weight', 0, 3), ('fc.bias', 0, 1)], [('fc.weight', 3, 3), ('fc.bias', 1, 1)]]
    """
    parts = [part for part in tensors if part.count]
    if per == "model":
        return [tuple(parts)] if parts else []
    if per == "tensor":
        return [(part,) for part in parts]
    if per != "row":
        raise WordError(f"per must be 'model', 'tensor' or 'row', not {per!r}")
    by_name = {part.name: part for part in parts}
    rows: list[tuple[Part, ...]] = []
    taken: set[str] = set()
    for part in parts:
        if not part.name.endswith("weight") or len(part.shape) < 2:
            continue
        outputs = part.shape[0]
        bias = by_name.get(part.name.removesuffix("weight") + "bias")
        if bias is not None and bias.shape != (outputs,):
            bias = None
        taken |= {part.name} | ({bias.name} if bias else set())
        width = part.count // outputs
        for row in range(outputs):
            word = [replace(part, start=row * width, count=width)]
            if bias is not None:
                word.append(replace(bias, start=row, count=1))
            rows.append(tuple(word))
    return rows + [(part,) for part in parts if part.name not in taken]


def select(names: Iterable[str], only: Sequence[str] | None) -> list[str]:
    """Those of ``names`` that match one of the shell patterns ``only``; all if it is None.

    Raises:
        WordError: if a pattern matches nothing.
    """
    names = list(names)
    if only is None:
        return names
    if isinstance(only, str):  # a sequence of letters, to Python
        only = [only]
    for pattern in only:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise WordError(f"no tensor matches {pattern!r}; there are {shown or 'none'}")
    return [n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in only)]
