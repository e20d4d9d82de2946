"""Protecting tensors: the same for models and files, whatever the carrier is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from parimend.arguments import whole_number
from parimend.carriers.base import require_match
from parimend.carriers.carrier import (
    Carrier,
    CarrierName,
    Chosen,
    Options,
    PlannedWord,
    Progress,
    carrier,
    carrier_of,
)
from parimend.errors import SpecError
from parimend.seal import Seal
from parimend.stores.base import Tensors
from parimend.words.layout import Per, split


@dataclass(frozen=True)
class Request:
    """What is asked of a protection; see `parimend.protect_`."""

    errors: int
    carrier: Carrier
    only: Sequence[str] | None = None
    per: Per = "model"
    seed: int = 0
    guaranteed: int | None = None

    def __post_init__(self) -> None:
        if self.guaranteed is None:
            return
        if not 1 <= whole_number(self.guaranteed, "guaranteed") <= self.errors:
            raise SpecError(
                f"guaranteed must be 1 to errors={self.errors}, of which it is a part, not "
                f"{self.guaranteed}"
            )

    @classmethod
    def of(cls, errors: int, wanted: Carrier | CarrierName, **options: Unpack[Options]) -> Request:
        """As the arguments of `parimend.protect_` say it.

        Raises:
            SpecError: if there is no such carrier, number of errors, or option.
        """
        for option in options.keys() - Options.__annotations__.keys():
            raise SpecError(
                f"{option} is no option of every protection "
                f"({', '.join(Options.__annotations__)}): "
                "if it is a carrier's own, give it to that, as in carrier=Real(bits=18)"
            )
        return cls(whole_number(errors), carrier(wanted), **options)

    def fitted(self, model: Any) -> Request:
        """The same with a carrier that knows of a model what it has to."""
        return replace(self, carrier=self.carrier.fitted(model))


def choose(tensors: Tensors, request: Request) -> list[Chosen]:
    """The code of every word and what the word is made of.

    Raises:
        SpecError, WordError: see `Carrier.choose` and `Carrier.guarantee`.
    """
    words = split(tensors.whole(), request.per)
    carrier, errors = request.carrier, request.errors
    chosen = carrier.choose(words, tensors, errors, request.seed)
    if request.guaranteed is None:
        return chosen
    return carrier.guarantee(chosen, errors, request.guaranteed)


def plan(tensors: Tensors, request: Request) -> tuple[PlannedWord, ...]:
    """What `protect_` would take; nothing is changed."""
    chosen = choose(tensors, request)
    return tuple(request.carrier.plan(each, request.errors) for each in chosen)


def protect_(
    tensors: Tensors, request: Request, progress: Progress = lambda elements: None
) -> Seal:
    """Seal the tensors, all of them. Carriers that live in the weights also write them, once
    everything is computed.
    """
    return seal_(tensors, choose(tensors, request), request, progress)


def seal_(
    tensors: Tensors,
    chosen: Sequence[Chosen],
    request: Request,
    progress: Progress = lambda elements: None,
) -> Seal:
    """`protect_` with the codes and words already chosen."""
    words, moved = request.carrier.seal_(chosen, tensors, progress)
    notes = {"moved": [float(f"{each:.3g}") for each in moved]} if moved else {}
    return Seal(request.carrier.name, request.errors, words, notes)


def refresh(seal: Seal, tensors: Tensors) -> Seal:
    """Seal updated weights anew with the codes and layout of an old seal.

    Raises:
        SpecError: for carriers that live in the weights: an update takes them out of their code.
    """
    require_match(seal, tensors)
    words = [carrier_of(word.code).renew(word, tensors) for word in seal.words]
    return replace(seal, words=tuple(words))
