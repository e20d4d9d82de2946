"""Training that heals: `heal_`, sums of weights and optimizer state from one step to the next.

Between two steps nothing changes the weights or the optimizer's state, so exact sums of their bit
patterns, taken after a step, must hold before the next one. Wrong words are put back bit for bit,
without a checkpoint. A gradient that was computed with wrong weights, or that is far larger than
those before it, is not used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from typing import Any

import torch

from parimend.arguments import require
from parimend.carriers import Request, Sidecar, choose
from parimend.carriers.base import outcome_of, write_finding
from parimend.errors import DamageError, SpecError
from parimend.events import Event, TrainingKind
from parimend.moving import watchers
from parimend.names import some
from parimend.outcomes import Change, Verdict
from parimend.removable import Hook, Removable
from parimend.seal import CheckedWord
from parimend.stores.model import ModelTensors, unwrapped
from parimend.stores.spread import local
from parimend.training.hooks import (
    Step,
    in_parallel,
    on_steps_of_others,
    parameters_of,
    require_ready,
    several,
    stepped_by,
    uncompiled,
)
from parimend.training.resident import read
from parimend.training.scale import Scale
from parimend.training.state import State
from parimend.training.watched import Watched, in_memory_order

GRADIENT_FACTOR = 100.0
"""A gradient whose norm is so many times the largest of the last steps is taken for wrong."""
STANDSTILL = 20
"""After so many skipped steps in a row a warning is given."""
_CARRIER = Sidecar()


class Healing(Removable):
    """Looks after a training run; see `heal_`. A context manager: leaving it removes all hooks.

    Attributes:
        steps: optimizer steps seen so far, the skipped ones included.
        events: what was wrong, in order.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        errors: int,
        gradient_factor: float,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        if not gradient_factor > 1.0:
            raise SpecError(f"gradient_factor must be more than 1, not {gradient_factor}")
        self.steps = 0
        self.events: list[Event] = []
        require(model, "model", "a torch.nn.Module", torch.nn.Module)
        self._model, self._optimizers = unwrapped(model), list(optimizers)
        require_ready(dict(self._model.named_parameters()))
        self._errors, self._on_event = errors, on_event
        self._scales = [Scale(gradient_factor) for _ in optimizers]
        self._skipped = 0  # steps in a row
        self._state = State(self._model, self._optimizers)
        self._orders: dict[str, tuple[int, ...]] = {}
        self._watched: list[Watched] = []
        self._fresh = False  # no forward has been seen since the sums were taken
        self._step = Step()
        self._updating = False
        self._loaded = False  # weights or state have been loaded since the sums were taken
        self._stale = False  # tensors were found that are not watched yet
        self.refresh()
        forward = uncompiled(self._before_forward)
        before, after = Hook(self._before_loading), Hook(self._after_loading)
        self._hooks: list[Any] = [self._model.register_forward_pre_hook(Hook(forward))]
        for module in self._model.modules():
            self._hooks.append(module.register_load_state_dict_pre_hook(before))
            self._hooks.append(module.register_load_state_dict_post_hook(after))
        for each in self._optimizers:
            self._hooks.append(each.register_step_pre_hook(uncompiled(self._before_step)))
            self._hooks.append(each.register_load_state_dict_pre_hook(self._before_loading))
            self._hooks.append(each.register_load_state_dict_post_hook(self._after_loading))
        self._hooks.append(on_steps_of_others(self._optimizers, self._before_step_of_other))
        self._stepped = uncompiled(self._after_step)
        self._after = [each.register_step_post_hook(self._stepped) for each in self._optimizers]
        watchers.add(self)

    def refresh(self) -> None:
        """Take weights and optimizer state as they are now for right.

        To be called after changing them by hand; loading a state dict does, also that of a
        submodule. What is done within `update` needs no call.
        """
        self._stale |= self._state.find()
        if self._stale:  # also after a time at which that failed
            self._watch()
            self._stale = False
        for each in self._watched:
            each.keep()
        self._fresh, self._loaded = True, False

    def _watch(self) -> None:
        """Find what there is to sum up, and where it is."""
        tensors = {name: t for name, t in self._state.tensors.items() if t.numel()}
        views, self._orders = {}, {}
        # What is on one device follows each other, to be read together.
        for name in sorted(tensors, key=lambda name: str(tensors[name].device)):
            views[name], self._orders[name] = in_memory_order(tensors[name])
        self._store = ModelTensors(views)
        self._addresses = {name: view.data_ptr() for name, view in views.items()}
        chosen = choose(self._store, Request(self._errors, _CARRIER))
        self._watched = [Watched(each, views) for each in chosen]

    @contextmanager
    def update(self) -> Iterator[None]:
        """Change weights or optimizer state on purpose: checked before, taken for right afterwards.

        For example to put an average of the weights into the model for a while, and to take it out
        again.

        Raises:
            DamageError: if they are damaged already, and cannot be repaired.
        """
        if self._within():
            yield
            return
        self.check_()
        self._updating = True
        try:
            yield
        finally:
            self._updating = False
            self.refresh()

    def watches(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether one of some tensors is watched, and nobody is moving weights already."""
        return not self._within() and self._state.holds(tensors)

    def check_(self) -> bool:
        """Put back every word that has changed since the last step; whether there were any.

        Raises:
            DamageError: if more words have changed than can be repaired. They are left as found.
        """
        return self._check_()[0]

    @torch.no_grad()
    def _check_(self, norm: torch.Tensor | None = None) -> tuple[bool, float | None]:
        """`check_`, and the value of a norm, which a device is not waited for once more."""
        if self._loaded or self._stale:
            self.refresh()
            return False, read([], norm)[1]
        moved = self._state.moved()  # where tensors are elsewhere, someone changed them
        watched = [each for each in self._watched if not moved or self._is_there(each)]
        differ, size = read([each.differs() for each in watched], norm)
        changes: list[Change] = []
        for each in compress(watched, differ):
            changes += self._repaired(each.kept(), moved)
        if changes:
            names = ", ".join(sorted({change.tensor for change in changes}))
            self._tell("repaired", f"wrong in {names}", tuple(changes))
        if moved:
            self.refresh()
        return bool(changes), size

    def _is_there(self, watched: Watched) -> bool:
        """Whether the memory in which a word was is still there, to be compared on the host.

        Tensors that are elsewhere now may have left theirs to somebody else, or freed it.
        """
        names = [part.name for part in watched.word]
        held = self._store.held
        return not watched.deferred and all(
            held[name].data_ptr() == self._addresses[name] for name in names
        )

    def _repaired(self, word: CheckedWord, moved: Collection[str]) -> list[Change]:
        """Put a word back that has changed; what was wrong.

        Args:
            word: as it was.
            moved: tensors that are elsewhere now. Who has their old memory may change it.
        """
        changes: list[Change] = []
        finding = _CARRIER.find(word, self._store)
        elsewhere = {number for number, part in enumerate(word.parts) if part.name in moved}
        if finding.verdict is Verdict.CORRECTABLE:
            wrong = [each for each in finding.elements if each[0] not in elsewhere]
            finding = finding._replace(elements=wrong)
            write_finding(word, finding, self._store)
            changes += map(self._told, outcome_of(word, finding).changes)
            finding = _CARRIER.find(word, self._store)
        if elsewhere:
            return changes
        if finding.verdict is not Verdict.CLEAN:
            raise DamageError(
                f"{word.name}: since step {self.steps} more than {self._errors} words have "
                "changed: go back to a checkpoint; if they were changed on purpose, do that "
                "within update(), or call refresh() afterwards"
            )
        return changes

    def _told(self, change: Change) -> Change:
        """A change with its index as the model counts."""
        places = dict(zip(self._orders[change.tensor], change.index, strict=True))
        return replace(change, index=tuple(places[d] for d in range(len(places))))

    def _within(self) -> bool:
        """Whether weights are being moved: closures are called with those of a step half taken."""
        return self._updating or bool(self._step)

    def _before_forward(self, *_: Any) -> None:
        # Damage that is found before the first forward of a step has spoiled no gradient yet. But
        # a device that is waited for here runs dry, in every step, for what is seldom there.
        if (self._fresh or self._loaded) and not self._within():
            if self._loaded or not all(each.deferred for each in self._watched):
                self.check_()
            self._fresh = False

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._step.begin()
        number = next(n for n, each in enumerate(self._optimizers) if each is optimizer)
        # Sums are taken after all other hooks: a constraint moves the weights.
        self._after[number].remove()
        self._after[number] = optimizer.register_step_post_hook(self._stepped)
        damaged, norm = self._check_(self._norm(number))
        reason = (
            "weights or optimizer state were wrong when the gradient was computed"
            if damaged
            else self._gradient_is_wrong(number, norm)
        )
        reason = self._everywhere(reason)
        if not reason:
            self._skipped = 0
            return
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is not None:
            with torch.enable_grad():
                closure()
            _, norm = read([], self._norm(number))
            if not self._everywhere(self._gradient_is_wrong(number, norm, again=True)):
                self._tell("redone", reason)
                return
        for parameter in parameters_of([optimizer]):
            parameter.grad = None  # optimizers leave such parameters alone
        self._tell("skipped", reason)
        self._skipped += 1
        if self._skipped == STANDSTILL:
            warnings.warn(
                f"heal_ has skipped {STANDSTILL} steps in a row, the last one because {reason}: "
                "nothing is learned; look at healing.events",
                stacklevel=2,
            )

    def _after_step(self, *_: Any) -> None:
        self.steps += 1
        self.refresh()

    def _before_loading(self, *_: Any) -> None:
        """What is not loaded stays as it was: it is looked at before all is taken for right."""
        if self._loaded or self._within():
            return
        try:
            self.check_()
        except DamageError as error:  # perhaps that is why something is loaded
            warnings.warn(f"{error}; what is not loaded now is taken for right", stacklevel=2)
        self._loaded = True

    def _after_loading(self, *_: Any) -> None:
        # Loading calls this once for every submodule; sums are taken when they are needed.
        self._loaded = True

    def _before_step_of_other(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave alone what another optimizer steps: its work is no damage."""
        if self._within():
            return  # one that works inside ours
        taken = stepped_by(optimizer, self._model.named_parameters()) - self._state.left
        if not taken:
            return
        self.check_()
        self._state.leave(taken)
        self.refresh()
        reason = f"{some(taken)}: another optimizer steps it, so it is not watched any more"
        self._tell("unwatched", reason)
        warnings.warn(f"{reason}: give heal_ all optimizers of the model", stacklevel=2)

    @torch.no_grad()
    def _norm(self, number: int) -> torch.Tensor | None:
        """The norm of the gradient of an optimizer, where that is. A step with a closure may
        compute the gradient itself, so there may be none yet.
        """
        parameters = parameters_of([self._optimizers[number]])
        gradients = [_values(local(p.grad)) for p in parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else None

    def _gradient_is_wrong(self, number: int, norm: float | None, again: bool = False) -> str:
        """Why the gradient is not to be used; empty if it is.

        Args:
            number: of the optimizer.
            norm: of the gradient, if there is one.
            again: whether it has been computed a second time in this step.
        """
        if norm is None:
            return ""
        scale = self._scales[number]
        largest = scale.largest
        if scale.ordinary(norm):
            return ""
        if not math.isfinite(norm):
            return "the gradient is not finite"
        reason = f"the gradient's norm is {norm:.3g}; the largest before it was {largest:.3g}"
        if again or not scale.persists(norm):
            return reason
        self._tell("accepted", f"{reason}; it stays so, and is no fault")
        return ""

    def _everywhere(self, reason: str) -> str:
        """The reason, or that of another process: all take a step, or none does."""
        if not in_parallel():
            return reason
        import torch.distributed as dist

        device = parameters_of(self._optimizers)[0].device
        wrong = torch.tensor(int(bool(reason)), device=device)
        dist.all_reduce(wrong)
        return reason or ("wrong in another process" if int(wrong) else "")

    def _tell(self, kind: TrainingKind, reason: str, changes: tuple[Change, ...] = ()) -> None:
        event = Event(kind, self.steps, reason, changes)
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def remove(self) -> None:
        watchers.discard(self)
        for hook in (*self._hooks, *self._after):
            hook.remove()


def heal_(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    errors: int = 100,
    *,
    gradient_factor: float = GRADIENT_FACTOR,
    on_event: Callable[[Event], None] | None = None,
) -> Healing:
    """Watch a training run, and put back what goes wrong in weights and optimizer state.

    Sums are taken after every step, and checked before the next forward and before the next step.
    What is found before the forward costs nothing but the repair. What is found after it may have
    spoiled the gradient: that is computed again if ``step`` got a closure, and else the step is
    skipped. So is a step whose gradient is not finite or far larger than those before it; if the
    fifth in a row is as large as the four before it, the run has changed, and it is used.

    Where the tensors are on one GPU that Triton compiles for (optimizers may keep their counters on
    the CPU), sums stay there, and the host waits once in a step: for the norm of the gradient and
    for whether anything was wrong. There nothing is compared before the forward, so all damage may
    have spoiled the gradient; it is put back as elsewhere.

    Whoever changes weights on purpose outside of a step does so within `Healing.update`, or calls
    `Healing.refresh` afterwards, or `Healing.remove` before, as when training is done and a
    `Constraint` is to be sealed. Loading state dicts, moving tensors and changing their dtype is
    noticed.

    Takes three passes over weights and optimizer state in each step, one to sum up and two shorter
    ones, and no memory but the sums. Buffers that a forward changes (running means) are
    not covered. Of sharded tensors every process looks after its own shard.

    Args:
        model: the module that is trained.
        optimizer: the one that steps its parameters, or several. What others step is not watched.
        errors: number of wrong 32-bit words between two steps that can be repaired.
        gradient_factor: how many times the largest norm of the last 100 steps a gradient may have.
        on_event: called with every event.

    Raises:
        SpecError: for a factor of 1 or less, a budget that cannot be, or parameters that are sparse
            or have no values yet (lazy modules).

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
    return Healing(model, several(optimizer, "heal_"), errors, gradient_factor, on_event)


def _values(gradient: torch.Tensor) -> torch.Tensor:
    """The elements of a gradient that are not zero for sure."""
    return gradient if gradient.layout is torch.strided else gradient.coalesce().values()
