"""A callback and a plugin for Lightning (`lightning`, 2.4 and later).

accelerate needs no callback: `parimend.constrain_` takes its optimizers as they are, and
``accelerator.register_for_checkpointing(constraint)`` saves and loads the constraint.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from parimend.arguments import path_of, whole_number
from parimend.errors import SpecError
from parimend.files import sidecar_of
from parimend.integrations.inside import Inside
from parimend.loading import OnDamage, save_file, verified
from parimend.loading.policy import require_policy


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
    _begun = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._state = None  # what a checkpoint of this run holds is loaded after this
        self._begun = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._begun = True
        self._begin(pl_module, trainer.optimizers, self._state)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.constraint is not None and self.constraint.sharded:
            self._end(saves=trainer.is_global_zero)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if not self._begun:  # nothing is left to train of a run that ended before it was sealed
            self.on_train_start(trainer, pl_module)
        if self.seal is None:
            self._end(saves=trainer.is_global_zero)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.constraint is not None:
            self.constraint.remove()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.constraint is None else self.constraint.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None


class ProtectedCheckpoints(TorchCheckpointIO):
    """Checkpoints that are protected when they are saved, and verified when a run resumes.

    A plugin of `Trainer`, for checkpoints on file systems of this machine. `ModelCheckpoint` and
    ``ckpt_path`` use it by themselves.

    Args:
        errors: number of wrong 32-bit words that can be repaired in a checkpoint.
        on_damage: what to do about damage on resuming; see `parimend.loading.OnDamage`.

    Example:
        >>> plugin = ProtectedCheckpoints(errors=500, on_damage="repair")
        >>> trainer = lightning.Trainer(plugins=[plugin], logger=False)  # doctest: +SKIP
    """

    def __init__(self, errors: int, on_damage: OnDamage = "raise") -> None:
        super().__init__()
        require_policy(on_damage)
        self._errors, self._on_damage = whole_number(errors, least=1), on_damage

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if storage_options is not None:
            raise SpecError(
                "storage_options are for other places than file systems of this machine, where "
                "protected checkpoints are saved: leave them out"
            )
        place = _here(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file(checkpoint, place, self._errors)

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> Any:
        with verified(_here(path), self._on_damage) as place:
            return super().load_checkpoint(place, *arguments, **options)

    def remove_checkpoint(self, path: Any) -> None:
        place = _here(path)
        super().remove_checkpoint(place)
        with suppress(FileNotFoundError):
            sidecar_of(place).unlink()


def _here(path: Any) -> Path:
    """The path of a checkpoint, which Lightning may give as an address.

    Raises:
        SpecError: if it is on no file system of this machine.
    """
    place = path_of(path)
    if get_protocol(os.fspath(path)) not in LocalFileSystem.protocol:
        raise SpecError(
            f"{path} is on no file system of this machine, where protected checkpoints are saved: "
            "give a folder of it to ModelCheckpoint (dirpath) or Trainer (default_root_dir)"
        )
    is_address = "://" in os.fspath(path)
    return Path(LocalFileSystem._strip_protocol(os.fspath(path))) if is_address else place
