"""`plan`: what protecting a model or a file takes, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from parimend.arguments import flag, require_callable
from parimend.atomic import PathLike
from parimend.carriers import Carrier, CarrierName, Options, PlannedWord, Request
from parimend.carriers.exposure import exposed_of
from parimend.codes import Chance, Promise
from parimend.codes.budget import MOST_POWER
from parimend.codes.promise import weakest
from parimend.errors import SpecError
from parimend.functions import METRIC
from parimend.planner.source import Source, sources
from parimend.planner.stake import Stake, stake
from parimend.planner.timing import Seconds, seconds
from parimend.record import Record
from parimend.risk import Environment, Service
from parimend.risk.chance import Risk, largest_budget, longest_interval, risk, smallest_budget
from parimend.risk.environment import ENVIRONMENTS
from parimend.risk.exposed import Exposed, seen
from parimend.words.bits import WORD

if TYPE_CHECKING:
    import torch

    Model = torch.nn.Module | Mapping[str, Any]

ERRORS = 210
"""The budget if none is asked for."""
DAY = 1.0
"""The interval between two checks if nothing asks for another."""
DAY_SECONDS = 86_400.0
_ROUNDING = 1e-6


@dataclass(frozen=True, repr=False)
class PlannedFile(Record):
    """A file, or a live model (then without a path), and its words."""

    path: str
    words: tuple[PlannedWord, ...]


@dataclass(frozen=True, repr=False)
class Plan(Record):
    """What a protection takes and gives; `parimend.protect_` and `protect_file` carry it out.

    Attributes:
        request: what is asked for.
        files: what is protected, and how.
        seconds: how long that takes here; None if it was not measured.
        where: the environment, if one was given.
        risk: what is left of its damage.
        reason: why the target is not met; empty if it is, or if there was none.
        stake: what damage does to a model's answers, if there was calibration data.
    """

    request: Request
    files: tuple[PlannedFile, ...]
    seconds: Seconds | None = field(default=None, compare=False)
    where: Environment | None = None
    risk: Risk | None = None
    reason: str = ""
    stake: Stake | None = None

    @property
    def carrier(self) -> str:
        """Where redundancy will live."""
        return self.request.carrier.name

    @property
    def errors(self) -> int:
        """The budget of every word, in words of 32 bits."""
        return self.request.errors

    @property
    def words(self) -> tuple[PlannedWord, ...]:
        """Those of all files."""
        return tuple(word for file in self.files for word in file.words)

    @property
    def seal_bytes(self) -> int:
        """Bytes of all checks."""
        return sum(word.seal_bytes for word in self.words)

    @property
    def promise(self) -> Promise:
        """What holds of every protected word: of the weakest."""
        return weakest(word.promise for word in self.words)

    @property
    def guaranteed(self) -> int:
        """Any that many wrong words are repaired, always, in every protected word."""
        return self.promise.guaranteed

    @property
    def bound(self) -> Chance | None:
        """What is proven of more, over the draw of the seed; None if nothing is."""
        return self.promise.bound

    @property
    def measured(self) -> Chance | None:
        """What was measured; None if all of the budget is guaranteed."""
        return self.promise.measured

    @property
    def met(self) -> bool:
        """Whether the target is met that was given, if one was."""
        return not self.reason

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; `docs/reference.md` describes the keys."""
        record = super().as_dict()
        del record["request"]
        return {
            "carrier": self.carrier,
            "errors": self.errors,
            "seal_bytes": self.seal_bytes,
            **self.promise.as_dict(),
            **record,
        }

    def __repr__(self) -> str:
        left = f", {self.risk.unrepaired:.2g} unrepaired" if self.risk else ""
        budget = f"{self.errors} errors ({self.guaranteed} guaranteed)"
        return f"<Plan: {self.carrier}, {budget}, {self.seal_bytes} bytes{left}>"


