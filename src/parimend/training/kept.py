"""What a run keeps from one step to the next: sums of its tensors, to put back what has changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import torch

from parimend.carriers import Request, Sidecar, choose
from parimend.carriers.base import outcome_of, write_finding
from parimend.outcomes import Change, Verdict
from parimend.seal import CheckedWord
from parimend.stores.model import ModelTensors
from parimend.training.resident import read
from parimend.training.watched import Watched, in_memory_order

_CARRIER = Sidecar()


class Remains(NamedTuple):
    """What is left of a difference.

    Attributes:
        changes: what was wrong and is right again.
        lost: names of words that are wrong.
        unsure: names of tensors that someone may have changed, or damage.
    """

    changes: Sequence[Change]
    lost: Collection[str]
    unsure: AbstractSet[str]


class Kept:
    """Exact sums of tensors, in words of many: which differ, and what was there before.

    Args:
        tensors: by name; strided, on any devices.
        errors: number of wrong 32-bit words that can be put back.

    Raises:
        SpecError: for a budget that cannot be.

    Example:
        >>> weight = torch.ones(3, 4)
        >>> kept = Kept({"weight": weight}, errors=2)
        >>> kept.keep()
        >>> weight[1, 2] = 5.0
        >>> words, _ = kept.differing()
        >>> [change.index for change in kept.put_back_(words).changes], weight[1, 2].item()
        ([(1, 2)], 1.0)
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], errors: int) -> None:
        views: dict[str, torch.Tensor] = {}
        self._orders: dict[str, tuple[int, ...]] = {}
        # What is on one device follows each other, to be read together.
        for name in sorted(tensors, key=lambda name: str(tensors[name].device)):
            if tensors[name].numel():
                views[name], self._orders[name] = in_memory_order(tensors[name])
        self._store = ModelTensors(views)
        self._addresses = {name: view.data_ptr() for name, view in views.items()}
        self._watched = [Watched(c, views) for c in choose(self._store, Request(errors, _CARRIER))]

    @property
    def deferred(self) -> bool:
        """Whether all sums stay on a device, which has to be waited for to compare them."""
        return all(each.deferred for each in self._watched)

    def keep(self) -> None:
        """Take everything as it is now for right.

        Raises:
            torch.OutOfMemoryError: if a device has too little memory for its sums.
        """
        for each in self._watched:
            each.keep()

    def differing(
        self, norm: torch.Tensor | None = None, moved: Collection[str] = ()
    ) -> tuple[list[Watched], float | None]:
        """The words that have changed, and the value of a norm, for which a device is not waited
        once more.

        Args:
            norm: () of any float dtype, on any device.
            moved: tensors that are elsewhere now.
        """
        watched = [each for each in self._watched if not moved or self._is_there(each)]
        differ, size = read([each.differs() for each in watched], norm)
        return list(compress(watched, differ)), size

    def _is_there(self, watched: Watched) -> bool:
        """Whether the memory in which a word was is still there, to be compared on the host.

        Tensors that are elsewhere now may have left theirs to somebody else, or freed it.
        """
        held = self._store.held
        return not watched.deferred and all(
            held[part.name].data_ptr() == self._addresses[part.name] for part in watched.word
        )

    def put_back_(
        self, words: Sequence[Watched], others: AbstractSet[str] = frozenset()
    ) -> Remains:
        """Put words back that differ, as far as they can be.

        Args:
            words: that differ.
            others: tensors that someone may have changed on purpose; they stay as they are.
        """
        changes: list[Change] = []
        lost, unsure = list[str](), set[str]()
        for each in words:
            word = each.kept()
            put_back, wrong = self._put_back_(word, others)
            changes += put_back
            if wrong is None and others & {part.name for part in word.parts}:
                unsure |= {part.name for part in word.parts}
            elif wrong is None or wrong - others:
                lost.append(word.name)
            else:
                unsure |= wrong
        return Remains(changes, lost, unsure)

    def _put_back_(
        self, word: CheckedWord, others: AbstractSet[str]
    ) -> tuple[list[Change], set[str] | None]:
        """What was wrong in a word, and which tensors still are; None if that is not known."""
        changes: list[Change] = []
        finding = _CARRIER.find(word, self._store)
        if finding.verdict is Verdict.CORRECTABLE:
            ours = [each for each in finding.elements if word.parts[each[0]].name not in others]
            finding = finding._replace(elements=ours)
            write_finding(word, finding, self._store)
            changes += map(self._told, outcome_of(word, finding).changes)
            finding = _CARRIER.find(word, self._store)
        if finding.verdict is Verdict.CLEAN:
            return changes, set()
        if finding.verdict is not Verdict.CORRECTABLE:
            return changes, None
        return changes, {word.parts[number].name for number, *_ in finding.elements}

    def _told(self, change: Change) -> Change:
        """A change with its index as the model counts."""
        places = dict(zip(self._orders[change.tensor], change.index, strict=True))
        return replace(change, index=tuple(places[d] for d in range(len(places))))
