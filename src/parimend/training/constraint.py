"""Training inside the code: `constrain_`, one line in a training loop.

After an optimizer step the constrained weights are projected onto the code. The constraint is
linear, so whatever the optimizer does in between, projecting is exact and cheap; the network learns
to live with it, and what projecting a finished network would cost is not lost.

The constraint is also an invariant: a step moves its checks a little, a weight that went wrong in
the step moves a few of them much. Such weights are located and put back before the projection would
spread their damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.arguments import require, whole_number
from parimend.carriers import Chosen, Options, Real, Request, choose, diagnose
from parimend.carriers import seal_ as seal_words_
from parimend.carriers.real import grid_of
from parimend.codes import Sparse, from_spec
from parimend.errors import DamageError, MismatchError
from parimend.events import Event
from parimend.moving import moving
from parimend.names import some
from parimend.removable import Hook, Removable
from parimend.seal import Seal
from parimend.showing import counted
from parimend.stores.base import Tensors
from parimend.stores.model import unwrapped
from parimend.stores.shards import Shards, store_of
from parimend.training.hooks import (
    Step,
    on_gradient,
    on_steps_of_others,
    require_parameters,
    several,
    stepped_by,
    uncompiled,
)
from parimend.training.iterates import Iterates
from parimend.training.judging import Since, judge_
from parimend.training.outliers import Outliers, put_back_
from parimend.training.pace import TIMED, Pace
from parimend.training.projection import Projection
from parimend.training.tangent import Tangent, infers
from parimend.training.trained import Trained
from parimend.warning import warn
from parimend.words.layout import Word

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
        self._constrain(chosen)
        self.steps = 0
        self.events: list[Event] = []
        weight, n = next(iter(self._parameters.values())), sum(code.n for code in self.codes)
        self._pace = Pace(n, every, self._shards, weight)
        self._unused = set(self._parameters)
        before, after = uncompiled(self._stepping), uncompiled(self._stepped)
        self._step = Step()  # of any of the optimizers
        self._have_stepped: set[torch.optim.Optimizer] = set()  # since `steps` was counted up
        self._backwards = 0  # since the last step
        self._loaded = False  # weights, since the last projection
        self._inside = False  # nothing has moved them since then
        self._projected = 0  # steps seen then
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

    def _constrain(self, words: Sequence[Chosen]) -> None:
        self._words = tuple(words)
        self._projection = Projection(self._parameters, words, self._shards)
        self._outliers = [Outliers(word.code) for word in words]
        self._iterates = Iterates(self._parameters, words, self._optimizers)
        self._tangents = {
            each: Tangent(self._parameters, words, self._shards, each)
            for each in self._optimizers
            if infers(each)
        }

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
        return tuple(word.code for word in self._words)

    def _stepping(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a step of any of the optimizers; what it is called with, where that is changed."""
        if self._step.begin():
            if optimizer in self._have_stepped:  # and the last one has not, this time
                self._stepped()
            self._have_stepped.add(optimizer)
        self._inside = False
        if self.steps < TIMED:
            self._unused = {n for n in self._unused if self._parameters[n].grad is None}
        tangent = self._tangents.get(optimizer)
        return None if tangent is None else tangent.called_with(args, kwargs)

    def _stepped(self, *_: Any) -> None:
        """All optimizers that step in this round have done so."""
        self._have_stepped.clear()
        self.steps += 1
        self._backwards = 0
        if self._pace.due(self.steps):
            with self._pace.timing():
                self._return_()
        if self.steps == TIMED and self._unused:
            warn(
                f"{some(self._unused)} had no gradient in {TIMED} steps, and is only moved to "
                "keep its word inside the code: leave it out with only=...",
            )

    def _after_backward(self) -> None:
        """Look at the weights now and then while no step is taken: `torch.amp.GradScaler` takes
        none with gradients that are not finite, so it stands still when a weight is not.
        """
        self._backwards += 1
        if self._backwards % STANDSTILL == 0 and not self._step:
            # Not before the end of this pass, which may need the weights as they are.
            torch.autograd.Variable._execution_engine.queue_callback(self._require_numbers)

    def _require_numbers(self) -> None:
        if not all(bool(each.isfinite().all()) for each in self._parameters.values()):
            self._return_()

    def _after_loading(self, *_: Any) -> None:
        self._loaded, self._inside = True, False

    def _before_step_of_other(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell of weights that are trained, and not projected after it."""
        if self._step:
            return  # one that works inside ours
        theirs = stepped_by(optimizer, self._parameters.items())
        self._inside &= not theirs
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
            MismatchError: if a parameter was replaced, has become of another dtype, or was taken
                out of the optimizer; names it.
        """
        self._loaded = True  # they say nothing about steps
        self._return_()

    @torch.no_grad()
    def _return_(self) -> None:
        """Put back weights that went wrong since the last projection, as far as they can be told
        from what training does, and move all to the nearest ones inside their codes.
        """
        self._trained.require_same()
        with moving(self._parameters.values()):
            self._projection.project_(self._heal_())
            self._inside = self._iterates.project_()
            self._projected = self.steps

    def _heal_(self) -> list[NDArray[np.float64]]:
        """Put back single weights that explain odd checks; the checks then."""
        checks = self._projection.checks()
        if not self.steps or self._loaded:  # these weights say nothing about steps
            self._projection.require_finite(checks, self.steps)
            self._loaded = False
            return checks
        self._expect(self.steps - self._projected)
        odd = [n for n, each in enumerate(self._outliers) if not each.ordinary(checks[n])]
        if not odd:
            return checks
        self.events += [
            put_back_(self._projection, n, self._words[n], self._outliers[n], self.steps)
            for n in odd
        ]
        checks = self._projection.checks()
        self._projection.require_finite(checks, self.steps)
        for number in odd:
            self._outliers[number].accept(checks[number])
        return checks

    def _expect(self, steps: int) -> None:
        """Judge checks by what so many steps may do."""
        for each in self._outliers:
            each.steps = max(1, steps)

    def residual(self) -> float:
        """The largest check, relative to the norm of its word: rounding noise after a projection.

        Training moves the weights off the code; projecting brings it back to about 1e-8.
        """
        return self._projection.residual()

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
            MismatchError: if a parameter was replaced or has become of another dtype, or the copy
                lacks one, or has one of another shape or dtype.
        """
        ours = model is None or unwrapped(model) is self._model
        parameters = self._parameters if ours else self._trained.same_in(unwrapped(model))
        if ours and self._seal and diagnose(self._seal, store_of(parameters)).ok:
            return self._seal
        with moving(parameters.values()):
            self._judge_(parameters, ours)
            if ours and self.steps == 0 and self.residual() > 1e-3:
                warn(
                    "the weights have changed, but the optimizer given to constrain_ took no step: "
                    "the network was not trained inside the code",
                )
            tensors = store_of(parameters)
            seal = seal_words_(tensors, [*_on_grids(self._words, tensors)], self._request)
        if ours:
            self._seal = seal
            self.remove()
        return seal

    @torch.no_grad()
    def _judge_(self, parameters: Mapping[str, torch.Tensor], ours: bool) -> None:
        """Refuse weights that training has not led to, unless they can be put back."""
        since: Since
        if ours:
            self._trained.require_same(stepped=False)
            projection = self._projection
            since = "unknown" if self._loaded else "inside" if self._inside else "stepped"
            # An average that was put in is as far from the code as what it was made of.
            self._expect(self.every if self._inside else self.steps - self._projected)
        else:
            projection = Projection(parameters, self._words, Shards(parameters))
            since = "unknown"
        events = judge_(projection, self._words, self._outliers, since, self.steps)
        self.events += events
        projection.require_finite(projection.checks(), self.steps)
        for event in events:
            if event.kind == "unexplained":
                raise DamageError(
                    f"{event.reason}, and no few weights explain it: they are damaged, or the "
                    "training diverged; or they were changed by hand, or steps have just become "
                    "far longer: then call project_() and seal_() again"
                )
            if event.kind == "accepted":
                warn(
                    f"{event.reason}: taken for right, as an average that was put in is, and "
                    "damage may be, too",
                )

    def remove(self) -> None:
        _standing.discard(self)
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
            "words": [
                {
                    "code": word.code.spec(),
                    "exponents": [part.exponent for part in word.word],
                    "checks": outliers.state(),
                }
                for word, outliers in zip(self._words, self._outliers, strict=True)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was taken; load the model and the optimizer as well.

        Raises:
            MismatchError: if the codes are not those of this constraint.
        """
        require(state, "state", "what state_dict() of a constraint gave", Mapping)
        if not {"steps", "every", "words"} <= set(state):
            raise MismatchError("this is no state of a constraint: give what its state_dict() gave")
        saved = [from_spec(word["code"]) for word in state["words"]]
        if saved != [word.code for word in self._words]:
            raise MismatchError(
                "the saved constraint uses other codes than this one: call constrain_ with the "
                f"arguments of the saved run ({[code.spec() for code in saved]})"
            )
        words = []
        for word, entry in zip(self._words, state["words"], strict=True):
            pairs = zip(word.word, entry["exponents"], strict=True)
            parts = tuple(replace(p, exponent=e) for p, e in pairs)
            words.append(word._replace(word=Word(parts)))
        self._constrain(words)
        for outliers, entry in zip(self._outliers, state["words"], strict=True):
            outliers.load(entry["checks"])
        self.steps, self._inside = int(state["steps"]), False
        self._pace.restart(state["every"])
        self._projected = self.steps - self.steps % self.every


def _on_grids(words: Sequence[Chosen], tensors: Tensors) -> Iterator[Chosen]:
    """The words on grids that hold them.

    Weights have grown since the grids were chosen. All steps of a word change by one factor, which
    leaves its real constraint what it was in training.
    """
    needed: dict[str, int] = {}  # exponents; of a tensor once, also where words share it
    for each in words:
        for part in each.word:
            if part.name not in needed:
                needed[part.name] = grid_of(part, tensors, each.code.word_bits).exponent
        shift = max(0, *(needed[part.name] - part.exponent for part in each.word))
        parts = (replace(p, exponent=p.exponent + shift) for p in each.word)
        yield each._replace(word=Word(tuple(parts)))


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
    constraint = Constraint(model, several(optimizer), request, every)
    try:
        if state is None:
            constraint.project_()
        else:
            constraint.load_state_dict(state)
        constraint._take_over()
    except BaseException:
        constraint.remove()
        raise
    return constraint
