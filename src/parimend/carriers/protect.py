"""Protecting tensors: the same for models and files, whatever the carrier is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Unpack, runtime_checkable

from parimend.arguments import seed_of, whole_number
from parimend.carriers.balance import Balance
from parimend.carriers.base import renewed, require_alike, require_match
from parimend.carriers.carrier import (
    Carrier,
    Chosen,
    Options,
    PlannedWord,
    carrier,
)
from parimend.carriers.exposure import side_by_side
from parimend.codes import Code
from parimend.errors import SpecError
from parimend.seal import MOST_ERRORS, CarrierName, Seal
from parimend.stores.base import Tensors
from parimend.words.layout import Per, split


@dataclass(frozen=True)
class Request:
    """What is asked of a protection; see `parimend.protect_`.

    Attributes:
        balance: one word for each of its shares, of the tensors that it names; ``sidecar`` only,
            and then ``errors`` is that of the balance and the other options are as by default.
        buffers: whether the buffers of modules are protected, too.
    """

    errors: int
    carrier: Carrier
    only: Sequence[str] | None = None
    per: Per = "model"
    seed: int = 0
    guaranteed: int | None = None
    balance: Balance | None = None
    buffers: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", whole_number(self.errors, most=MOST_ERRORS))
        object.__setattr__(self, "seed", seed_of(self.seed))
        if self.guaranteed is not None:
            name = "guaranteed, a part of errors,"
            guaranteed = whole_number(self.guaranteed, name, 1, self.errors)
            object.__setattr__(self, "guaranteed", guaranteed)
        if self.balance is None:
            return
        if self.carrier.moves:
            raise SpecError(
                f"the {self.carrier.name} carrier holds whole weights: a budget that is balanced "
                "over their bits takes carrier='sidecar'"
            )
        if (self.errors, self.only, self.per) != (self.balance.errors, None, "model"):
            raise SpecError(
                "a balance says which tensors, words and budgets there are: give no others"
            )

    @classmethod
    def of(
        cls,
        errors: int | Planned,
        wanted: Carrier | CarrierName = "sidecar",
        **options: Unpack[Options],
    ) -> Request:
        """As the arguments of `parimend.protect_` say it.

        Raises:
            SpecError: if there is no such carrier, number of errors, or option.
        """
        if isinstance(errors, Planned):
            if options or wanted != "sidecar":
                raise SpecError("a plan says how to protect: give no carrier or option beside it")
            return errors.request
        for option in options.keys() - Options.__annotations__.keys():
            raise SpecError(
                f"{option} is no option of every protection "
                f"({', '.join(Options.__annotations__)}): "
                "if it is a carrier's own, give it to that, as in carrier=Real(bits=18)"
            )
        return cls(errors, carrier(wanted), **options)

    def fitted(self, model: Any, tensors: Tensors) -> Request:
        """The same with a carrier that knows what it has to of a model with these tensors."""
        return replace(self, carrier=self.carrier.fitted(model, tensors))


@runtime_checkable
class Planned(Protocol):
    """A plan: it says what is asked for, and stands in place of ``errors``."""

    @property
    def request(self) -> Request:
        """What is asked for."""


def choose(tensors: Tensors, request: Request) -> list[Chosen]:
    """The code of every word and what the word is made of.

    Raises:
        MismatchError: if a balance is one of other tensors; names the first.
        SpecError, WordError: see `Carrier.choose` and `Carrier.guarantee`.
    """
    return [chosen for chosen, _ in _budgeted(tensors, request)]


def plan(tensors: Tensors, request: Request, prove: bool = True) -> tuple[PlannedWord, ...]:
    """What `protect_` would take; nothing is changed. See `Carrier.guarantee` for ``prove``."""
    carrier, every = request.carrier, _budgeted(tensors, request, prove)
    return side_by_side([carrier.plan(chosen, errors) for chosen, errors in every])


def _budgeted(
    tensors: Tensors, request: Request, prove: bool = True
) -> Iterator[tuple[Chosen, int]]:
    """Every word with its code and its budget."""
    carrier, codes = request.carrier, dict[Code, Code]()
    shares = [(split(tensors.whole(), request.per), request.errors)]
    if request.balance is not None:
        request.balance.require_match(tensors.whole())
        shares = [([share.word], share.errors) for share in request.balance.shares]
    for words, errors in shares:
        chosen = carrier.choose(words, tensors, errors, request.seed)
        if request.guaranteed is not None:
            chosen = carrier.guarantee(chosen, errors, request.guaranteed, prove)
        for each in chosen:  # words of equal codes share what is derived from these
            yield each._replace(code=codes.setdefault(each.code, each.code)), errors


def protect_(tensors: Tensors, request: Request) -> Seal:
    """Seal the tensors, all of them. Carriers that live in the weights also write them, once
    everything is computed.

    Raises:
        WordError: see `require_alike`.
    """
    require_alike(tensors)
    return seal_(tensors, choose(tensors, request), request)


def seal_(tensors: Tensors, chosen: Sequence[Chosen], request: Request) -> Seal:
    """`protect_` with the codes and words already chosen."""
    words, moved = request.carrier.seal_(chosen, tensors)
    notes = {"moved": [float(f"{each:.3g}") for each in moved]} if moved else {}
    return Seal(request.carrier.name, request.errors, words, notes)


def refresh(seal: Seal, tensors: Tensors) -> Seal:
    """Seal updated weights anew with the codes and layout of an old seal.

    Raises:
        SpecError: for carriers that live in the weights: an update takes them out of their code.
    """
    require_match(seal, tensors)
    return replace(seal, words=tuple(renewed(seal.words, tensors)))
