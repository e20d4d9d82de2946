"""A callback for Lightning (`lightning`, 2.4 and later).

accelerate needs no callback: `parimend.constrain_` takes its optimizers as they are, and
``accelerator.register_for_checkpointing(constraint)`` saves and loads the constraint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from parimend.seal import Seal
from parimend.training.constraint import Constraint, constrain_


class TrainInside(lightning.Callback):
    """Trains inside real codes, and seals the weights at the end of `Trainer.fit`.

    Args:
        errors: see `parimend.constrain_`.
        path: where to save the seal; nowhere if None.
        options: further arguments of `parimend.constrain_`.

    Attributes:
        constraint: while training.
        seal: afterwards.

    Example:
        >>> callback = TrainInside(errors=210, path="model.parimend", only=["head.*"])
        >>> trainer = lightning.Trainer(callbacks=[callback], logger=False)  # doctest: +SKIP
    """

    def __init__(self, errors: int, path: str | Path | None = None, **options: Any) -> None:
        self._errors, self._path, self._options = errors, path, options
        self._state: dict[str, Any] | None = None
        self.constraint: Constraint | None = None
        self.seal: Seal | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.constraint = constrain_(
            pl_module, trainer.optimizers, self._errors, state=self._state, **self._options
        )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.constraint is not None:
            self.seal = self.constraint.seal_()
            if self._path is not None and trainer.is_global_zero:
                self.seal.save(self._path)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.constraint is not None:
            self.constraint.remove()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.constraint is None else self.constraint.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None
