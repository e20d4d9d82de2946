"""Training that heals: `heal_`, sums of weights and optimizer state from one step to the next.

Between two steps nothing changes the weights or the optimizer's state, so exact sums of their bit
patterns, taken after a step, must hold before the next one. Wrong words are put back bit for bit,
without a checkpoint. A gradient that was computed with wrong weights, or that is far larger than
those before it, is not used.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from parimend.carriers import Request, choose_codes, sidecar
from parimend.carriers.base import outcome_of, write_finding
from parimend.codes import Modular
from parimend.errors import DamageError, SpecError
from parimend.model import ModelTensors, unwrapped
from parimend.records import Change, TrainingEvent, Verdict
from parimend.removable import Removable
from parimend.seal import SealedWord
from parimend.training.hooks import in_parallel, stepping, uncompiled

GRADIENT_FACTOR = 100.0
"""A gradient whose norm is so many times the largest of the last steps is taken for wrong."""
MEMORY, FEWEST = 100, 20
"""Steps that a gradient is compared with, and how many of them must have been seen."""


class Healing(Removable):
    """Looks after a training run; see `heal_`. A context manager: leaving it removes all hooks.

    Attributes:
        steps: optimizer steps seen so far, the skipped ones included.
        events: what was wrong, in order.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        errors: int,
        gradient_factor: float,
        on_event: Callable[[TrainingEvent], None] | None,
    ) -> None:
        if not gradient_factor > 1.0:
            raise SpecError(f"gradient_factor must be more than 1, not {gradient_factor}")
        self.steps = 0
        self.events: list[TrainingEvent] = []
        self._model, self._optimizer = unwrapped(model), stepping(optimizer)
        self._errors, self._factor, self._on_event = errors, gradient_factor, on_event
        self._norms: deque[float] = deque(maxlen=MEMORY)
        self._tensors: dict[str, torch.Tensor] = {}
        self._words: list[SealedWord] = []
        self._fresh = False  # no forward has been seen since the sums were taken
        self.refresh()
        self._hooks: list[Any] = [
            self._model.register_forward_pre_hook(uncompiled(self._before_forward)),
            self._model.register_load_state_dict_post_hook(lambda *_: self.refresh()),
            self._optimizer.register_step_pre_hook(uncompiled(self._before_step)),
            self._optimizer.register_load_state_dict_post_hook(lambda *_: self.refresh()),
        ]
        self._after = self._optimizer.register_step_post_hook(uncompiled(self._after_step))

    def refresh(self) -> None:
        """Take weights and optimizer state as they are now for right.

        To be called after changing them by hand; loading a state dict does.
        """
        tensors = _state(self._model, self._optimizer)
        read = ModelTensors(tensors)
        if tensors.keys() != self._tensors.keys() or any(
            tensors[name] is not self._tensors[name] for name in tensors
        ):
            self._words = [
                SealedWord(code, parts, code.zeros(), b"")
                for code, parts in choose_codes(read, Request(self._errors))
                if isinstance(code, Modular)
            ]
        self._tensors = tensors
        self._words = [
            replace(word, target=sidecar.sums(word.code, word.parts, read))
            for word in self._words
            if isinstance(word.code, Modular)
        ]
        self._fresh = True

    @torch.no_grad()
    def check_(self) -> bool:
        """Put back every word that has changed since the last step; whether there were any.

        Raises:
            DamageError: if more words have changed than can be repaired. They are left as found.
        """
        changes: list[Change] = []
        tensors = ModelTensors(self._tensors)
        for word in self._words:
            if sidecar.intact(word, tensors):
                continue
            finding = sidecar.find(word, tensors)
            if finding.verdict is Verdict.CORRECTABLE:
                write_finding(word, finding, tensors)
                changes += outcome_of(word, finding).changes
                finding = sidecar.find(word, tensors)
            if finding.verdict is not Verdict.CLEAN:
                raise DamageError(
                    f"{word.name}: since step {self.steps} more than {self._errors} words have "
                    "changed: go back to a checkpoint; if they were changed on purpose, call "
                    "refresh() afterwards"
                )
        if changes:
            names = ", ".join(sorted({change.tensor for change in changes}))
            self._tell(TrainingEvent("repaired", self.steps, f"wrong in {names}", tuple(changes)))
        return bool(changes)

    def _before_forward(self, *_: Any) -> None:
        # Damage that is found before the first forward of a step has spoiled no gradient yet.
        if self._fresh:
            self.check_()
            self._fresh = False

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._fresh = False  # closures are called with weights that the step has moved
        # Sums are taken after all other hooks: a constraint moves the weights.
        self._after.remove()
        self._after = self._optimizer.register_step_post_hook(uncompiled(self._after_step))
        reason = (
            "weights or optimizer state were wrong when the gradient was computed"
            if self.check_()
            else ""
        )
        # A step with a closure may compute the gradient itself, so there may be none to judge yet.
        reason = self._everywhere(reason or self._gradient_is_wrong())
        if not reason:
            return
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is not None:
            with torch.enable_grad():
                closure()
            if not self._everywhere(self._gradient_is_wrong()):
                self._tell(TrainingEvent("redone", self.steps, reason))
                return
        for parameter in self._stepped_parameters():
            parameter.grad = None  # optimizers leave such parameters alone
        self._tell(TrainingEvent("skipped", self.steps, reason))

    def _after_step(self, *_: Any) -> None:
        self.steps += 1
        self.refresh()

    def _gradient_is_wrong(self) -> str:
        """Why the gradient is not to be used; empty if it is."""
        gradients = [p.grad for p in self._stepped_parameters() if p.grad is not None]
        if not gradients:
            return ""
        norm = float(torch.nn.utils.get_total_norm([_local(g) for g in gradients]))
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if len(self._norms) >= FEWEST and norm > self._factor * max(self._norms):
            largest = max(self._norms)
            return f"the gradient's norm is {norm:.3g}; the largest before it was {largest:.3g}"
        self._norms.append(norm)
        return ""

    def _stepped_parameters(self) -> list[torch.Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _everywhere(self, reason: str) -> str:
        """The reason, or that of another process: all take a step, or none does."""
        if not in_parallel():
            return reason
        import torch.distributed as dist

        device = self._stepped_parameters()[0].device
        wrong = torch.tensor(int(bool(reason)), device=device)
        dist.all_reduce(wrong)
        return reason or ("wrong in another process" if int(wrong) else "")

    def _tell(self, event: TrainingEvent) -> None:
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def remove(self) -> None:
        for hook in (*self._hooks, self._after):
            hook.remove()


def heal_(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    errors: int = 100,
    *,
    gradient_factor: float = GRADIENT_FACTOR,
    on_event: Callable[[TrainingEvent], None] | None = None,
) -> Healing:
    """Watch a training run, and put back what goes wrong in weights and optimizer state.

    Sums are taken after every step, and checked before the next forward and before the next step.
    What is found before the forward costs nothing but the repair. What is found after it may have
    spoiled the gradient: that is computed again if ``step`` got a closure, and else the step is
    skipped. So is a step whose gradient is not finite or far larger than those before it.

    Whoever changes weights on purpose outside of a step calls `Healing.refresh` afterwards, or
    `Healing.remove` before, as when training is done and a `Constraint` is to be sealed.

    Takes three passes over weights and optimizer state in each step, one to sum up and two shorter
    ones to compare, and no memory but the sums. Buffers that a forward changes (running means) are
    not covered. Of sharded tensors every process looks after its own shard.

    Args:
        model: the module that is trained.
        optimizer: the one that steps its parameters.
        errors: number of wrong 32-bit words between two steps that can be repaired.
        gradient_factor: how many times the largest norm of the last 100 steps a gradient may have.
        on_event: called with every event.

    Raises:
        SpecError: for a factor of 1 or less, or a budget that cannot be.

    Example:
        >>> model = torch.nn.Linear(64, 10)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> healing = heal_(model, optimizer)
        >>> with torch.no_grad():
        ...     model.weight[3, 5] = float("inf")  # a flipped bit
        >>> loss = model(torch.ones(1, 64)).square().sum()
        >>> [event.kind for event in healing.events], bool(model.weight.isfinite().all())
        (['repaired'], True)
    """
    return Healing(model, optimizer, errors, gradient_factor, on_event)


def _state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Parameters and the tensors of the optimizer's state, by name; of shards, what is held."""
    found = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in found.items()}
    tensors: dict[str, torch.Tensor] = dict(found)
    for number, (parameter, state) in enumerate(optimizer.state.items()):
        prefix = names.get(id(parameter), f"parameter {number}")
        entries: Mapping[str, Any] = state if isinstance(state, Mapping) else {}
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{prefix} ({key})"] = value
    return {name: _local(t) for name, t in tensors.items() if t.numel()}


def _local(tensor: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        local: torch.Tensor = getattr(tensor, "to_local", lambda: tensor)()
    return local
