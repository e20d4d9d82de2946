"""A budget spent on the bits that matter, with a guaranteed floor for all others.

Most of what flipped bits do to a network comes from few positions: exponents, signs, the first bits
of mantissas. They become a word of their own that has nearly all of the budget and sees only its
share of all flips. The other bits become a word with the floor. What exceeds the floor stays wrong,
is said to be `uncorrectable`, and does little: how little is measured.
"""

from __future__ import annotations

import copy
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from parimend.arguments import SEEDS, real_number, require, require_callable, seed_of, whole_number
from parimend.carriers import Balance, Request, Sidecar, choose, protect_
from parimend.carriers.summing import cut
from parimend.errors import CalibrationError, SpecError
from parimend.functions import METRIC
from parimend.impose.batches import batch_of, iterable
from parimend.impose.moments import ENOUGH, CalibrationWarning, Moments, second_moments
from parimend.planner.agreement import Agreement
from parimend.planner.sensitivity import Bit, sensitivity
from parimend.planner.striking import Judged, Strike, Trials, injected
from parimend.record import Record, plain
from parimend.seal import Seal, SealedWord
from parimend.stores.alone import left_alone
from parimend.stores.base import Tensors
from parimend.stores.buffers import Buffers
from parimend.stores.naming import named_tensors
from parimend.stores.shards import store_of
from parimend.words.layout import Part

CHANCE = 1e-3
"""Probability that more bits are flipped in a plane than its budget, at the rate it tolerates."""
_MOST = 1_000_000  # checks and trials, which are written down

Metric = Callable[[torch.nn.Module], float]


