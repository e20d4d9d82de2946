"""Weights in words of real codes: kept inside them, and put back where they went wrong.

The constraint is an invariant: a step moves its checks a little, a weight that went wrong in the
step moves a few of them much. Such weights are located and put back before a projection would
spread their damage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.arguments import real_number, whole_number
from parimend.carriers import Chosen
from parimend.codes import Code, Sparse, from_spec
from parimend.errors import DamageError, MismatchError, SpecError, WordError
from parimend.events import Event
from parimend.moving import moving
from parimend.stores.shards import Shards
from parimend.training.growth import COARSE, doublings, evenly, uneven
from parimend.training.iterates import Iterates
from parimend.training.judging import Since, judge_
from parimend.training.outliers import OUTGROWN, Outliers, put_back_
from parimend.training.projection import Projection
from parimend.training.tangent import Tangent, infers
from parimend.warning import warn
from parimend.words.grid import Grid
from parimend.words.layout import Word


class Constrained:
    """Words of weights that are trained, and what they have been through since they were inside.

    Args:
        parameters: by name.
        words: of them, as they were chosen.
        shards: of the parameters.
        optimizers: those that step them.

    Attributes:
        events: weights that went wrong and were put back, and what else was noticed, in order.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        words: Sequence[Chosen],
        shards: Shards,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        self._parameters, self._shards, self._optimizers = parameters, shards, optimizers
        self._constrain(words)
        self.events: list[Event] = []
        self._since: Since = "stepped"
        self._projected = 0  # steps seen then

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
    def codes(self) -> tuple[Sparse, ...]:
        """The code of every word."""
        return tuple(word.code for word in self._words)

    def tangent(self, optimizer: torch.optim.Optimizer) -> Tangent | None:
        """What keeps the steps of an optimizer along the codes, if it has to be kept there."""
        return self._tangents.get(optimizer)

    def moved(self) -> None:
        """To be called when a step moves weights."""
        if self._since == "inside":
            self._since = "stepped"

    def loaded(self) -> None:
        """To be called when weights were changed otherwise, which says nothing about steps."""
        self._since = "unknown"

    @torch.no_grad()
    def return_(self, steps: int) -> None:
        """Put back weights that went wrong since the last projection, as far as they can be told
        from what training does, and move all to the nearest ones inside their codes.

        Args:
            steps: so many were seen.

        Raises:
            WordError: if weights are not finite; names them. Nothing was changed then.
        """
        with moving(self._parameters.values()):
            checks = self._heal_(steps)
            # Seldom, as it takes a look at all weights; the first steps are when they grow most.
            looks = self._since == "unknown" or steps.bit_length() > self._projected.bit_length()
            if looks and self._regrid():
                checks = self._projection.checks()
            self._projection.project_(checks)
            self._since = "inside" if self._iterates.project_() else "stepped"
            self._projected = steps

    def _regrid(self) -> bool:
        """Give other grids to words of which some tensors have grown far more than others; whether
        there are any. Such a word has another constraint then, and what its checks were says
        nothing of this one.
        """
        words = list(self._words)
        for number, each in enumerate(words):
            exponents, grown = _grown(self._projection, number, each)
            fitting = uneven(exponents, grown)
            # No step leads so far at once, see OUTGROWN; whoever sets weights by hand may.
            far = math.inf if self._since == "unknown" else max(exponents) + math.log2(OUTGROWN)
            if fitting and max(fitting) <= far and each.code.fits(_placed(each, fitting).word):
                words[number] = _placed(each, fitting)
        same = [new is old for new, old in zip(words, self._words, strict=True)]
        if all(same):
            return False
        before = self._outliers
        self._constrain(words)
        for number in np.flatnonzero(same).tolist():
            self._outliers[number] = before[number]
        return True

    def _heal_(self, steps: int) -> list[NDArray[np.float64]]:
        """Put back single weights that explain odd checks; the checks then."""
        checks = self._projection.checks()
        if not steps or self._since == "unknown":
            self._projection.require_finite(checks, steps)
            return checks
        self._expect(steps - self._projected)
        odd = [n for n, each in enumerate(self._outliers) if not each.ordinary(checks[n])]
        if not odd:
            return checks
        self.events += [
            put_back_(self._projection, n, self._words[n], self._outliers[n], steps) for n in odd
        ]
        checks = self._projection.checks()
        self._projection.require_finite(checks, steps)
        for number in odd:
            self._outliers[number].accept(checks[number])
        return checks

    def _expect(self, steps: int) -> None:
        """Judge checks by what so many steps may do."""
        for each in self._outliers:
            each.steps = max(1, steps)

    def residual(self) -> float:
        """The largest check, relative to the norm of its word."""
        return self._projection.residual()

    def judge_(self, steps: int, every: int) -> None:
        """Refuse weights that training has not led to, unless they can be put back.

        Args:
            steps: so many were seen.
            every: after so many they are projected.

        Raises:
            DamageError: if it cannot be told which weights are damaged.
            WordError: if weights are not finite; names them.
        """
        # An average that was put in is as far from the code as what it was made of.
        self._expect(every if self._since == "inside" else steps - self._projected)
        self._judge_(self._projection, self._since, steps)

    def judge_copy_(self, parameters: Mapping[str, torch.Tensor], steps: int) -> None:
        """`judge_` the same parameters of a copy of the model."""
        self._judge_(Projection(parameters, self._words, Shards(parameters)), "unknown", steps)

    @torch.no_grad()
    def _judge_(self, projection: Projection, since: Since, steps: int) -> None:
        events = judge_(projection, self._words, self._outliers, since, steps)
        self.events += events
        projection.require_finite(projection.checks(), steps)
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

    def on_grids(self, parameters: Mapping[str, torch.Tensor]) -> Iterator[Chosen]:
        """The words on grids that hold their weights as they are now, here or in a copy.

        Weights have grown or shrunk since the grids were chosen. All steps of a word change by one
        factor, which leaves its real constraint what it was in training; unless some tensors have
        grown so much that it would leave nothing of others.

        Raises:
            WordError: if there are no such grids.
        """
        projection = Projection(parameters, self._words, Shards(parameters))
        for number, each in enumerate(self._words):
            exponents, grown = _grown(projection, number, each)
            even = evenly(exponents, grown, each.code.word_bits)
            placed = _placed(each, uneven(exponents, grown, COARSE) or even)
            if not each.code.fits(placed.word):
                raise WordError(
                    f"{each.word.name}: weights have become too large for any grid of "
                    f"{each.code.word_bits} bits"
                )
            yield placed

    def state(self) -> list[dict[str, Any]]:
        """What `load` needs to go on exactly; plain values, for every word."""
        return [
            {
                "code": word.code.spec(),
                "exponents": [part.exponent for part in word.word],
                "checks": outliers.state(),
            }
            for word, outliers in zip(self._words, self._outliers, strict=True)
        ]

    def load(self, state: Sequence[Mapping[str, Any]], projected: int) -> None:
        """Go on where `state` was taken.

        Args:
            state: of every word.
            projected: so many steps had been seen at the last projection before it.

        Raises:
            MismatchError: if the codes are others.
            LookupError, TypeError, ValueError: if it is something else. Nothing was changed then.
        """
        saved = [_read(each) for each in state]
        codes = [code for code, *_ in saved]
        if codes != [word.code for word in self._words]:
            raise MismatchError(
                "the saved constraint uses other codes than this one: call constrain_ with the "
                f"arguments of the saved run ({[code.spec() for code in codes]})"
            )
        words = [
            _placed(word, exponents)
            for word, (_, exponents, _) in zip(self._words, saved, strict=True)
        ]
        if not all(each.code.fits(each.word) for each in words):
            raise SpecError("its weights have no such grids")
        self._constrain(words)
        for outliers, (*_, checks) in zip(self._outliers, saved, strict=True):
            outliers.load(checks)
        self._projected = projected
        self.moved()


def _read(state: Mapping[str, Any]) -> tuple[Code, list[int], list[float]]:
    """The code of a word, the exponents of its grids, and its checks, as `state` gave them."""
    exponents = [whole_number(each, "exponents") for each in state["exponents"]]
    checks = [real_number(each, "checks", least=0.0) for each in state["checks"]]
    return from_spec(state["code"]), exponents, checks


def _grown(projection: Projection, number: int, chosen: Chosen) -> tuple[list[int], list[int]]:
    """Of every part of a word the exponent of its grid, and by how much its weights have outgrown
    that, see `doublings`.
    """
    exponents = [part.exponent for part in chosen.word]
    grids = (Grid(chosen.code.word_bits, exponent) for exponent in exponents)
    return exponents, list(map(doublings, projection.sizes(number), grids))


def _placed(chosen: Chosen, exponents: Sequence[int]) -> Chosen:
    """A word with its parts on grids of these steps."""
    pairs = zip(chosen.word, exponents, strict=True)
    return chosen._replace(word=Word(tuple(replace(p, exponent=e) for p, e in pairs)))
