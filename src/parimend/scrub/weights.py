"""The sealed weights of a running model: which tensors they are now, and whether they still are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from parimend.carriers import carrier_of, refresh
from parimend.carriers.base import proven_by, require_match
from parimend.carriers.finding import Finding
from parimend.model import sealed_tensors
from parimend.outcomes import Proof
from parimend.seal import Seal, SealedWord
from parimend.stores.model import unwrapped
from parimend.stores.naming import leaves, tied_to


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
        self._replaced: set[str] = set()  # tensors that are not those that were sealed
        self._tied = tied_to(leaves(unwrapped(model)), self.tensors.held)

    def look_up(self) -> set[str]:
        """Find the tensors that the model has now; names of those that were replaced."""
        before, self.tensors = self.tensors, sealed_tensors(self._model, self.seal)
        now = self.tensors.held
        replaced = {name for name, tensor in before.held.items() if now.get(name) is not tensor}
        self._replaced |= replaced
        return replaced

    def come_untied(self) -> dict[str, str]:
        """What was protected as the memory of another tensor, and is not since the last look: the
        names of both.
        """
        if not self._tied:
            return {}
        there = leaves(unwrapped(self._model))
        still, before = tied_to(there, self.tensors.held), self.untied
        # What is gone needs no protection.
        self.untied = self._tied.keys() & there.keys() - still.keys()
        return {name: self._tied[name] for name in sorted(self.untied - before)}

    def word(self, number: int) -> tuple[SealedWord, int]:
        """A word as it is sealed now, and since when that holds; see `is_valid`.

        Raises:
            MismatchError: if the seal does not fit its tensors any more.
        """
        since, word = self._changes, self.seal.words[number]
        require_match(replace(self.seal, words=(word,)), self.tensors)
        return self._proven(word), since

    def is_valid(self, word: SealedWord, since: int) -> bool:
        """Whether what was read are still the weights, and no change on purpose began or went on
        since: else what looked like damage may be that.
        """
        if since != self._changes or since % 2:
            return False
        now = sealed_tensors(self._model, self.seal).held
        return all(now.get(part.name) is self.tensors.held[part.name] for part in word.parts)

    def devices(self, word: SealedWord) -> set[torch.device]:
        """Where a word is."""
        return {self.tensors.held[part.name].device for part in word.parts}

    def explained(self, word: SealedWord, finding: Finding) -> Finding:
        """An uncorrectable finding, with the reason if tensors are not those that were sealed."""
        replaced = sorted(self._replaced & {part.name for part in word.parts})
        if not replaced:
            return finding
        reason = f"{replaced[0]} was replaced by another tensor: replace weights within update()"
        return finding._replace(reason=reason)

    def require_renewable(self) -> None:
        """Refuse to change weights that carry a code.

        Raises:
            SpecError: if they do.
        """
        for word in self.seal.words:
            if (carrier := carrier_of(word.code)).moves:
                raise carrier.not_renewed()

    @contextmanager
    def changed_on_purpose(self) -> Iterator[None]:
        """What is done to the weights within it is right: they are sealed anew at its end."""
        self._changes += 1
        try:
            yield
        finally:
            try:
                self.tensors = sealed_tensors(self._model, self.seal)
                self.seal = refresh(self.seal, self.tensors)
                self._replaced, self._by_sums = set(), {}
            finally:
                self._changes += 1

    def _proven(self, word: SealedWord) -> SealedWord:
        """A word with what proves it where it is now; the same one each time."""
        proven = proven_by(word, self.tensors, self._proof)
        return word if proven is word else self._by_sums.setdefault(word, proven)