@dataclass(frozen=True, repr=False)
class Balanced(Record):
    """A budget balanced over bits; `parimend.protect_` and `protect_file` take it for ``errors``.

    Rates are probabilities that a bit is flipped from one check to the next. What is flipped in the
    strong bits is repaired at every check. What is flipped in the others beyond the floor stays,
    and adds up until the weights are loaded anew.

    Attributes:
        request: what is asked for; with an even budget if balancing it gains nothing.
        errors: the even budget that takes as many bytes.
        nbytes: of its seal of the model; the balanced one has no more.
        checks: so many of them, at most, until the weights are loaded anew.
        rate: that is tolerated.
        even_rate: that the even budget tolerates.
        balanced: the loss at `rate` after the last check, measured with real repairs, and with
            other damage than the bits were chosen by.
        even: the loss at `rate` with the even budget, after the first check.
    """

    request: Request
    errors: int
    nbytes: int
    checks: int
    rate: float
    even_rate: float
    balanced: Trials
    even: Trials

    @property
    def gain(self) -> float:
        """How much higher the tolerated rate is than with the even budget."""
        return self.rate / self.even_rate

    @property
    def masks(self) -> Mapping[str, int]:
        """By name of a tensor, which bits are strong; 0 for all. Empty if the budget is even."""
        return self.request.balance.shares[0].masks if self.request.balance else {}

    @property
    def budgets(self) -> tuple[int, ...]:
        """Wrong words that are repaired in the strong bits, and in the others."""
        balance = self.request.balance
        return tuple(share.errors for share in balance.shares) if balance else (self.errors,)

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; of the request the budgets, and the masks in hexadecimal."""
        masks = {name: f"{mask:#x}" for name, mask in self.masks.items()}
        made = {"budgets": list(self.budgets), "masks": masks, "gain": self.gain}
        return made | {each.name: plain(getattr(self, each.name)) for each in fields(self)[1:]}


def balance(
    model: torch.nn.Module,
    errors: int,
    calibration: Iterable[Any],
    metric: Metric | None = None,
    *,
    checks: int = 1,
    floor: int = 4,
    tolerance: float = 0.01,
    trials: int = 100,
    seed: int = 0,
) -> Balanced:
    """Spend the bytes of a budget on the bits whose flips cost most.

    Bits of tensors are ordered by what one flip does to the output of its layer (with the second
    moments of its inputs); those of tensors that are no layer's come first. As few of the first
    become strong as leave the others harmless: flips of the others, at the rate that the strong
    ones then tolerate, are applied to a copy of the model and must not cost more than is tolerated.

    Args:
        model: with the parameters that are to be protected; it is copied, and not changed.
        errors: the even budget whose bytes may be spent.
        calibration: batches of inputs, 500 inputs or more; see `parimend.Real`.
        metric: of a model in evaluation mode; larger is better, and finite for damaged ones too,
            such as its accuracy. By default the share of the calibration inputs for which the
            largest output is the same as that of the undamaged model.
        checks: after so many of them, at the latest, the weights are loaded anew.
        floor: wrong words that are repaired wherever they fall, always.
        tolerance: loss of the metric that is tolerated, on average.
        trials: with damage of its own each, for every question that is asked. About ten are: with
            100 trials the inputs go through the model a thousand times, which is what takes time.
        seed: of the codes and of the damage.

    Raises:
        SpecError: if the budget has too few bytes for two words, if an argument makes no sense, or
            if the metric does not give finite numbers, or changes the model.
        CalibrationError: if there are fewer than 500 calibration inputs, or they cannot be used.
        WordError: if a tensor cannot be protected; names it.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.Linear(40, 9))
        >>> found = balance(model, errors=210, calibration=[torch.randn(500, 20)], trials=10)
        >>> found.gain > 1.5, bool(found.masks["0.weight"] & 1 << 30)  # the highest exponent bit
        (True, True)
        >>> from parimend import protect_
        >>> len(protect_(model, found).words)
        2
    """
    require(model, "model", "a torch.nn.Module, which can be run", torch.nn.Module)
    errors = whole_number(errors, least=1)
    floor = whole_number(floor, "floor", least=1)
    checks = whole_number(checks, "checks", least=1, most=_MOST)
    trials = whole_number(trials, "trials", least=2, most=_MOST)
    real_number(tolerance, "tolerance", "what damage may cost, a number", above=0)
    seed = seed_of(seed)
    if metric is not None:
        require_callable(metric, "metric", METRIC)
    model = copy.deepcopy(model).eval()
    moments, batches = _calibrated(model, calibration)
    tensors = store_of(named_tensors(model))
    if tensors.spread.several:
        raise SpecError("a budget is balanced for a model in one piece, not for a sharded one")
    judge = metric or Agreement(model, [batch_of(batch) for batch in batches])
    own = Buffers(model)

    def score() -> float:
        with own.kept():  # what a damaged model writes there is not for the next trial
            return judge(model)

    with left_alone(model, "the metric"):
        judged = Judged.of(tensors, score)
    if any(module.training for module in model.modules()):
        raise SpecError(
            "the metric leaves the model in training mode, in which it may compute other things "
            "each time: let it call model.eval(), or leave the mode as it is"
        )
    even = Request(errors, Sidecar(), seed=seed)
    split = _Split(tensors, even, floor)
    bits = sensitivity(tensors, moments)
    chosen = [(s + seed * 2 * trials) % SEEDS for s in range(2 * trials)]

    def harmless(strong: int) -> bool:
        """Whether the bits after so many strong ones are."""
        made = split.at(bits[:strong])
        lasting = strikes_of(made, _rate_of(made), checks)[1:]
        return injected(judged, lasting, chosen[:trials]).within(tolerance)

    unknown = sum(math.isinf(bit.damage) for bit in bits)
    with left_alone(model, "the metric of a damaged model"):
        strong = bisect_left(range(len(bits)), True, lo=max(1, unknown), key=harmless)
    found = split.at(bits[:strong]) if strong < len(bits) else None
    even_rate = _tolerated(errors, tensors.whole())
    rate = _rate_of(found) if found else even_rate
    if rate <= even_rate:
        found, rate = None, even_rate
    request = Request(floor, Sidecar(), seed=seed, balance=found) if found else even
    at_once = [Strike(tensors.whole(), rate)]
    strikes = strikes_of(found, rate, checks) if found else at_once
    measured = (
        injected(judged, each, chosen[trials:], protect_(tensors, asked), _holding(asked))
        for asked, each in ((request, strikes), (even, at_once))
    )
    return Balanced(request, errors, split.nbytes, checks, rate, even_rate, *measured)


class _Split:
    """Strong bits and others, in no more bytes than an even budget takes."""

    def __init__(self, tensors: Tensors, even: Request, floor: int) -> None:
        self._tensors, self._even, self._floor = tensors, even, floor
        self._parts = [part for part in tensors.whole() if part.count]
        self.nbytes = self._bytes(even)

    def at(self, strong: Sequence[Bit]) -> Balance:
        """The balance with these strong bits, and the largest budget for them that there is.

        Raises:
            SpecError: if there is none.
        """
        masks: dict[str, int] = {}
        for bit in strong:
            masks[bit.tensor] = masks.get(bit.tensor, 0) | 1 << bit.bit
        every = {part.name: (1 << part.bits) - 1 for part in self._parts}
        others = {name: bits & ~masks.get(name, 0) for name, bits in every.items()}
        others = {name: mask for name, mask in others.items() if mask}

        def of(errors: int) -> Balance:
            return Balance.of(self._parts, [(errors, masks), (self._floor, others)])

        def exceeds(errors: int) -> bool:
            made = of(errors)
            request = Request(made.errors, Sidecar(), seed=self._even.seed, balance=made)
            return self._bytes(request) > self.nbytes

        budgets = range(self._floor, self._even.errors + 1)
        most = bisect_left(budgets, True, key=exceeds)
        if not most:
            raise SpecError(
                f"errors={self._even.errors} take {self.nbytes} bytes, too few for two words of "
                f"{self._floor} errors: give more errors, or protect_ without a plan"
            )
        return of(budgets[most - 1])

    def _bytes(self, request: Request) -> int:
        """Bytes of a seal, whatever is in it."""
        words = tuple(
            SealedWord(each.code, each.word, each.code.zeros(), bytes(32))
            for each in choose(self._tensors, request)
        )
        return len(Seal(request.carrier.name, request.errors, words).to_bytes())


def _tolerated(errors: int, parts: Iterable[Part]) -> float:
    """The rate at which more than ``errors`` bits of some planes flip with `CHANCE` only."""
    from scipy.special import gammaincinv  # takes half a second to load

    # Of a Poisson distribution, P(more than t) is the incomplete gamma function of t + 1.
    expected = float(gammaincinv(errors + 1, CHANCE))
    return min(1.0, expected / sum(part.count * part.bits for part in parts))


def strikes_of(made: Balance, rate: float, checks: int) -> list[Strike]:
    """What has been flipped since the last check in the strong bits, and in all in the others."""
    strong, others = (share.word.parts for share in made.shares)
    return [Strike(strong, rate), Strike(others, min(1.0, checks * rate))]


def _rate_of(made: Balance) -> float:
    """The rate that the strong bits tolerate."""
    return _tolerated(made.shares[0].errors, made.shares[0].word)


def _holding(request: Request) -> int | None:
    """How many of the first words are to hold; None for all."""
    return len(cut(request.balance.shares[0].word)) if request.balance else None


def _calibrated(model: torch.nn.Module, calibration: Iterable[Any]) -> tuple[Moments, list[Any]]:
    """The moments of the layers, and the batches that they are from."""
    taken = []

    def batches() -> Iterator[Any]:
        for batch in iterable(calibration):
            taken.append(batch)
            yield batch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* calibration inputs are few", CalibrationWarning)
        moments = second_moments(model, batches())
    if moments.inputs < ENOUGH:
        raise CalibrationError(
            f"{moments.inputs} calibration inputs are too few to balance a budget: give {ENOUGH} "
            "or more"
        )
    return moments, taken
