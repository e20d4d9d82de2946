"""The sealed weights of a running model: which tensors they are now, and whether they still are."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from parimend.carriers import Carrier, carrier_of, refresh
from parimend.carriers.base import proven_by, require_match
from parimend.carriers.finding import Finding
from parimend.errors import MismatchError
from parimend.model import sealed_tensors
from parimend.outcomes import Proof
from parimend.scrub.gate import LOOK_AGAIN
from parimend.scrub.lanes import wait_for
from parimend.seal import Seal, SealedWord
from parimend.stores.aliasing import is_same, place_of
from parimend.stores.lent import is_lent_anywhere
from parimend.stores.model import ModelTensors, unwrapped
from parimend.stores.naming import leaves, tied_to
from parimend.stores.shards import ShardedTensors, store_of


class Since(NamedTuple):
    """Since when something holds, and of which tensors; see `Weights.is_valid`."""

    changes: int
    tensors: ModelTensors | ShardedTensors


class Weights:
    """The tensors of a model that a seal names; they may be replaced, and changed on purpose.

    Args:
        model: a module or a state dict.
        seal: of the model.
        proof: see `parimend.Scrubber`.

    Attributes:
        seal: the one in force.
        tensors: those that were there at the last look.
        untied: names of tensors that had the memory of sealed ones and have their own now.

    Raises:
        MismatchError, SpecError: see `parimend.Scrubber`.
    """

    def __init__(
        self,
        model: torch.nn.Module | Mapping[str, torch.Tensor],
        seal: Seal,
        proof: Proof | None,
    ) -> None:
        self.seal = seal
        self.tensors = sealed_tensors(model, seal)
        self.untied: set[str] = set()
        self._model, self._proof = model, proof
        self._by_sums: dict[SealedWord, SealedWord] = {}
        require_match(seal, self.tensors)
        for word in seal.words:
            self._proven(word)
        self._changes = 0  # on purpose, begun and ended: odd while there is one
        self._meet()
        self._replaced: set[str] = set()  # tensors that are not those that were sealed
        self._tied = tied_to(leaves(unwrapped(model)), self.tensors.held)

    def _meet(self) -> None:
        """Nobody reads, and nobody waits for those who do."""
        self._readers = dict[object, int]()  # their threads
        self._lock = threading.RLock()  # see `Gate`
        self._condition = threading.Condition(self._lock)

    def look_up(self) -> set[str]:
        """Find the tensors that the model has now; names of those that were replaced."""
        lent, before = is_lent_anywhere(), self.tensors
        now = sealed_tensors(self._model, self.seal)
        replaced = {n for n, tensor in before.held.items() if not is_same(now.held.get(n), tensor)}
        if replaced and (lent or is_lent_anywhere()):
            return set()  # it will have its own again
        if replaced or now.held.keys() != before.held.keys():
            self.tensors = now  # what was read of the others ends to be valid
        self._replaced |= replaced
        return replaced

    def come_untied(self) -> dict[str, str]:
        """Tensors that were protected as the memory of another one, and have their own since the
        last look: the name of that other one, by their names.
        """
        if not self._tied:
            return {}
        lent, since = is_lent_anywhere(), self.now
        there = leaves(unwrapped(self._model))
        still, before = tied_to(there, self.tensors.held), self.untied
        if lent or is_lent_anywhere() or self.is_changed(since):
            return {}  # they may be tied again
        # What is gone needs no protection.
        self.untied = self._tied.keys() & there.keys() - still.keys()
        return {name: self._tied[name] for name in sorted(self.untied - before)}

    def word(self, number: int) -> tuple[SealedWord, Since]:
        """A word as it is sealed now, and since when that holds; see `is_valid`.

        Raises:
            MismatchError: if the seal does not fit its tensors any more.
        """
        since, word = self.now, self.seal.words[number]
        held = since.tensors.held
        there = {part.name: held[part.name] for part in word.parts if part.name in held}
        require_match(replace(self.seal, words=(word,)), store_of(there))
        return self._proven(word), since

    def words(self) -> tuple[list[SealedWord], Since]:
        """All words, see `word`."""
        since = self.now
        require_match(self.seal, since.tensors)
        return [self._proven(word) for word in self.seal.words], since

    def is_valid(self, words: Sequence[SealedWord], since: Since) -> bool:
        """Whether the weights are still those that were read, and nobody has changed them on
        purpose meanwhile, which would look like damage.
        """
        tensors = since.tensors
        if self.is_changed(since) or tensors is not self.tensors:
            return False
        names = {part.name for word in words for part in word.parts}
        now = {name: self._at_its_place(name) for name in names}
        if any(each is None for each in now.values()):
            # All are gone through only if it takes that: words may be many.
            now = sealed_tensors(self._model, self.seal).held
        there = all(is_same(now.get(name), tensors.held[name]) for name in names)
        return there or is_lent_anywhere()  # then they will be there again

    @property
    def now(self) -> Since:
        """What holds from now on."""
        return Since(self._changes, self.tensors)

    def is_changed(self, since: Since) -> bool:
        """Whether somebody has begun to change the weights on purpose since then."""
        return since.changes != self._changes or bool(since.changes % 2)

    def made_anew(self, word: SealedWord, since: Since) -> bool:
        """Whether there are other tensors whenever those of a word are asked for, and not as they
        are just being changed on purpose: who computes with them has never the ones that are looked
        at.
        """
        one, other = (sealed_tensors(self._model, self.seal).held for _ in range(2))
        names = {part.name for part in word.parts} & one.keys() & other.keys()
        differ = not all(is_same(one[name], other[name]) for name in names)
        return differ and not self.is_changed(since)

    def _at_its_place(self, name: str) -> Any:
        """What has a name without going through all; None if it has to be looked for."""
        model = unwrapped(self._model)
        if not isinstance(model, torch.nn.Module):
            return model.get(name)
        owner, _, own = name.rpartition(".")
        try:
            module = model.get_submodule(owner)
        except AttributeError:
            return None
        found = module._parameters.get(own)
        return module._buffers.get(own) if found is None else found

    def devices(self, word: SealedWord | None = None) -> set[torch.device]:
        """Where a word is, or all of them."""
        held = self.tensors.held
        names = held if word is None else [part.name for part in word.parts]
        return {held[name].device for name in names}

    @property
    def why_unwatched(self) -> str:
        """Why no thread can look at them by itself; empty if one can."""
        if not self.tensors.spread.several:
            return ""
        return (
            f"{next(iter(self.tensors.held))} is sharded over processes, which have to look at it "
            "together: call sweep() in all of them at the same place, or pm.repair_"
        )

    def explained(self, word: SealedWord, finding: Finding) -> Finding:
        """An uncorrectable finding, with the reason if tensors are not those that were sealed."""
        replaced = sorted(self._replaced & {part.name for part in word.parts})
        if not replaced:
            return finding
        reason = f"{replaced[0]} was replaced by another tensor: replace weights within update()"
        return finding._replace(reason=reason)

    @property
    def _living(self) -> Carrier | None:
        """The carrier that lives in the weights, which cannot be sealed anew; if there is one."""
        carriers = (carrier_of(word.code) for word in self.seal.words)
        return next((carrier for carrier in carriers if carrier.moves), None)

    def require_renewable(self) -> None:
        """Refuse to change weights that carry a code.

        Raises:
            SpecError: if they do.
        """
        if (carrier := self._living) is not None:
            raise carrier.not_renewed()

    def may_become(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether some tensors have the memory of sealed ones, which can be sealed anew."""
        ours = {place_of(tensor) for tensor in self.tensors.held.values() if tensor.numel()}
        return self._living is None and not ours.isdisjoint(map(place_of, tensors))

    @contextmanager
    def reading(self, since: Since) -> Iterator[bool]:
        """What is read within it stays where it is: a change on purpose waits for its end, as it
        may free memory.

        Yields:
            Whether none began since then; if one did, nothing is to be read.
        """
        me = object()
        try:
            self._readers[me] = threading.get_ident()
            yield not self.is_changed(since)
        finally:
            self._readers.pop(me, None)  # before an interrupt may come, see `Gate`
            with self._lock:
                self._condition.notify_all()

    @contextmanager
    def changed_on_purpose(self) -> Iterator[None]:
        """What is done to the weights within it is no damage; `renew` ends it, or it was none."""
        mine = {threading.get_ident()}  # what a signal interrupts goes on afterwards
        self._changes += 1
        try:
            with self._lock:
                while not mine.issuperset(list(self._readers.values())):
                    self._condition.wait(LOOK_AGAIN)
            yield
        finally:
            self._changes += 1

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """What is done within it ends well in all processes that hold shards, or raises in all:
        what follows they do together, and would wait for each other.

        Raises:
            MismatchError: if it raises in another process.
        """
        try:
            yield
        except Exception:
            with suppress(Exception):  # others are gone, perhaps
                self._is_anywhere(True)
            raise
        if self._is_anywhere(False):
            raise MismatchError(
                "another process has raised in its update: what was changed here counts as damage"
            )

    def _is_anywhere(self, failed: bool) -> bool:
        return bool(self.tensors.spread.largest(np.array([int(failed)]))[0])

    def arrive(self, *, changing: bool) -> None:
        """In a forked process, nobody who read or changed weights in the old one is there.

        Args:
            changing: but for this thread, which changes them.
        """
        self._meet()
        if not changing:
            self._changes += self._changes % 2

    def renew(self, wrong: Iterable[int]) -> list[str]:
        """Seal the weights as they are now.

        Args:
            wrong: numbers of words that were not as they had been sealed.

        Returns:
            Names of those that still are not, and count as right now.

        Raises:
            MismatchError: if the seal does not fit its tensors any more; it stays as it is then.
        """
        self.tensors = sealed_tensors(self._model, self.seal)
        wait_for(self.devices())
        before, self.seal = self.seal, refresh(self.seal, self.tensors)
        self._replaced, self._by_sums = set(), {}
        pairs = [(before.words[number], self.seal.words[number]) for number in wrong]
        return [
            new.name
            for old, new in pairs
            if old.sha256 != new.sha256 or not np.array_equal(old.target, new.target)
        ]

    def _proven(self, word: SealedWord) -> SealedWord:
        """A word with what proves it where it is now; the same one each time."""
        proven = proven_by(word, self.tensors, self._proof)
        return word if proven is word else self._by_sums.setdefault(word, proven)