def plan(
    source: Model | PathLike,
    errors: int | None = None,
    carrier: Carrier | CarrierName = "sidecar",
    *,
    buffers: bool = False,
    service: Service | Environment | str | None = None,
    calibration: Iterable[Any] | None = None,
    metric: Callable[[Any], float] | None = None,
    measure: bool = True,
    **options: Unpack[Options],
) -> Plan:
    """What protecting a model or a file takes, and what it gives; nothing is changed.

    Args:
        source: a module, a state dict, a checkpoint, or the path of a file, a folder or an index.
        errors: the budget of every word; by default 210 (or what is to be guaranteed, if that is
            more), or the smallest that meets the target.
        carrier, buffers: as `parimend.protect_` takes them.
        **options: the same; see `parimend.Options`.
        service: where it runs, how often it is checked, and a target; see `parimend.Service`. The
            name of an environment is enough. With it comes the `Risk`.
        calibration: inputs of the model, as `parimend.Real` takes them: what damage does to its
            answers is measured with them.
        metric: a score of a model in evaluation mode, in place of the share of calibration inputs
            that get the same answer as before.
        measure: measure how long it takes, too.

    Raises:
        SpecError: if there is no such environment, or a number cannot be what it is.
        ParimendError, OSError: as `parimend.protect_` and `parimend.protect_file` do.

    Example:
        >>> import torch
        >>> from parimend import Service
        >>> it = plan(torch.nn.Linear(512, 10), service=Service("leo", target=1e-6))
        >>> it.errors, it.guaranteed, it.seal_bytes, f"{it.risk.interval:.2g} days"
        (5, 5, 58, '1.2 days')
        >>> [word] = plan(torch.nn.Linear(512, 10), errors=210, carrier="real").words
        >>> word.checks, round(word.redundancy, 3), word.seal_bytes
        (173, 0.034, 128)
    """
    buffers, measure = flag(buffers, "buffers"), flag(measure, "measure")
    if metric is not None:
        require_callable(metric, "metric", METRIC)
    for option in options.keys() & {"environment", "target", "interval", "years"}:
        raise SpecError(
            f"{option} belongs to a service: say service='leo', or "
            "service=Service('leo', target=1e-6)"
        )
    asked = None if service is None else Service.of(service)
    least = options.get("guaranteed")
    usual = max(ERRORS, least) if isinstance(least, int) else ERRORS
    request = Request.of(usual if errors is None else errors, carrier, **options)
    request = replace(request, buffers=buffers)
    with sources(source, request) as found:
        unmet = ""
        if errors is None and asked is not None and asked.target is not None:
            best, unmet = _smallest(found, asked, request.guaranteed or 1)
            request = replace(request, errors=best)
        files = tuple(PlannedFile(each.path, each.planned(request.errors)) for each in found)
        taken = seconds(found, request.errors) if measure else None
    made = Plan(request, files, taken, reason=unmet)
    if asked is not None:
        _require_small(asked.environment, made.words)
        made = _assessed(replace(made, where=asked.environment), asked)
    if calibration is not None or metric is not None:
        made = replace(made, stake=stake(source, request, calibration, metric))
    return made


def _require_small(there: Environment, words: Sequence[PlannedWord]) -> None:
    """Refuse given events of more words than there are; known ones strike what there is."""
    room, known = sum(word.nbytes for word in words) // WORD, ENVIRONMENTS.values()
    if there.events.largest > max(room, 1) and there.events not in [it.events for it in known]:
        raise SpecError(
            f"an event of {there.events.largest:,} words is larger than all that is protected, "
            f"{room:,} words: give smaller events"
        )


def _assessed(made: Plan, asked: Service) -> Plan:
    """The plan with its risk, at the longest interval if none is given, and why it misses."""
    words, there = exposed_of(made.words), asked.environment
    years, target, days = asked.years, asked.target, asked.interval
    if days is None and target is not None and not made.reason:
        days = longest_interval(words, there, target, years)
        needed = made.seconds.check / DAY_SECONDS if made.seconds else 0.0
        if days is not None and days < needed:
            why = (
                f"it would have to be checked every {days:.2g} days, and a check takes {needed:.2g}"
            )
            return replace(made, risk=risk(words, there, days, years), reason=why)
    left = risk(words, there, DAY if days is None else days, years)
    why = made.reason
    if target is not None and not why and left.yearly > target * (1.0 + _ROUNDING):
        why = _why(words, left, asked)
    return replace(made, risk=left, reason=why)


