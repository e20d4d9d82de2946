"""Training inside the code: `constrain_`, one line in a training loop.

After an optimizer step the constrained weights are projected onto the code. The constraint is
linear, so whatever the optimizer does in between, projecting is exact and cheap; the network learns
to live with it, and what projecting a finished network would cost is not lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.carriers import Request, choose_codes, seal_
from parimend.codes import Sparse, from_spec
from parimend.errors import MismatchError, SpecError, WordError
from parimend.model import ModelTensors
from parimend.seal import Seal
from parimend.words.grid import Grid, choose_grid
from parimend.words.layout import Part, Per, named_tensors

LAZY_FROM = 20_000
"""Words longer than this are projected every `LAZY_EVERY` steps by default, which costs about the
same accuracy and keeps the cost of a step small."""
LAZY_EVERY = 25


class _Word(NamedTuple):
    code: Sparse
    parts: tuple[Part, ...]


class Constraint:
    """Keeps weights of a model inside real codes while they are trained; see `constrain_`.

    A context manager: leaving it removes the hook from the optimizer. Nothing is added to the
    model.

    Attributes:
        steps: optimizer steps seen so far.
        every: the weights are projected after every so many steps.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        request: Request,
        only: Sequence[str] | None,
        every: int | None,
    ) -> None:
        chosen = named_tensors(model, only=only)
        _require_trained(chosen, optimizer)
        self._parameters = chosen
        self._tensors = ModelTensors(chosen)
        self._request = request
        self._words = [
            _Word(code, parts)
            for code, parts in choose_codes(self._tensors, request)
            if isinstance(code, Sparse)
        ]
        longest = max(word.code.n for word in self._words)
        self.every = every if every is not None else (LAZY_EVERY if longest > LAZY_FROM else 1)
        if self.every < 1:
            raise SpecError(f"every must be at least 1, not {every}")
        self.steps = 0
        self._hook = optimizer.register_step_post_hook(self._stepped)
        self.project_()

    def _stepped(self, *_: Any) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            self.project_()

    @property
    def codes(self) -> tuple[Sparse, ...]:
        """The code of every constrained word."""
        return tuple(word.code for word in self._words)

    @torch.no_grad()
    def project_(self) -> None:
        """Move the constrained weights to the nearest ones inside their codes.

        Raises:
            WordError: if a weight is not finite; names the parameter. Nothing was changed then.
        """
        for word in self._words:
            x = word.code.project(self._gather(word))
            ends = np.cumsum([part.count for part in word.parts])[:-1]
            for part, values in zip(word.parts, np.split(x, ends), strict=True):
                parameter = self._parameters[part.name]
                flat = torch.from_numpy(values * _step(word, part))
                if part.count == parameter.numel():
                    parameter.copy_(flat.view(parameter.shape))
                else:
                    rows = parameter.view(-1) if parameter.is_contiguous() else None
                    if rows is None:
                        raise WordError(f"{part.name}: per='row' needs contiguous parameters")
                    rows[part.start : part.start + part.count] = flat.to(parameter.dtype)

    def _gather(self, word: _Word) -> NDArray[np.float64]:
        """The word as it is now, in grid steps."""
        pieces = []
        for part in word.parts:
            flat = self._parameters[part.name].detach().reshape(-1)
            values = flat[part.start : part.start + part.count].cpu().double().numpy()
            if not np.isfinite(values).all():
                raise WordError(
                    f"{part.name} has non-finite values after {self.steps} steps: the training "
                    "diverged, or the weights were damaged"
                )
            pieces.append(values / _step(word, part))
        return np.concatenate(pieces)

    def residual(self) -> float:
        """The largest check, relative to the norm of its word: rounding noise after a projection.

        Training moves the weights off the code; projecting brings it back to about 1e-8.
        """
        worst = 0.0
        for word in self._words:
            x = self._gather(word)
            size = max(float(np.linalg.norm(x)), 1e-300)
            worst = max(worst, float(np.abs(word.code.matvec(x)).max()) / size)
        return worst

    def seal_(self) -> Seal:
        """Finish: a last projection, exact rounding to the grid, and the seal; removes the hook.

        Raises:
            WordError: if weights are not finite or have no grid; names the parameter.
        """
        chosen = []
        for word in self._words:
            # Weights have grown since the grids were chosen. All steps of a word change by one
            # factor, which leaves its real constraint what it was in training.
            shift = 0
            for part in word.parts:
                values = self._parameters[part.name].detach().cpu().double().numpy()
                needed = choose_grid(values, part.dtype, part.name, word.code.word_bits)
                shift = max(shift, needed.exponent - part.exponent)
            parts = tuple(replace(p, exponent=p.exponent + shift) for p in word.parts)
            chosen.append((word.code, parts))
        seal = seal_(self._tensors, chosen, self._request)
        self.remove()
        return seal

    def remove(self) -> None:
        """Take the hook off the optimizer; the weights stay as they are."""
        self._hook.remove()

    def __enter__(self) -> Constraint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to resume exactly; plain values."""
        return {
            "steps": self.steps,
            "every": self.every,
            "words": [
                {"code": word.code.spec(), "exponents": [part.exponent for part in word.parts]}
                for word in self._words
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was taken.

        Raises:
            MismatchError: if the codes are not those of this constraint.
        """
        saved = [from_spec(word["code"]) for word in state["words"]]
        if saved != [word.code for word in self._words]:
            raise MismatchError(
                "the saved constraint uses other codes than this one: call constrain_ with the "
                f"arguments of the saved run ({[code.spec() for code in saved]})"
            )
        self._words = [
            _Word(
                word.code,
                tuple(
                    replace(part, exponent=exponent)
                    for part, exponent in zip(word.parts, entry["exponents"], strict=True)
                ),
            )
            for word, entry in zip(self._words, state["words"], strict=True)
        ]
        self.steps = int(state["steps"])
        self.every = int(state["every"])


def constrain_(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    errors: int,
    *,
    only: Sequence[str] | None = None,
    per: Per = "model",
    every: int | None = None,
    bits: int | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> Constraint:
    """Train weights inside real codes, so that any ``errors`` wrong ones can be repaired.

    The weights are projected now and after optimizer steps. When training is done, call
    `Constraint.seal_` for the last projection, exact rounding and the seal.

    Args:
        model: the module that is trained. Its forward, state_dict and parameters stay as they are.
        optimizer: the one that steps the constrained parameters.
        errors: number of wrong weights that can be repaired, in each constrained word.
        only: shell patterns; constrains the parameters whose names match one of them.
        per: one word for all of them, per tensor, or per output row.
        every: project after every so many steps; 1 for short words and 25 for long ones by default.
        bits: of a weight on its grid; 18 by default.
        rows: number of checks of every word, instead of as many as are needed.
        seed: selects the codes.

    Raises:
        SpecError: if a word has too few weights for so many errors, or a constrained parameter is
            frozen or not the optimizer's; names it.
        WordError: if a parameter cannot be on a grid (half precision, for instance); names it.

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
    request = Request(errors, "real", per, bits, rows, seed)
    return Constraint(model, optimizer, request, only, every)


def _step(word: _Word, part: Part) -> float:
    return Grid(word.code.word_bits, part.exponent).step


def _require_trained(
    chosen: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in chosen.items():
        if not parameter.requires_grad:
            raise SpecError(
                f"{name} is frozen: leave it out with only=..., or protect it with "
                "protect_(carrier='real')"
            )
        if id(parameter) not in stepped:
            raise SpecError(
                f"the optimizer does not step {name}: give the optimizer all constrained "
                "parameters, or leave it out with only=..."
            )
