"""Words of which copies are kept: any number of wrong elements can be put back from them.

Copying takes a fraction of the time of all sums, and as much memory as the tensors. A few sums, of
the copies when they were made, say whether tensors are what they were, and after that whether the
copies are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
import torch

from parimend.carriers import Chosen
from parimend.kernels.pieces_torch import bytes_of
from parimend.outcomes import Change
from parimend.stores.base import subparts
from parimend.stores.model import ModelTensors
from parimend.training.watched import PutBack, Watched
from parimend.words.layout import Part, Word

_LISTED = 100
"""Wrong elements of a tensor that are told one by one."""


class Copies:
    """Copies of tensors, each on its device.

    Args:
        tensors: by name; strided.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        with torch.inference_mode(False):  # they are written to outside of that, too
            self.held = {
                name: torch.empty_like(tensor, memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
        # Of one type: others are copied one by one.
        pairs: dict[tuple[torch.device, torch.dtype], tuple[list[torch.Tensor], list[torch.Tensor]]]
        pairs = defaultdict(lambda: ([], []))
        for name, tensor in tensors.items():
            copies, originals = pairs[tensor.device, tensor.dtype]
            copies.append(self.held[name])
            originals.append(tensor)
        self._pairs = list(pairs.values())

    def make(self) -> None:
        """Copy the tensors as they are now. A device is not waited for."""
        with torch.no_grad():
            for copies, originals in self._pairs:
                torch._foreach_copy_(copies, originals)


class Copied:
    """A word with copies of its tensors; as `parimend.training.watched.Watched`.

    Args:
        chosen: the word, and a code of which a few sums are taken.
        tensors: those that it is made of, by name. They have to stay where they are.
        copies: of them, which are made before `keep` is called.

    Example:
        >>> from parimend.carriers import Request, Sidecar, choose
        >>> tensors = {"a": torch.ones(30)}
        >>> copies, [chosen] = Copies(tensors), choose(ModelTensors(tensors), Request(1, Sidecar()))
        >>> word = Copied(chosen, tensors, copies.held)
        >>> copies.make(), word.keep()
        (None, None)
        >>> tensors["a"][3:20] = 0.0
        >>> put_back = word.put_back_()
        >>> len(put_back.changes), tensors["a"].sum().item(), word.differs()
        (17, 30.0, False)
    """

    def __init__(
        self,
        chosen: Chosen,
        tensors: Mapping[str, torch.Tensor],
        copies: Mapping[str, torch.Tensor],
    ) -> None:
        self.word: Word = chosen.word
        self._now, self._then = (Watched(chosen, each, few=True) for each in (tensors, copies))
        self._tensors, self._copies = ModelTensors(tensors), ModelTensors(copies)
        self.deferred = self._now.deferred

    def keep(self) -> None:
        """See `Watched.keep`; the copies are what is right."""
        self._then.keep()
        self._now.compare_with(self._then)

    def differs(self) -> bool | torch.Tensor:
        """See `Watched.differs`."""
        return self._now.differs()

    def put_back_(self, others: AbstractSet[str] = frozenset()) -> PutBack:
        """See `Watched.put_back_`; nothing is put back from copies that have changed."""
        if self._then.differs():
            return PutBack((), 0, None)
        changes, total = list[Change](), 0
        for part in self.word:
            if part.name not in others and self._is_wrong(part):
                some, count = self._copy_back_(part)
                changes += some
                total += count
        left = {part.name for part in self.word if self._is_wrong(part)}
        return PutBack(changes, total, None if not left and self.differs() else left)

    def _is_wrong(self, part: Part) -> bool:
        """Whether it is not as its copy, to the last bit; compared where they are."""
        begin = part.start * part.itemsize
        now, then = (
            bytes_of(store.held[part.name])[begin : begin + part.nbytes]
            for store in (self._tensors, self._copies)
        )
        return not torch.equal(now, then)

    def _copy_back_(self, part: Part) -> tuple[list[Change], int]:
        """Put the wrong elements of a part back: the first of them, and how many there were."""
        changes, count = list[Change](), 0
        for piece in subparts(part):
            now, then = (
                store.read(piece).reshape(piece.count, -1)
                for store in (self._tensors, self._copies)
            )
            where = np.flatnonzero((now != then).any(1))
            count += where.size
            changes += [
                Change(part.name, piece.index(int(i)), part.dtype, now[i].tobytes(), right)
                for i in where[: _LISTED - len(changes)]
                for right in [then[i].tobytes()]
            ]
            self._tensors.write(piece, where, then[where])
        return changes, count
