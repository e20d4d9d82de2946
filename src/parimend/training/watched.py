"""Words that are summed up after every step, of tensors that stay where they are.

What they are made of is found once. Nothing outside sees in which order the elements are summed
up, so a tensor is taken in the order in which its memory is, and is not copied for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.carriers import Chosen, Sidecar
from parimend.carriers.base import outcome_of, write_finding
from parimend.carriers.summing import add_up, joined, reads, sums, threads_for, viewed
from parimend.codes import SumsCode
from parimend.codes.sums import Sums
from parimend.kernels.pieces_torch import is_plain
from parimend.outcomes import Change, Verdict
from parimend.seal import CheckedWord
from parimend.stores.model import ModelTensors
from parimend.training.resident import Resident
from parimend.words.bits import WORD
from parimend.words.layout import Part, Word, padded_words

_CARRIER = Sidecar()
_SMALL = 1 << 15
"""Words of the largest tensors that are copied, to be summed up together: what that saves of each
takes as long as summing up so many."""


def in_memory_order(tensor: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """A tensor as its memory is, with its dimensions in the order there, and that order.

    In its own order where it has gaps. The memory is shared.

    >>> images = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    >>> view, order = in_memory_order(images)
    >>> view.shape, order, view.is_contiguous()
    (torch.Size([2, 4, 5, 3]), (0, 2, 3, 1), True)
    """
    tensor, same = tensor.detach(), tuple(range(tensor.dim()))
    if tensor.is_conj():
        tensor = tensor.conj()
    if tensor.is_neg():
        tensor = torch._neg_view(tensor)
    if tensor.is_contiguous():
        return tensor, same
    steps = tensor.stride()
    order = tuple(sorted(same, key=lambda d: (-steps[d], d)))
    view = tensor.permute(order)
    return (view, order) if view.is_contiguous() else (tensor, same)


class PutBack(NamedTuple):
    """What was put back in a word.

    Attributes:
        changes: elements that were wrong, or the first of them.
        total: how many were.
        left: names of the tensors that are wrong now; None if that is not known.
    """

    changes: Sequence[Change]
    total: int
    left: AbstractSet[str] | None


class Watched:
    """A word and its code, compared again and again with what it was.

    Args:
        chosen: the word and its code.
        tensors: those that it is made of, by name. They have to stay where they are.
        few: only a few sums are kept, see `SumsCode.few`: nothing can be put back with them.

    Attributes:
        deferred: whether its sums stay on a device, which has to be waited for to compare them.

    Example:
        >>> from parimend.carriers import Request, Sidecar, choose
        >>> tensors = {"a": torch.ones(30), "b": torch.ones(3, 4).T}
        >>> store = ModelTensors(tensors)
        >>> [chosen] = choose(store, Request(2, Sidecar()))
        >>> watched = Watched(chosen, tensors)
        >>> watched.keep()
        >>> watched.kept().target.tolist() == sums(chosen.code, chosen.word, store).tolist()
        True
        >>> watched.differs()
        False
        >>> tensors["a"][7] = 3.0
        >>> watched.differs()
        True
    """

    def __init__(
        self, chosen: Chosen, tensors: Mapping[str, torch.Tensor], few: bool = False
    ) -> None:
        code = chosen.code
        assert isinstance(code, SumsCode)
        self.code, self.word, self._few = code, chosen.word, few
        self._store = ModelTensors(tensors)
        # What is not plain is copied whenever it is read.
        self._planned = all(is_plain(tensors[part.name]) for part in self.word)
        self._there: list[tuple[torch.Tensor, int]] = []
        self._resident: Resident | None = None
        if self._planned:
            here = [p for p in self.word if not self._store.is_elsewhere(p)]
            self._threads = threads_for(padded_words(*here), torch.get_num_threads())
            most = viewed(self._store, self.word.padded, self._threads)
            self._here = _joined(self.word, self._store, most)
            located = zip(map(self._store.resident, self.word), self.word.lines, strict=True)
            there = [(elements, at) for elements, at in located if elements is not None]
            self._resident = Resident.of(code, there, few) if there else None
            self._there = there if self._resident is None else []
        self.deferred = self._resident is not None
        self._kept = code.zeros(few)

    def keep(self) -> None:
        """Take the word as it is now for right. On a device that is begun, and not waited for.

        Raises:
            torch.OutOfMemoryError: if a device has too little memory for its sums.
        """
        if self._resident is not None:
            self._resident.keep()
        self._kept = self._sums(self._few)

    def compare_with(self, other: Watched) -> None:
        """Take over what another one has kept, of tensors like these."""
        self._kept = other._kept
        if self._resident is not None and other._resident is not None:
            self._resident.compare_with(other._resident)

    def differs(self) -> bool | torch.Tensor:
        """Whether it is another one now, as far as a few of its sums tell; see `SumsCode.few`.

        Where the answer has to be waited for, () bool on the device that knows it.
        """
        few = self._kept if self._few else self.code.few(self._kept)
        if not np.array_equal(self._sums(few=True), few):
            return True
        return False if self._resident is None else self._resident.differ()

    def kept(self) -> CheckedWord:
        """The word with the sums that were kept."""
        there = self.code.zeros() if self._resident is None else self._resident.kept()
        here = self._kept % np.uint64(self.code.prime)  # they may be damaged as well
        return CheckedWord(self.code, self.word, self.code.add(here, there))

    def put_back_(self, others: AbstractSet[str] = frozenset()) -> PutBack:
        """Put back what is wrong in it, as far as its sums tell.

        Args:
            others: tensors that someone may have changed on purpose; they stay as they are.
        """
        word, changes = self.kept(), list[Change]()
        finding = _CARRIER.find(word, self._store)
        if finding.verdict is Verdict.CORRECTABLE:
            ours = [each for each in finding.elements if word.parts[each[0]].name not in others]
            finding = finding._replace(elements=ours)
            write_finding(word, finding, self._store)
            changes += outcome_of(word, finding).changes
            finding = _CARRIER.find(word, self._store)
        left = None
        if finding.verdict in (Verdict.CLEAN, Verdict.CORRECTABLE):
            left = {word.parts[number].name for number, *_ in finding.elements}
        return PutBack(changes, len(changes), left)

    def _sums(self, few: bool = False) -> NDArray[np.uint64]:
        """The sums of the word as it is now, less those of what is resident."""
        if not self._planned:
            return sums(self.code, self.word, self._store, few)
        work = (partial(joined.add, self.code) for joined in self._here)
        total = add_up(self.code, work, few, self._threads)
        if self._there:
            self.code.accumulate_resident(total, self._there)
        return total


class _Joined:
    """Tensors in memory that are summed up together, as their words: from ``start`` on."""

    def __init__(self, parts: Sequence[Part], start: int, store: ModelTensors) -> None:
        self.start = start
        data = [store.read(part) for part in parts]
        self._words = joined(parts, data)
        self._copies, at = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]](), 0
        if np.may_share_memory(self._words, data[0]):
            return  # one that is as it has to be
        room = self._words.view(np.uint8)
        for part, piece in zip(parts, data, strict=True):
            self._copies.append((room[at : at + piece.size], piece))
            at += WORD * padded_words(part)

    def add(self, code: SumsCode, total: Sums) -> None:
        """Add their sums, as they are now."""
        for room, piece in self._copies:
            room[:] = piece
        code.accumulate(total, self._words, self.start)


def _joined(
    word: Word, store: ModelTensors, most: Callable[[Part], int | None]
) -> Sequence[_Joined]:
    """All parts of a word that are on the CPU, small neighbours together."""
    found = []
    numbered = zip(word, word.lines, strict=True)
    for elsewhere, group in groupby(numbered, lambda item: store.is_elsewhere(item[0])):
        if not elsewhere:
            parts, starts = zip(*group, strict=True)
            found += [
                _Joined(some, at, store) for some, at in reads(Word(parts), starts[0], _SMALL, most)
            ]
    return found
