"""What a run keeps from one step to the next, to put back what has changed: sums, or copies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import torch

from parimend.carriers import Request, Sidecar, choose
from parimend.outcomes import Change
from parimend.stores.model import ModelTensors
from parimend.training.copied import Copied, Copies
from parimend.training.resident import read
from parimend.training.watched import Watched, in_memory_order


class Remains(NamedTuple):
    """What is left of a difference.

    Attributes:
        changes: what was wrong and is right again, or the first elements of every tensor.
        total: how many elements were.
        lost: names of words that are wrong.
        unsure: names of tensors that someone may have changed, or damage; they are as found.
    """

    changes: Sequence[Change]
    total: int
    lost: Collection[str]
    unsure: AbstractSet[str]


class Kept:
    """Exact sums of tensors, in words of many, or copies: which differ, and what was there before.

    Args:
        tensors: by name; strided, on any devices.
        errors: number of wrong 32-bit words that can be put back; any number, from copies, if None.
        apart: names of tensors that are looked at more often. Those on the CPU are words of their
            own; on a device they would take launches of their own.

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

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        errors: int | None,
        apart: AbstractSet[str] = frozenset(),
    ) -> None:
        views: dict[str, torch.Tensor] = {}
        self._orders: dict[str, tuple[int, ...]] = {}
        # What is on one device follows each other, to be read together.
        for name in sorted(tensors, key=lambda name: str(tensors[name].device)):
            if tensors[name].numel():
                views[name], self._orders[name] = in_memory_order(tensors[name])
        self._store = ModelTensors(views)
        self._addresses = {name: view.data_ptr() for name, view in views.items()}
        self._copies = Copies(views) if errors is None else None
        request = Request(1 if errors is None else errors, Sidecar())
        alone = {n: view for n, view in views.items() if n in apart and view.device.type == "cpu"}
        others = {n: view for n, view in views.items() if n not in alone}
        self._watched: list[Watched | Copied] = [
            Watched(c, views) if self._copies is None else Copied(c, views, self._copies.held)
            for group in (alone, others)
            if group
            for c in choose(ModelTensors(group), request)
        ]

    @property
    def deferred(self) -> bool:
        """Whether all sums stay on a device, which has to be waited for to compare them."""
        return all(each.deferred for each in self._watched)

    def keep(self) -> None:
        """Take everything as it is now for right.

        Raises:
            torch.OutOfMemoryError: if a device has too little memory for its sums.
        """
        if self._copies is not None:
            self._copies.make()
        for each in self._watched:
            each.keep()

    def differing(
        self,
        norm: torch.Tensor | None = None,
        moved: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> tuple[list[Watched | Copied], float | None]:
        """The words that have changed, and the value of a norm, for which a device is not waited
        once more.

        Args:
            norm: () of any float dtype, on any device.
            moved: tensors that are elsewhere now.
            only: tensors whose words are looked at; all if None.
        """
        watched = [each for each in self._watched if not moved or self._is_there(each)]
        if only is not None:
            watched = [w for w in watched if any(part.name in only for part in w.word)]
        differ, size = read([each.differs() for each in watched], norm)
        return list(compress(watched, differ)), size

    def _is_there(self, watched: Watched | Copied) -> bool:
        """Whether the memory in which a word was is still there, to be compared on the host.

        Tensors that are elsewhere now may have left theirs to somebody else, or freed it.
        """
        held = self._store.held
        return not watched.deferred and all(
            held[part.name].data_ptr() == self._addresses[part.name] for part in watched.word
        )

    def put_back_(
        self, words: Sequence[Watched | Copied], others: AbstractSet[str] = frozenset()
    ) -> Remains:
        """Put words back that differ, as far as they can be.

        Args:
            words: that differ.
            others: tensors that someone may have changed on purpose; they stay as they are.
        """
        changes, total = list[Change](), 0
        lost, unsure = list[str](), set[str]()
        for each in words:
            word, found = each.word, each.put_back_(others)
            changes += map(self._told, found.changes)
            total += found.total
            if found.left is None and others & {part.name for part in word}:
                unsure |= {part.name for part in word}
            elif found.left is None or found.left - others:
                lost.append(word.name)
            else:
                unsure |= found.left
        return Remains(changes, total, lost, unsure)

    def _told(self, change: Change) -> Change:
        """A change with its index as the model counts."""
        places = dict(zip(self._orders[change.tensor], change.index, strict=True))
        return replace(change, index=tuple(places[d] for d in range(len(places))))
