"""What the callbacks have in common: constrain at the start, seal at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parimend.arguments import goal_of, whole_number
from parimend.regular import require_place
from parimend.seal import Seal
from parimend.training.constraint import Constraint, constrain_


class Inside:
    """Trains inside real codes, and seals the weights at the end.

    Args:
        errors: see `parimend.constrain_`.
        path: where to save the seal, in a folder that is made if it is not there; nowhere if None.
        options: further arguments of `parimend.constrain_`.

    Attributes:
        constraint: while training.
        seal: afterwards.
    """

    def __init__(self, errors: int, path: str | Path | None = None, **options: Any) -> None:
        self._errors, self._options = whole_number(errors, least=1), options
        self._path = None if path is None else goal_of(path)
        self.constraint: Constraint | None = None
        self.seal: Seal | None = None

    def _begin(self, model: Any, optimizer: Any, state: Mapping[str, Any] | None) -> None:
        if self.constraint is not None:  # of a run that an exception may have ended
            self.constraint.remove()
        self.seal = None
        if self._path is not None and self._path.parent.is_dir():
            require_place(self._path)  # before the work
        self.constraint = constrain_(model, optimizer, self._errors, state=state, **self._options)

    def _end(self, saves: bool) -> None:
        """Seal; ``saves`` in the one process that writes files."""
        if self.constraint is not None:
            self.seal = self.constraint.seal_()
            if self._path is not None and saves:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self.seal.save(self._path)