def _why(words: Sequence[Exposed], left: Risk, asked: Service, larger: bool = True) -> str:
    """Why a target is not met, and what would help: only what was tried is said to.

    Args:
        words: that miss it.
        left: of them.
        asked: of them, with a target.
        larger: whether there are larger budgets.
    """
    there, years, target = asked.environment, asked.years, asked.target
    assert target is not None

    def possible(words: Sequence[Exposed], there: Environment) -> float | None:
        return longest_interval(words, there, target, years)

    def advice(*more: str) -> str:
        helps = [*(["take a larger budget"] if larger else []), *more]
        return f": {', or '.join(helps)}" if helps else ""

    every = "day" if left.interval == DAY else f"{left.interval:.3g} days"
    rest = f"checked every {every}, {left.yearly:.2g} a year is left"
    if asked.interval is not None and (days := possible(words, there)) is not None:
        seldom = "every read may strike" if there.read_rate else "every repair may fail"
        often = "more often" if days < left.interval else f"less often, as {seldom}"
        return rest + advice(f"check {often}")
    rest += ", at no interval little enough"
    if unsure := max(float(word.failing.max()) for word in words):
        sure = [word._replace(failing=np.zeros_like(word.failing)) for word in words]
        if possible(sure, there) is not None:
            largest = there.events.largest
            help_ = f"take one that is guaranteed, of a sidecar with up to {MOST_POWER:,} errors"
            if largest > MOST_POWER * (2 if there.told else 1):
                help_ = f"none for events of {largest:,} words is guaranteed"
            return (
                f"{rest}, as damage within the budget is not repaired with a probability of up to "
                f"{unsure:g}: {help_}"
            )
    weakest = min((seen(word, there) for word in words), key=lambda word: word.errors)
    if not weakest.errors:
        return f"{rest}, as nothing is proven or measured of so many errors in so few words"
    if not there.read_rate and 1.0 - (1.0 - left.large) ** (1.0 / max(years, 1.0)) > target:
        return (
            f"single events of more than {weakest.errors:,} words leave {left.large:.2g} however "
            f"often it is checked{advice()}"
        )
    if there.hard_rate and possible(words, replace(there, hard_rate=0.0)) is not None:
        return f"cells that fail for good leave {left.hard:.2g}" + advice(
            "replace the memory earlier"
        )
    return rest + advice()


def _smallest(found: Sequence[Source], asked: Service, least: int) -> tuple[int, str]:
    """The smallest budget that meets a target, or the usual one and why there is none.

    A certificate takes seconds. So budgets are tried as if each had one, and the one that is found
    has to have it; only if it has none, every budget that meets the target has to.

    Args:
        found: what is to be protected.
        asked: of it, with a target.
        least: that is guaranteed, so that no budget is smaller.
    """

    def certain(errors: int) -> bool:
        try:
            # What is not to be guaranteed is planned already, and needs no proof.
            return all(not each.request.guaranteed or each.planned(errors) for each in found)
        except SpecError:
            return False

    @cache
    def words(errors: int) -> list[Exposed]:
        return exposed_of(word for each in found for word in each.planned(errors, prove=False))

    best, why = _smallest_of(words, asked, least, lambda errors: True)
    if not certain(best):
        best, why = _smallest_of(words, asked, least, certain)
    return best, why


def _smallest_of(
    words: Callable[[int], list[Exposed]],
    asked: Service,
    least: int,
    certain: Callable[[int], bool],
) -> tuple[int, str]:
    """See `_smallest`; the arguments are those of `smallest_budget`."""
    there, years, target = asked.environment, asked.years, asked.target
    assert target is not None
    days = DAY if asked.interval is None else asked.interval
    best = smallest_budget(words, there, days, target, years, MOST_POWER, least, certain)
    if best is not None:
        return best, ""
    errors = largest_budget(words, least)
    if errors is None:
        return max(ERRORS, least), "there is no code for it"
    # The largest that is guaranteed may do what the largest that is measured cannot. For the
    # largest that there are codes for nothing may be claimed, which would explain nothing.
    claimed = largest_budget(lambda t: _claimed(words(t)), least) or errors
    budgets = {claimed, max(least, min(claimed, MOST_POWER))}
    tried = [words(t) for t in sorted(budgets, reverse=True)]
    able = (most for most in tried if longest_interval(most, there, target, years) is not None)
    most = next(able, None) or min(tried, key=lambda words: risk(words, there, days, years).yearly)
    why = _why(most, risk(most, there, days, years), replace(asked, interval=days), False)
    return max(min(ERRORS, errors), least), f"no budget up to {errors:,} errors meets it: {why}"


def _claimed(words: list[Exposed]) -> list[Exposed]:
    """The words.

    Raises:
        SpecError: if of one nothing is proven or measured.
    """
    if not all(word.errors for word in words):
        raise SpecError("of so many errors nothing is claimed")
    return words
