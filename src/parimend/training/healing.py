"""Training that heals: `heal_`, sums of weights and optimizer state from one step to the next.

Between two steps nothing changes the weights or the optimizer's state, so exact sums of their bit
patterns, taken after a step, must hold before the next one. Wrong words are put back bit for bit,
without a checkpoint. A gradient that was computed with wrong weights, or that is far larger than
those before it, is not used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any
from weakref import WeakSet

import torch

from parimend.arguments import real_number, require, require_callable, whole_number
from parimend.errors import DamageError
from parimend.events import Event, TrainingKind
from parimend.moving import watchers
from parimend.names import some
from parimend.outcomes import Change
from parimend.removable import Hook, Removable
from parimend.showing import counted
from parimend.stores.lent import is_lent, is_transformed
from parimend.stores.model import unwrapped
from parimend.stores.renorm import renormalizing
from parimend.training.gradient import Gradient
from parimend.training.hooks import (
    Step,
    closure_of,
    in_parallel,
    on_steps_of_others,
    parameters_of,
    require_hooks,
    require_parameters,
    require_ready,
    several,
    stepped_by,
    uncompiled,
    with_closure,
)
from parimend.training.resident import read
from parimend.training.snapshot import Snapshot
from parimend.training.state import State
from parimend.warning import warn

GRADIENT_FACTOR = 100.0
"""A gradient whose norm is so many times the largest of the last steps is taken for wrong."""
STANDSTILL = 20
"""After so many skipped steps in a row a warning is given."""
LOOK_AGAIN = 20
"""Before every so many forwards without a step weights are looked at, as before the first."""

_SPOILED = "weights were wrong when the gradient was computed"


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
        errors: int | None,
        gradient_factor: float,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        errors = errors if errors is None else whole_number(errors)
        gradient_factor = real_number(gradient_factor, "gradient_factor", above=1, finite=False)
        if on_event is not None:
            require_callable(on_event, "on_event", "a function that is called with each Event")
        self.steps = 0
        self.events: list[Event] = []
        require(model, "model", "a torch.nn.Module", torch.nn.Module)
        self._model, self._optimizers = unwrapped(model), list(optimizers)
        require_parameters(self._model, optimizers, "heal_")
        require_ready(dict(self._model.named_parameters()))
        require_hooks(optimizers)
        self._errors, self._on_event = errors, on_event
        accepted = partial(self._tell, "accepted")
        self._gradients = {o: Gradient(o, gradient_factor, accepted) for o in optimizers}
        self._skipped = 0  # steps in a row
        self._all_skipped = 0
        # Optimizers whose next gradient may have been computed with weights that were wrong.
        self._spoiled: set[torch.optim.Optimizer] = set()
        self._step = Step()
        self._lock = threading.RLock()  # no step begins in one thread while another one looks
        self._updating = False
        self._loading: Any = None  # the module or the optimizer into which all is loaded
        self._hooks: list[Any] = []
        self._hooked: WeakSet[torch.nn.Module] = WeakSet()
        self._hidden: set[str] = set()  # what was told that it cannot be looked at
        self._state = State(self._model, self._optimizers)
        self._snapshot = Snapshot(self._state, errors)
        self._leave_renormalized()
        self.refresh()
        forward = uncompiled(self._before_forward)
        # Before `fully_shard` gathers what may be damaged.
        self._hooks.append(self._model.register_forward_pre_hook(Hook(forward), prepend=True))
        self._hooks.append(self._model.register_state_dict_pre_hook(Hook(self._before_saving)))
        for each in self._optimizers:
            self._hooks.append(each.register_step_pre_hook(uncompiled(self._before_step)))
            self._hooks.append(each.register_state_dict_pre_hook(self._before_saving))
            self._hooks.append(each.register_load_state_dict_pre_hook(self._before_loading))
            self._hooks.append(each.register_load_state_dict_post_hook(self._after_loading))
        self._hooks.append(on_steps_of_others(self._optimizers, self._before_step_of_other))
        self._stepped = uncompiled(self._after_step)
        self._after = {o: o.register_step_post_hook(self._stepped) for o in optimizers}
        watchers.add(self)

    def _leave_renormalized(self) -> None:
        """Leave alone what is changed by every forward."""
        if names := renormalizing(self._model).keys() - self._state.left:
            self._state.leave(names)
            self._pass_over(f"{some(names)}: its layer changes it in a forward (max_norm)")

    def refresh(self) -> None:
        """Take weights and optimizer state as they are now for right.

        To be called after changing them by hand; loading a state dict does, also that of a
        submodule. What is done within `update` needs no call.
        """
        with self._lock:
            if self._snapshot.take():
                self._hear_of_loading()
            self._tell_of_hidden()

    def _tell_of_hidden(self) -> None:
        """Tell of tensors that cannot be looked at, once of each."""
        if names := self._state.hidden - self._hidden:
            self._hidden |= names
            self._pass_over(
                f"{some(names)}: of a class that hides its memory and does not tell what it is "
                "made of (by __tensor_flatten__)"
            )

    def _hear_of_loading(self) -> None:
        """Put hooks on modules that are new."""
        before, after = Hook(self._before_loading), Hook(self._after_loading)
        for module in self._model.modules():
            if module not in self._hooked:
                self._hooked.add(module)
                self._hooks.append(module.register_load_state_dict_pre_hook(before))
                self._hooks.append(module.register_load_state_dict_post_hook(after))

    @contextmanager
    def update(self) -> Iterator[None]:
        """Change weights or optimizer state on purpose: checked before, taken for right afterwards.

        For example to put an average of the weights into the model for a while, and to take it out
        again. What a block leaves that an exception ends is not taken for right: the next look puts
        it back, or raises `DamageError`.

        Raises:
            DamageError: if they are damaged already, and cannot be repaired.
        """
        if self._within():
            yield
            return
        with self._lock:
            self.check_()
            self._updating = True
        try:
            yield
        except BaseException:
            self._updating = False
            raise
        with self._lock:  # no other thread looks before these are taken for right
            self._updating = False
            self.refresh()

    def watches(self, tensors: Iterable[torch.Tensor], as_sealed: bool) -> bool:
        """Whether one of some tensors is watched, and nobody is moving weights already."""
        return not self._within() and self._state.holds(tensors)

    def check_(self) -> bool:
        """Put back every word that has changed since the last step; whether there were any.

        Within a step or an `update` weights are on the move, and nothing is looked at.

        Raises:
            DamageError: if more words have changed than can be repaired. They are left as found.
        """
        if self._within():
            return False
        with self._lock:
            return not self._within() and bool(self._check_()[0])

    @torch.no_grad()
    def _check_(
        self, norm: torch.Tensor | None = None, only: Collection[str] | None = None
    ) -> tuple[AbstractSet[str], float | None]:
        """`check_` of some tensors, or of all: what was wrong. And the value of a norm, which is
        read with it, so that a device is waited for once.
        """
        if self._snapshot.outdated:
            self.refresh()
            return frozenset(), read([], norm)[1]
        found, why, size = self._snapshot.put_back_(norm, only)
        wrong = {change.tensor for change in found.changes}
        if wrong & self._state.weights and self._snapshot.computing:
            self._spoiled.update(self._optimizers)  # also if telling of it fails
        if wrong:
            reason = f"wrong in {some(wrong)}"
            if found.total > len(found.changes):
                reason += (
                    f": {found.total:,} elements, of which the first of each tensor are listed"
                )
                warn(
                    f"{reason}, put back to what they were after step {self.steps}; if they were "
                    "changed on purpose, do that within update(), or call refresh() afterwards",
                )
            self._tell("repaired", reason, tuple(found.changes))
        if found.lost:
            what = f"more than {self._errors} words have changed, or the sums that were kept"
            if self._errors is None:
                what = "they have changed, and so have the copies that were kept"
            raise DamageError(
                f"{some(found.lost)}: since step {self.steps} {what}: go back to a checkpoint; if "
                "they were changed on purpose, do that within update(), or call refresh() "
                "afterwards"
            )
        if found.unsure:
            reason = (
                f"{some(found.unsure)}: damage since step {self.steps} cannot be told from what "
                f"{why} has left there: all of it is taken for right"
            )
            self._accept(reason)
        if why:
            self.refresh()
        return wrong, size

    def _within(self) -> bool:
        """Whether weights are being moved: closures are called with those of a step half taken."""
        return self._updating or bool(self._step)

    def _before_forward(self, *_: Any) -> None:
        # Damage that is found before the first forward of a step has spoiled no gradient yet. But
        # a device that is waited for here runs dry, in every step, for what is seldom there.
        snapshot = self._snapshot
        if is_transformed():
            snapshot.computing = True
            return  # the step looks
        first = snapshot.forwards == 0
        # The step finds what is lost again, in all processes: none waits in a forward for this one.
        training = in_parallel() and torch.is_grad_enabled()
        with suppress(DamageError) if training else nullcontext():
            if snapshot.outdated or not snapshot.ended:
                if not is_lent():  # what is looked for then would be what is lent
                    self.check_()
            elif snapshot.forwards % LOOK_AGAIN == 0 and not (first and snapshot.deferred):
                with self._lock:
                    if not self._within():  # all else waits for the step, which needs it
                        self._check_(only=self._state.weights)
        if not self._within():
            snapshot.forwards += 1
            snapshot.computing |= torch.is_grad_enabled()

    def _before_saving(self, *_: Any) -> None:
        """What is saved is looked at: damage that went along would be taken for right for ever."""
        if not (is_lent() or is_transformed()):
            self.check_()

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # Sums are taken after all other hooks: a constraint moves the weights.
        self._after[optimizer].remove()
        self._after[optimizer] = optimizer.register_step_post_hook(self._stepped)
        closure = closure_of(args, kwargs)
        with self._lock:
            looks = self._step.begin() and not self._updating
            if looks:
                closure = self._judge(optimizer, closure)
            self._snapshot.begin(optimizer)
        if closure is None or not looks:
            return None
        return with_closure(closure, args, kwargs)

    def _judge(
        self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None
    ) -> Callable[[], Any] | None:
        """See that a step starts with right weights, and a gradient that may be right, if there is
        one already. What the step is to be called with as its closure.
        """
        gradient = self._gradients[optimizer]
        reason = self._why_not(optimizer, gradient.norm(closure is not None))
        done = self._again(optimizer, closure, reason) if reason else None
        if closure is not None:
            return self._judged_after(optimizer, closure, done)
        if not reason:
            self._skipped = 0
        return None

    def _judged_after(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], Any],
        done: tuple[Any] | None = None,
    ) -> Callable[[], Any]:
        """A closure that looks at what its first call computes, if the optimizer has moved nothing
        before it: what it has computed would belong to weights that are no more.

        Args:
            optimizer: whose step calls it.
            closure: what computes the gradients.
            done: what it returned if it has just been called.
        """
        calls = 0

        def computed() -> Any:
            nonlocal calls
            calls += 1
            if calls > 1 or self._updating:
                return closure()
            with self._lock, torch.no_grad():
                moved = self._snapshot.differs(self._state.weights)
            if self._everywhere("moved" if moved else ""):
                return closure()
            if done is not None:
                return done[0]
            loss = closure()
            with self._lock, self._snapshot.still():
                norm = self._gradients[optimizer].norm()
                if reason := self._why_not(optimizer, norm, self._state.weights):
                    [loss] = self._again(optimizer, closure, reason) or (loss,)
                else:
                    self._skipped = 0
            return loss

        return computed

    def _why_not(
        self,
        optimizer: torch.optim.Optimizer,
        norm: torch.Tensor | None,
        only: Collection[str] | None = None,
    ) -> str:
        """Why a gradient is not to be used, see `Gradient.why_not`; weights are put right.

        Args:
            optimizer: that would use it.
            norm: of the gradient, if there is one.
            only: names of tensors that are looked at; all if None.
        """
        spoiled, size = self._spoils(norm, only)
        if size is None and not in_parallel():  # else others may have a gradient
            spoiled = ""
        elif optimizer in self._spoiled:
            spoiled = _SPOILED
        reason = self._everywhere(spoiled or self._gradients[optimizer].why_not(size))
        self._spoiled.discard(optimizer)  # what is not right is dropped
        return reason

    def _spoils(
        self, norm: torch.Tensor | None, only: Collection[str] | None
    ) -> tuple[str, float | None]:
        """Put right what is wrong: a reason if weights were, and the value of a norm.

        A gradient does not depend on what the optimizer keeps.
        """
        try:
            wrong, size = self._check_(norm, only)
        except DamageError:
            self._everywhere("", lost=True)
            raise
        return _SPOILED if wrong & self._state.weights else "", size

    def _again(
        self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None, reason: str
    ) -> tuple[Any] | None:
        """Compute a gradient once more, or let the step go without one: what the closure gave."""
        gradient, loss = self._gradients[optimizer], None
        gradient.drop()  # a closure may add to what is there
        if closure is not None:
            with torch.enable_grad():
                loss = (closure(),)
            spoiled, norm = self._spoils(gradient.norm(), self._state.weights)
            if norm is None and not in_parallel():
                spoiled = "the closure computes no gradient"
            self._spoiled.discard(optimizer)
            if not self._everywhere(spoiled or gradient.why_not(norm, again=True)):
                self._tell("redone", reason)
                return loss
            gradient.drop()
        self._tell("skipped", reason)
        self._skipped += 1
        self._all_skipped += 1
        if STANDSTILL in (self._skipped, self._all_skipped):
            in_a_row = " in a row" * (self._skipped == STANDSTILL)
            then = (
                "nothing is learned" if in_a_row else "what they would have taught is not learned"
            )
            warn(
                f"heal_ has skipped {STANDSTILL} steps{in_a_row}, the last one because {reason}: "
                f"{then}; look at healing.events, and if it is no fault, give heal_ another "
                "gradient_factor",
            )
        return loss

    def _after_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if closure_of(args, kwargs) is not None:
            self._gradients[optimizer].spend()
        with self._lock:
            if self._step.end():
                self.steps += 1
                if not self._updating:
                    self.refresh()

    def _before_loading(self, target: Any, state: Any, prefix: str = "", *_: Any) -> None:
        """What is not loaded stays as it was: it is looked at before all is taken for right."""
        if not prefix:  # all of it, not one submodule after the other
            self._loading = target
        if self._snapshot.outdated or self._within():
            return
        try:
            self.check_()
        except DamageError as error:  # perhaps that is why something is loaded
            self._accept(f"{error}; what is not loaded now is taken for right")
            self._snapshot.outdated = True
        # An optimizer that refuses what it is given has loaded nothing.
        self._snapshot.outdated |= not isinstance(target, torch.optim.Optimizer)

    def _after_loading(self, target: Any, *_: Any) -> None:
        self._snapshot.outdated = True
        if target is self._model:
            self._spoiled.clear()  # who goes back to a checkpoint computes anew
        if target is self._loading and not self._within():
            self.refresh()

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
        warn(f"{reason}: give heal_ all optimizers of the model")

    def _everywhere(self, reason: str, lost: bool = False) -> str:
        """The reason, or that of another process: all take a step, or none does.

        Raises:
            DamageError: if this process has not lost what it holds, but another one has.
        """
        if not in_parallel():
            return reason
        import torch.distributed as dist

        device = parameters_of(self._optimizers)[0].device
        worst = torch.tensor(2 if lost else int(bool(reason)), device=device)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        if not lost and int(worst) == 2:
            raise DamageError(
                f"another process has damage since step {self.steps} that it cannot repair, and "
                "says which: go back to a checkpoint in all of them"
            )
        return reason or ("wrong in another process" if int(worst) else "")

    def _pass_over(self, reason: str) -> None:
        """Tell of what cannot be watched."""
        self._tell("unwatched", reason)
        warn(f"{reason}, so heal_ does not watch it")

    def _accept(self, reason: str) -> None:
        """Tell of what is taken for right without being known to be."""
        self._tell("accepted", reason)
        warn(reason)

    def _tell(self, kind: TrainingKind, reason: str, changes: tuple[Change, ...] = ()) -> None:
        event = Event(kind, self.steps, reason, changes)
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def __repr__(self) -> str:
        steps, events = counted(self.steps, "step"), counted(len(self.events), "event")
        return f"<Healing: {steps} seen, {events}>"

    def _trains_with(self, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
        """Whether a parameter that some optimizers step is one of its own optimizers."""
        ours = set(map(id, parameters_of(self._optimizers)))
        return any(id(each) in ours for each in parameters_of(optimizers))

    def _give_way(self) -> None:
        """End, as another one takes over, and tell of it."""
        self.remove()
        reason = f"{self} ends: heal_ was called again for weights that it trains"
        self._tell("unwatched", reason)
        warn(f"{reason}; remove() it before, if that is meant")

    def remove(self) -> None:
        watchers.discard(self)
        for hook in (*self._hooks, *self._after.values()):
            hook.remove()


def heal_(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    errors: int | None = 100,
    *,
    gradient_factor: float = GRADIENT_FACTOR,
    on_event: Callable[[Event], None] | None = None,
) -> Healing:
    """Watch a training run, and put back what goes wrong in weights and optimizer state.

    Sums are taken after every step. Those of weights are checked before the next forward, and
    before every twentieth if no step comes; all before the next step, and before a state dict is
    taken. What is found before the first forward costs nothing but the repair, and so does what is
    wrong in the optimizer's state, on which no gradient depends. Weights that are wrong after it
    may have spoiled the gradient: that is computed again if ``step`` got a closure, and else the
    step is skipped, by every optimizer. So is a step whose gradient is not finite or far larger
    than those before it; if the fifth in a row is as large as the four before it, the run has
    changed, and it is used. What a closure computes is looked at when it has been called for the
    first time in a step, unless the optimizer has moved weights before.

    Where the tensors are on one GPU that Triton compiles for (optimizers may keep their counters on
    the CPU), sums stay there, and the host waits once in a step: for the norm of the gradient and
    for whether anything was wrong. There nothing is compared before the forward, so all damage of
    weights may have spoiled the gradient; it is put back as elsewhere.

    Whoever changes weights on purpose outside of a step does so within `Healing.update`, or calls
    `Healing.refresh` afterwards, or `Healing.remove` before, as when training is done and a
    `Constraint` is to be sealed. Hooks of a step that move weights are registered after this.
    Loading state dicts, moving tensors and changing their dtype is noticed. What an exception in a
    closure leaves of a step is taken for right, with a warning and an event ``accepted`` if weights
    or state had been moved already.

    Takes two passes over weights and optimizer state in each step, one to sum up and a shorter one,
    a second shorter one over the weights, and no memory but the sums and copies of small tensors,
    unless copies of all are asked for. Buffers that a forward changes (running means) are not
    covered. Of sharded tensors every process looks after its own shard.

    Args:
        model: the module that is trained.
        optimizer: the one that steps its parameters, or several. What others step is not watched.
        errors: number of wrong 32-bit words between two steps that can be repaired. None for any
            number: copies of weights and state are kept then, on their devices, which take as much
            memory as these once more and less time than the sums for many errors.
        gradient_factor: how many times the largest norm of the last 100 steps a gradient may have;
            infinite if any that is finite will do.
        on_event: called with every event.

    Raises:
        SpecError: for a factor of 1 or less, a budget that cannot be, a model without parameters,
            parameters that are sparse or have no values yet (lazy modules), TorchScript, or an
            optimizer that lacks hooks of torch or steps no parameter of the model.

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
    optimizers = several(optimizer)
    healing = Healing(model, optimizers, errors, gradient_factor, on_event)
    for other in tuple(watchers):
        if isinstance(other, Healing) and other is not healing and other._trains_with(optimizers):
            other._give_way()
    return healing
