"""A callback for Lightning (`lightning`, 2.4 and later).

accelerate needs no callback: `parimend.constrain_` takes its optimizers as they are, and
``accelerator.register_for_checkpointing(constraint)`` saves and loads the constraint.
"""

from __future__ import annotations

from typing import Any

import lightning

from parimend.integrations.inside import Inside


class TrainInside(Inside, lightning.Callback):
    """Trains inside real codes, and seals the weights at the end of `Trainer.fit`.

    They are sealed when all callbacks and the module have had their `on_train_end`, in which they
    may put averages into the model. Parameters that are sharded over processes can be sealed only
    before: of callbacks that change them, this one has to be the last.

    Arguments and attributes are those of `parimend.integrations.inside.Inside`.

    Example:
        >>> callback = TrainInside(errors=210, path="model.parimend", only=["head.*"])
        >>> trainer = lightning.Trainer(callbacks=[callback], logger=False)  # doctest: +SKIP
    """

    _state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(pl_module, trainer.optimizers, self._state)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.constraint is not None and self.constraint.sharded:
            self._end(saves=trainer.is_global_zero)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if self.seal is None:
            self._end(saves=trainer.is_global_zero)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.constraint is not None:
            self.constraint.remove()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.constraint is None else self.constraint.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None
