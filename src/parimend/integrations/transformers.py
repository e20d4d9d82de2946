"""A callback for the Trainer of transformers (4.46 and later)."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from parimend.integrations.inside import Inside


class TrainInside(Inside, TrainerCallback, ExportableState):
    """Trains inside real codes, and seals the weights at the end of `Trainer.train`.

    Callbacks that change the weights in their `on_train_end` (averages) have to stand before it in
    the list: what they do later is not in the seal.

    Its state is saved in the Trainer's own checkpoints, so that training resumes exactly.

    Arguments and attributes are those of `parimend.integrations.inside.Inside`.

    Example:
        >>> callback = TrainInside(errors=210, path="model.parimend", only=["classifier.*"])
        >>> trainer = Trainer(model, arguments, callbacks=[callback])  # doctest: +SKIP
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__, {}) if state.global_step else {}
        self._begin(kwargs["model"], kwargs["optimizer"], saved.get("attributes", {}).get("saved"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end(saves=state.is_world_process_zero)

    def state(self) -> dict[str, Any]:
        path = None if self._path is None else str(self._path)
        return {
            "args": {"errors": self._errors, "path": path, **self._options},
            "attributes": {"saved": self.constraint and self.constraint.state_dict()},
        }
