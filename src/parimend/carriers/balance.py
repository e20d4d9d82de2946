"""A budget spent where it matters: some bits of the weights may have more of it than others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from parimend.arguments import whole_number
from parimend.errors import MismatchError, SpecError
from parimend.record import Record
from parimend.words.layout import Part, Word, whole


@dataclass(frozen=True, repr=False)
class Share(Record):
    """A protected word of its own: some bits of tensors, and what may be wrong in them.

    Attributes:
        errors: number of wrong 32-bit words that can be repaired, counted in these bits alone.
        word: whole tensors, each with the mask of the bits that belong to it.
    """

    errors: int
    word: Word

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", whole_number(self.errors, least=1))

    @property
    def masks(self) -> Mapping[str, int]:
        """By name of a tensor, which bits of its elements; 0 for all."""
        return {part.name: part.mask for part in self.word}


@dataclass(frozen=True, repr=False)
class Balance(Record):
    """Shares that no bit is in two of, and every bit of their tensors in one.

    Attributes:
        shares: as sealed words, in this order.

    Raises:
        SpecError: if a bit is in no share or in two, naming the tensor; or if there are no shares.

    Example:
        >>> w = whole("w", "BF16", (40, 30))
        >>> balance = Balance.of([w], [(200, {"w": 0xFF80}), (4, {"w": 0x007F})])
        >>> balance.errors, [share.word.name for share in balance.shares]
        (4, ['w (9 bits of each)', 'w (7 bits of each)'])
        >>> Balance.of([w], [(200, {"w": 0xFF80})])
        Traceback (most recent call last):
        parimend.errors.SpecError: the bits 0x7f of w are in no share: put every bit into one
    """

    shares: tuple[Share, ...]

    def __post_init__(self) -> None:
        if not self.shares:
            raise SpecError("a balance needs at least one share: budgets and bits of tensors")
        left: dict[str, int] = {}
        for part in self._parts:
            every = (1 << 8 * part.itemsize) - 1
            mine, free = part.mask or every, left.get(part.name, every)
            if mine & ~every:
                raise SpecError(f"{part.name} is {part.dtype}: it has no bits {mine & ~every:#x}")
            if twice := mine & ~free:
                raise SpecError(f"the bits {twice:#x} of {part.name} are in two shares")
            left[part.name] = free ^ mine
        for name, bits in left.items():
            if bits:
                raise SpecError(
                    f"the bits {bits:#x} of {name} are in no share: put every bit into one"
                )

    @classmethod
    def of(
        cls, tensors: Sequence[Part], shares: Sequence[tuple[int, Mapping[str, int]]]
    ) -> Balance:
        """A balance of budgets and masks by the names of whole tensors; 0 stands for all bits.

        Raises:
            SpecError: see the class; or if a share is of tensors that are not there.
        """
        there = {part.name for part in tensors if part.count}
        made = []
        for errors, masks in shares:
            if unknown := sorted(masks.keys() - there):
                raise SpecError(f"a share is of {unknown[0]}, which is not there, or is empty")
            parts = tuple(_of_bits(p, masks[p.name]) for p in tensors if p.name in masks)
            made.append(Share(errors, Word(parts)))
        return cls(tuple(made))

    @property
    def errors(self) -> int:
        """Any that many wrong words are repaired, whatever is wrong in them: the least budget."""
        return min(share.errors for share in self.shares)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors."""
        return tuple(dict.fromkeys(part.name for part in self._parts))

    @property
    def _parts(self) -> list[Part]:
        return [part for share in self.shares for part in share.word]

    def require_match(self, tensors: Sequence[Part]) -> None:
        """Check that it is a balance of these whole tensors.

        Raises:
            MismatchError: names the first tensor that is not there, or not as it was planned.
        """
        there = {part.name: part for part in tensors}
        for part in self._parts:
            found = there.get(part.name)
            if found is None:
                raise MismatchError(
                    f"the plan is of {part.name}, which is not there: make a plan for this model"
                )
            if found != whole(part.name, part.dtype, part.shape):
                raise MismatchError(
                    f"{part.name} is {found.dtype} {list(found.shape)}, but the plan was made for "
                    f"{part.dtype} {list(part.shape)}: make a plan for this model"
                )


def _of_bits(part: Part, mask: int) -> Part:
    """A whole tensor, of some bits; a mask of all bits is 0."""
    every = (1 << 8 * part.itemsize) - 1
    return replace(part, mask=0 if mask == every else mask)
