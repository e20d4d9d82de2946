"""Training inside the code: `constrain_`, one line in a training loop.

After an optimizer step the constrained weights are projected onto the code. The constraint is
linear, so whatever the optimizer does in between, projecting is exact and cheap; the network learns
to live with it, and what projecting a finished network would cost is not lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack
from weakref import WeakSet

import torch

from parimend.arguments import require, whole_number
from parimend.carriers import Options, Real, Request, choose, diagnose
from parimend.carriers import seal_ as seal_words_
from parimend.codes import Sparse
from parimend.errors import MismatchError, SpecError
from parimend.events import Event
from parimend.moving import moving
from parimend.names import some
from parimend.removable import Hook, Removable
from parimend.seal import Seal
from parimend.showing import counted
from parimend.stores.model import unwrapped
from parimend.stores.padding import blank, warn_of_filling
from parimend.stores.renorm import warn_of_shortening
from parimend.stores.shards import Shards, store_of
from parimend.training.constrained import Constrained
from parimend.training.hooks import (
    Step,
    after_backward,
    in_backward,
    on_gradient,
    on_steps_of_others,
    require_parameters,
    several,
    stepped_by,
    uncompiled,
)
from parimend.training.pace import TIMED, Pace
from parimend.training.trained import Trained
from parimend.warning import warn

_standing: WeakSet[Constraint] = WeakSet()
"""All that have hooks."""
STANDSTILL = 20
"""After so many backward passes without a step the weights are looked at."""


class Constraint(Removable):
    """Keeps weights of a model inside real codes while they are trained; see `constrain_`.

    A context manager: leaving it removes the hooks. No state_dict keys and no wrappers are added to
    the model.

    Attributes:
        steps: optimizer steps seen so far.
        events: weights that went wrong in a step and were put back, and what else was noticed, in
            order.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        request: Request,
        every: int | None,
    ) -> None:
        every = None if every is None else whole_number(every, "every", least=1)
        self._model, self._request = unwrapped(model), request
        self._optimizers = list(optimizers)
        self._trained = Trained(self._model, optimizers, request.only)
        require_parameters(self._model, optimizers, "constrain_")
        self._parameters = self._trained.parameters
        self._shards = Shards(self._parameters)
        chosen = choose(store_of(self._parameters), request)
        self._words = Constrained(self._parameters, chosen, self._shards, optimizers)
        self.steps = 0
        self.events = self._words.events
        weight, n = next(iter(self._parameters.values())), sum(code.n for code in self.codes)
        self._pace = Pace(n, every, self._shards, weight)
        self._unused = set(self._parameters)
        before, after = uncompiled(self._stepping), uncompiled(self._stepped)
        self._step = Step()  # of any of the optimizers
        self._have_stepped: set[torch.optim.Optimizer] = set()  # since `steps` was counted up
        self._backwards = 0  # since the last step
        self._others: set[str] = set()  # parameters that other optimizers step
        self._seal: Seal | None = None  # of these weights, once they were sealed
        self._hooks: list[Any] = [each.register_step_pre_hook(before) for each in optimizers]
        for module in self._model.modules():
            self._hooks.append(module.register_load_state_dict_post_hook(Hook(self._after_loading)))
        self._hooks.append(on_steps_of_others(optimizers, self._before_step_of_other))
        self._hooks.append(optimizers[-1].register_step_post_hook(after))
        if not self.sharded:  # processes would have to look together
            self._hooks.append(on_gradient(weight, self._after_backward))
        _standing.add(self)

    def _take_over(self) -> None:
        """End other constraints of the same weights: two codes would pull at them, and each would
        take them out of the other's seal.
        """
        held = set(map(id, self._parameters.values()))
        for other in tuple(_standing - {self}):
            if twice := [name for name, p in other._parameters.items() if id(p) in held]:
                other.remove()
                reason = f"{some(twice)}: {other} ends, as constrain_ was called again for them"
                other.events.append(Event("unwatched", other.steps, reason))
                warn(f"{reason}; remove() it before, if that is meant")

    @property
    def every(self) -> int:
        """The weights are projected after every so many steps; 1 until it is chosen by cost."""
        return self._pace.every or 1

    @property
    def sharded(self) -> bool:
        """Whether other processes hold a part of the weights."""
        return self._shards.several

    @property
    def codes(self) -> tuple[Sparse, ...]:
        """The code of every constrained word."""
        return self._words.codes

    def _stepping(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a step of any of the optimizers; what it is called with, where that is changed."""
        if self._step.begin():
            if optimizer in self._have_stepped:  # and the last one has not, this time
                self._stepped()
            self._have_stepped.add(optimizer)
        self._words.moved()
        if self.steps < TIMED:
            self._unused = {n for n in self._unused if self._parameters[n].grad is None}
        if (tangent := self._words.tangent(optimizer)) is None:
            return None
        self._trained.require_same()
        return tangent.called_with(args, kwargs)

    def _stepped(self, *_: Any) -> None:
        """All optimizers that step in this round have done so."""
        self._have_stepped.clear()
        self.steps += 1
        self._backwards = 0
        if self._pace.due(self.steps):
            if in_backward():  # which still needs weights as they were in the forward
                after_backward(self._project_at_pace)
            else:
                self._project_at_pace()
        if self.steps == TIMED and self._unused:
            warn(
                f"{some(self._unused)} had no gradient in {TIMED} steps, and is only moved to "
                "keep its word inside the code: leave it out with only=...",
            )

    def _project_at_pace(self) -> None:
        with self._pace.timing():
            self._return_()

    def _after_backward(self) -> None:
        """Look at the weights now and then while no step is taken: `torch.amp.GradScaler` takes
        none with gradients that are not finite, so it stands still when a weight is not.
        """
        self._backwards += 1
        if self._backwards % STANDSTILL == 0 and not self._step:
            after_backward(self._require_numbers)  # this pass may need the weights as they are

    def _require_numbers(self) -> None:
        if not all(bool(each.isfinite().all()) for each in self._parameters.values()):
            self._return_()

    def _after_loading(self, *_: Any) -> None:
        self._words.loaded()

    def _before_step_of_other(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell of weights that are trained, and not projected after it."""
        if self._step:
            return  # one that works inside ours
        theirs = stepped_by(optimizer, self._parameters.items())
        if theirs:
            self._words.moved()
        if taken := theirs - self._others:
            self._others |= taken
            reason = f"{some(taken)}: stepped by an optimizer that constrain_ was not given"
            self.events.append(Event("unwatched", self.steps, reason))
            warn(
                f"{reason}, so it leaves its code: remove() the constraint, and constrain_ again",
            )

    def project_(self) -> None:
        """Move all weights to the nearest ones inside their codes, and take them for right: to be
        called after changing them by hand.

        Raises:
            WordError: if weights are not finite; names them. Nothing was changed then.
            MismatchError: if a parameter was replaced, has become of another shape or dtype, or was
                taken out of the optimizer; names it.
        """
        self._words.loaded()
        self._return_()

    def _return_(self) -> None:
        self._trained.require_same()
        self._words.return_(self.steps)

    def residual(self) -> float:
        """The largest check, relative to the norm of its word: rounding noise after a projection.

        Training moves the weights off the code; projecting brings it back to about 1e-8.

        Raises:
            MismatchError: if a parameter was replaced, or has become of another shape or dtype;
                names it.
        """
        self._trained.require_same(stepped=False)
        return self._words.residual()

    def seal_(self, model: torch.nn.Module | None = None) -> Seal:
        """Finish: a last projection, exact rounding to the grid, and the seal; removes the hooks.
        Of weights that are as they were sealed, it is that seal again.

        Weights that went wrong since the last projection are put back first, as far as that can be
        told, see `parimend.training.judging`: all of them where no step was taken since.

        Args:
            model: a copy of the trained model to seal instead, for example a running average of its
                weights. The training can go on then.

        Raises:
            DamageError: if the weights have moved farther since the last projection than training
                moves them, and it cannot be told which. Nothing was sealed then.
            WordError: if weights are not finite or have no grid; names the parameter.
            MismatchError: if a parameter was replaced or has become of another shape or dtype, or
                the copy lacks one, or has one of another shape or dtype.
        """
        if model is not None:
            require(model, "model", "a copy of the trained torch.nn.Module", torch.nn.Module)
        ours = model is None or unwrapped(model) is self._model
        parameters = self._parameters if ours else self._trained.same_in(unwrapped(model))
        if ours:
            self._trained.require_same(stepped=False)
            if self._seal and diagnose(self._seal, store_of(parameters)).ok:
                return self._seal
        with moving(parameters.values()):
            if ours:
                self._words.judge_(self.steps, self.every)
            else:
                self._words.judge_copy_(parameters, self.steps)
            if ours and self.steps == 0 and self.residual() > 1e-3:
                warn(
                    "the weights have changed, but the optimizer given to constrain_ took no step: "
                    "the network was not trained inside the code",
                )
            tensors = store_of(parameters)
            seal = seal_words_(tensors, [*self._words.on_grids(parameters)], self._request)
        sealed = self._model if model is None else unwrapped(model)
        warn_of_shortening(sealed, parameters, moved=True)
        if ours:
            self._seal = seal
            self.remove()
        return seal

    def remove(self) -> None:
        _standing.discard(self)
        for hook in self._hooks:
            hook.remove()
        self._hooks = [on_steps_of_others((), self._before_step_after_removal)]

    def _before_step_after_removal(self, optimizer: torch.optim.Optimizer) -> None:
        """Steps are not followed any more: nothing is known of where they lead."""
        if stepped_by(optimizer, self._parameters.items()):
            self._words.loaded()
            for hook in self._hooks:
                hook.remove()

    def __repr__(self) -> str:
        words = counted(len(self.codes), "protected word")
        weights = counted(sum(code.n for code in self.codes), "weight")
        return (
            f"<Constraint: {words} of {weights}, projected every {counted(self.every, 'step')}, "
            f"{counted(self.steps, 'step')} taken>"
        )

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to resume exactly; plain values."""
        return {
            "steps": self.steps,
            "every": self._pace.every,
            "words": self._words.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was taken; load the model and the optimizer as well.

        Raises:
            MismatchError: if the codes are not those of this constraint, or it is something else.
                Nothing was changed then.
        """
        require(state, "state", "what state_dict() of a constraint gave", Mapping)
        try:
            steps, every = whole_number(state["steps"], "steps", least=0), state["every"]
            every = None if every is None else whole_number(every, "every", least=1)
            self._words.load(state["words"], projected=steps - steps % (every or 1))
        except MismatchError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            why = f" ({error})" if isinstance(error, SpecError) else ""
            raise MismatchError(
                "this is no state of a constraint, or a damaged one: give what its state_dict() "
                f"gave{why}"
            ) from None
        self.steps = steps
        self._pace.restart(every)


def constrain_(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    errors: int,
    carrier: Real | Literal["real"] = "real",
    *,
    every: int | None = None,
    state: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Constraint:
    """Train weights inside real codes, so that any ``errors`` wrong ones can be repaired.

    The weights are projected now and after optimizer steps. When training is done, call
    `Constraint.seal_` for the last projection, exact rounding and the seal. Gradients are left as
    they are, but for `torch.optim.LBFGS` and `torch.optim.Rprop`, see `parimend.training.tangent`.

    Args:
        model: the module that is trained. Its forward, state_dict and parameters stay as they are.
            It may be wrapped for data parallelism, sharded by `fully_shard`, or compiled.
        optimizer: the one that steps the constrained parameters, or several that step in this
            order.
        errors: number of wrong 32-bit words that can be repaired, in each constrained word; see
            `parimend.protect_`.
        carrier: `parimend.Real` with its options, where they are not the usual ones.
        every: project after every so many steps. By default the cost decides: the first 20 steps
            are timed, and projecting may then take 4 % of a step (words of up to 20,000 weights) or
            12 % (longer ones). Give it where runs must be repeatable to the bit.
        state: of an interrupted run (`Constraint.state_dict`) whose weights are loaded already.
            They are then left as they are, and training goes on exactly.
        **options: ``only``, ``per``, ``seed`` and ``guaranteed``; see `parimend.Options`.

    Raises:
        MismatchError: if the state is that of other codes.
        SpecError: if a word has too few weights for so many errors, or a constrained parameter is
            frozen or not the optimizer's, or an optimizer steps none of the model's, or L-BFGS or
            Rprop step a part of a word, or a module is TorchScript; names it.
        WordError: if a parameter cannot be on a grid (half precision, for instance), or holds signs
            of Householder reflections; names it.

    Example:
        >>> model = torch.nn.Linear(64, 10)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> constraint = constrain_(model, optimizer, errors=5)
        >>> for _ in range(3):
        ...     loss = model(torch.ones(1, 64)).square().sum()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> constraint.residual() < 1e-6
        True
        >>> seal = constraint.seal_()
        >>> seal.words[0].code.m
        24
    """
    request = Request.of(errors, carrier, **options)
    require(request.carrier, "carrier", "'real' or a Real with its options", Real)
    if isinstance(request.carrier, Real) and request.carrier.calibration is not None:
        raise SpecError(
            "calibration is for weights that are not trained any more: constrain_ takes none, as "
            "training itself moves the weights to where the constraint costs least"
        )
    constraint = Constraint(model, several(optimizer), request, every)
    try:
        if state is None:
            padding = blank(unwrapped(model))
            constraint.project_()
            warn_of_filling(padding)
        else:
            constraint.load_state_dict(state)
        constraint._take_over()
    except BaseException:
        constraint.remove()
        raise
    return constraint
