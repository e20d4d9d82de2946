"""A callback for the Trainer of transformers (4.46 and later)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from parimend.seal import Seal
from parimend.training.constraint import Constraint, constrain_


class TrainInside(TrainerCallback, ExportableState):
    """Trains inside real codes, and seals the weights at the end of `Trainer.train`.

    Its state is saved in the Trainer's own checkpoints, so that training resumes exactly.

    Args:
        errors: see `parimend.constrain_`.
        path: where to save the seal; nowhere if None.
        options: further arguments of `parimend.constrain_`.

    Attributes:
        constraint: while training.
        seal: afterwards.

    Example:
        >>> callback = TrainInside(errors=210, path="model.parimend", only=["classifier.*"])
        >>> trainer = Trainer(model, arguments, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, errors: int, path: str | Path | None = None, **options: Any) -> None:
        self._errors, self._path, self._options = errors, path, options
        self.constraint: Constraint | None = None
        self.seal: Seal | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__, {}) if state.global_step else {}
        self.constraint = constrain_(
            kwargs["model"],
            kwargs["optimizer"],
            self._errors,
            state=saved.get("attributes", {}).get("saved"),
            **self._options,
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.constraint is not None:
            self.seal = self.constraint.seal_()
            if self._path is not None and state.is_world_process_zero:
                self.seal.save(self._path)

    def state(self) -> dict[str, Any]:
        path = None if self._path is None else str(self._path)
        return {
            "args": {"errors": self._errors, "path": path, **self._options},
            "attributes": {"saved": self.constraint and self.constraint.state_dict()},
        }
