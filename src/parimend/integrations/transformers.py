"""Callbacks for the Trainer of transformers (4.46 and later)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from parimend.arguments import whole_number
from parimend.files import protect_file, sidecar_of
from parimend.files.seals import SUFFIX
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


class ProtectCheckpoints(TrainerCallback):
    """Protects every checkpoint when it is saved: weights, optimizer, scheduler and the rest.

    The Trainer loads a checkpoint before it asks its callbacks: verify it before it resumes, with
    ``pm.verify(checkpoint, on_damage="repair")``.

    Args:
        errors: number of wrong 32-bit words that can be repaired in each file.

    Example:
        >>> callback = ProtectCheckpoints(errors=500)
        >>> trainer = Trainer(model, arguments, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, errors: int) -> None:
        self._errors = whole_number(errors)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.stat().st_size and file.suffix != SUFFIX:
                # A checkpoint of an earlier run may have been here.
                protect_file(file, self._errors, force=sidecar_of(file).exists())
