"""A training run as it was taken for right: its sums or copies, and what has happened since then.

Between two steps nothing moves weights or the optimizers' state, so what differs is damage. Where
somebody may have moved a tensor, by loading, by giving it other memory, or in a step that did not
end, the two cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from parimend.names import some
from parimend.stores.lent import is_lent
from parimend.training.kept import Kept, Remains
from parimend.training.state import State


class Snapshot:
    """The state of a run as it was when `take` was called.

    Args:
        state: weights of a model, and what its optimizers keep.
        errors: number of wrong 32-bit words that can be put back; any number if None.

    Attributes:
        outdated: whether something was loaded since then: all of it is to be taken again.
        forwards: how many have begun since then.
        computing: whether one of them keeps what a backward needs.

    Raises:
        SpecError: for a budget that cannot be; when it is taken.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> state = State(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
        >>> snapshot = Snapshot(state, errors=2)
        >>> snapshot.take(), snapshot.take()  # whether there are other tensors than before
        (True, False)
        >>> with torch.no_grad():
        ...     model.weight[1, 2] = 5.0
        ...     found, why, _ = snapshot.put_back_()
        >>> [change.index for change in found.changes], found.lost, why
        ([(1, 2)], [], '')
    """

    def __init__(self, state: State, errors: int | None) -> None:
        self._state, self._errors = state, errors
        self._stale = False  # tensors were found of which nothing is kept yet
        self._begun: list[torch.optim.Optimizer] = []  # steps since then
        self.outdated = self.computing = False
        self.forwards = 0

    def take(self) -> bool:
        """Take everything as it is now for right; whether there are other tensors than before.

        Raises:
            torch.OutOfMemoryError: if a device has too little memory for its sums.
        """
        self._stale |= self._state.find()
        self.outdated |= self._stale  # also after a time at which what follows fails
        if self._stale:
            self._kept = Kept(self._state.tensors, self._errors, apart=self._state.weights)
        self._kept.keep()
        others, self._stale = self._stale, False
        self.outdated = self.computing = False
        self.forwards = 0
        self._begun.clear()
        return others

    def put_back_(
        self, norm: torch.Tensor | None = None, only: Collection[str] | None = None
    ) -> tuple[Remains, str, float | None]:
        """Put back what has changed, as far as it can be and nobody may have moved it.

        Args:
            norm: () of any float dtype, which is read with it, so that a device is waited for once.
            only: names of tensors; all if None.

        Returns:
            What is left of the differences; what may have moved tensors on purpose, empty if
            nothing has; and the value of the norm.
        """
        moved = self._state.moved()  # where tensors are elsewhere, someone changed them
        others = moved | self._state.moved_by(self._begun)  # in steps that have not ended
        words, size = self._kept.differing(norm, moved, None if others else only)
        if words and not is_lent() and (gone := self._state.gone()):
            # What was made of them holds their damage; and all is to be taken for right then.
            if not others:
                words, _ = self._kept.differing()
            moved, others = moved | gone, others | gone
        remains = self._kept.put_back_(words, others)
        why = "a step that an exception ended" if self._begun else f"moving {some(moved)}"
        return remains, why if others else "", size

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """To be called before an optimizer moves weights."""
        self._begun.append(optimizer)

    def differs(self, only: Collection[str]) -> bool:
        """Whether some tensors are not as they were taken, or elsewhere. Nothing is put back."""
        moved = self._state.moved()
        return self.outdated or bool(moved or self._kept.differing(only=only)[0])

    @contextmanager
    def still(self) -> Iterator[None]:
        """The steps that have begun have moved nothing yet: what differs within it is damage."""
        begun, self._begun = self._begun, []
        try:
            yield
        finally:
            self._begun = begun

    @property
    def ended(self) -> bool:
        """Whether no step has begun since then."""
        return not self._begun

    @property
    def deferred(self) -> bool:
        """Whether a device has to be waited for to compare anything."""
        return self._kept.deferred
