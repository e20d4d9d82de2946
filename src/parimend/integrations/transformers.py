"""Callbacks for the Trainer of transformers (4.46 and later)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from parimend.arguments import whole_number
from parimend.errors import MismatchError
from parimend.files import protect_all
from parimend.files.seals import seals_below
from parimend.integrations.inside import Inside
from parimend.record import plain
from parimend.warning import warn

_STATE = "trainer_state.json"
_KEYS = ("global_step", "log_history")
"""What tells the state of a Trainer from others."""


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
        name, every = type(self).__name__, state.stateful_callbacks
        mine = self._mine(every[name]) if state.global_step and name in every else {}
        # The Trainer fails to save callbacks that the checkpoint it resumes from does not know.
        every.setdefault(name, self.state())
        self._begin(kwargs["model"], kwargs["optimizer"], mine.get("attributes", {}).get("saved"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end(saves=state.is_world_process_zero)

    def _mine(self, saved: Any) -> Mapping[str, Any]:
        """What was saved of this callback: of several, what was saved last with its arguments."""
        several = saved if isinstance(saved, list) else [saved]
        own = self.state()["args"] | {"path": None}
        mine = [each for each in several if {**each.get("args", {}), "path": None} == own]
        found: Mapping[str, Any] = (mine or several)[-1]
        return found

    def state(self) -> dict[str, Any]:
        path = None if self._path is None else str(self._path)
        # As JSON holds it, in which there is no carrier.
        options = {k: v for k, v in self._options.items() if k != "carrier" or isinstance(v, str)}
        return {
            "args": {"errors": self._errors, "path": path, **plain(options)},
            "attributes": {"saved": self.constraint and self.constraint.state_dict()},
        }


class ProtectCheckpoints(TrainerCallback):
    """Protects every checkpoint when it is saved: weights, optimizer, scheduler and the rest, in
    folders below, too. The files of all processes are waited for.

    The Trainer loads a checkpoint before it asks its callbacks: verify it before it resumes, with
    ``pm.verify(checkpoint, on_damage="repair")``.

    Args:
        errors: number of wrong 32-bit words that can be repaired in each file.

    Example:
        >>> callback = ProtectCheckpoints(errors=500)
        >>> trainer = Trainer(model, arguments, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, errors: int) -> None:
        self._errors = whole_number(errors, least=1)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process has files of its own in the checkpoint
        if not args.should_save:
            return
        folder = _just_saved(Path(args.output_dir), state)
        _forget_overwritten(folder)
        made = protect_all([folder], self._errors, everything=True)
        for path, problem in made.problems.items():
            warn(f"{path} of this checkpoint is not protected: {problem}")


def _just_saved(out: Path, state: Any) -> Path:
    """The checkpoint that the Trainer saved last: the newest one with its state. In a search for
    hyperparameters each trial has a folder of its own.

    Raises:
        MismatchError: if there is none.
    """
    name = f"checkpoint-{state.global_step}"
    trials = [*out.glob("*/"), *([out / state.trial_name] if state.trial_name else [])]
    found = [each / name for each in (out, *trials) if _is_of(each / name, state)]
    if not found:
        raise MismatchError(
            f"no {name} in {out} and its folders has the state of the Trainer that saved one just "
            "now: leave ProtectCheckpoints out, and protect what it saves with pm.protect_file"
        )
    return max(found, key=lambda folder: (folder / _STATE).stat().st_mtime_ns)


def _is_of(folder: Path, state: Any) -> bool:
    try:
        saved = json.loads((folder / _STATE).read_bytes())
        there = [saved[key] for key in _KEYS]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    here = [getattr(state, key) for key in _KEYS]
    return json.dumps(there, sort_keys=True) == json.dumps(here, sort_keys=True)


def _forget_overwritten(folder: Path) -> None:
    """Remove seals of files that were saved over, as in an earlier run's checkpoint; of the others
    damage is to be seen.
    """
    for side, of in seals_below(folder):
        with suppress(FileNotFoundError):
            if (folder / of).stat().st_mtime_ns > (folder / side).stat().st_mtime_ns:
                (folder / side).unlink()
