"""Maps: what carriers and budgets give and take, side by side, for one model or file.

Robustness (what is guaranteed, what an environment leaves) against performance (how far weights
move, how the model scores, how long a check takes) against cost (bytes). A point that another one
beats or equals in everything is dominated, and left out of pictures.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, get_args

from parimend.arguments import goal_of, require_iterable
from parimend.atomic import PathLike, atomic
from parimend.carriers import CarrierName, Options
from parimend.errors import FormatError, SpecError, WordError
from parimend.planner.commands import command_of
from parimend.planner.planning import Plan, plan
from parimend.record import Record
from parimend.risk import Environment, Service

if TYPE_CHECKING:
    from parimend.planner.planning import Model

T = TypeVar("T")

CARRIERS: tuple[CarrierName, ...] = get_args(CarrierName)
BUDGETS = (1, 4, 16, 64, 210, 500, 1000, 2000, 10_000)
_ALIKE = 1.25  # times that differ by less are noise


@dataclass(frozen=True, repr=False)
class Point(Record):
    """One way to protect.

    Attributes:
        carrier, errors: of the plan.
        guaranteed: any that many wrong words are repaired, always.
        seal_bytes: of all checks.
        check: seconds that a check takes.
        protect: seconds that protecting takes.
        moved: relative L2 change of the weights to expect; 0 if they stay as they are.
        score: of the protected model, if it can be run.
        unrepaired: what an environment leaves in a year, the worst of the service, if there is one.
        command: that makes it.
        dominated: whether another point is as good in everything.
    """

    carrier: str
    errors: int
    guaranteed: int
    seal_bytes: int
    check: float
    protect: float
    moved: float
    score: float | None
    unrepaired: float | None
    command: str
    dominated: bool = False

    @property
    def costs(self) -> tuple[float, ...]:
        """What should be small."""
        check = round(math.log(self.check) / math.log(_ALIKE)) if self.check else 0.0
        left = -self.errors if self.unrepaired is None else self.unrepaired
        score = 0.0 if self.score is None else -self.score
        return (-self.guaranteed, left, self.seal_bytes, check, self.moved, score)


@dataclass(frozen=True, repr=False)
class Map(Record):
    """All points, and what there is no point for.

    Attributes:
        source: of the map.
        where: name of the environment; empty if there is none.
        points: by carrier and budget.
        left_out: ``carrier, errors: reason`` of what cannot be; ``carrier: reason`` where that is
            so with every budget.
    """

    source: str
    where: str
    points: tuple[Point, ...]
    left_out: tuple[str, ...]

    @property
    def best(self) -> tuple[Point, ...]:
        """The points that are not dominated."""
        return tuple(point for point in self.points if not point.dominated)

    def save(self, path: PathLike) -> None:
        """Write the map as JSON, all or nothing.

        Raises:
            OSError: if the file cannot be written.
        """
        with atomic(goal_of(path)) as file:
            file.write(json.dumps(self.as_dict(), indent=1, allow_nan=False).encode() + b"\n")


def map_of(
    source: Model | PathLike,
    *,
    carriers: Sequence[CarrierName] = CARRIERS,
    budgets: Sequence[int] = BUDGETS,
    name: str = "",
    progress: Callable[[int], None] = lambda points: None,
    service: Service | Environment | str | None = None,
    calibration: Iterable[Any] | None = None,
    metric: Callable[[Any], float] | None = None,
    **options: Unpack[Options],
) -> Map:
    """Plan every carrier with every budget.

    Args:
        source, service, calibration, metric: see `parimend.plan`.
        **options: see `parimend.Options`.
        carriers: to be compared.
        budgets: of errors.
        name: of the source; by default its path, or ``model``.
        progress: called with 1 after every point.

    Raises:
        SpecError, WordError: if nothing can be protected in any of these ways, or there are none.
        ParimendError, OSError: as `parimend.plan` does.

    Example:
        >>> import torch
        >>> it = map_of(torch.nn.Linear(512, 10), carriers=["sidecar"], budgets=[4, 210])
        >>> [(point.errors, point.guaranteed, point.seal_bytes) for point in it.points]
        [(4, 4, 50), (210, 210, 1749)]
    """
    carriers = _some(carriers, "carriers", "names of carriers, such as ['sidecar', 'real']")
    budgets = _some(budgets, "budgets", "whole numbers, such as [4, 210]")
    batches = None
    if calibration is not None:
        from parimend.impose.batches import iterable  # loads torch, which files do without

        batches = list(iterable(calibration))
    points: list[Point] = []
    left_out: dict[tuple[str, str], list[int]] = {}
    for done, (carrier, errors) in enumerate(product(carriers, budgets), 1):
        try:
            made = plan(
                source,
                errors,
                carrier,
                service=service,
                calibration=batches,
                metric=metric,
                **options,
            )
        except (SpecError, WordError, FormatError) as error:
            if done == len(carriers) * len(budgets) and not points:
                raise  # not one of them can be
            left_out.setdefault((carrier, str(error)), []).append(errors)
        else:
            points.append(_point(made, source, options))
        progress(1)
    shown = name or (str(source) if isinstance(source, str | os.PathLike) else "model")
    there = "" if service is None else Service.of(service).environment.name
    return Map(shown, there, _marked(points), _said_of(left_out, len(budgets)))


def _some(given: Iterable[T], name: str, what: str) -> list[T]:
    """What there is to be gone through, several times."""
    require_iterable(given, name, what)
    if isinstance(given, str) or not (found := list(given)):
        raise SpecError(f"{name} must be {what}, not {given!r:.60}")
    return found


def _said_of(left_out: Mapping[tuple[str, str], Sequence[int]], most: int) -> tuple[str, ...]:
    """Why there are no points, of carriers and budgets; what holds of all budgets once."""
    return tuple(
        f"{carrier}: {why}"
        if len(budgets) == most > 1
        else f"{carrier}, {', '.join(map(str, budgets))}: {why}"
        for (carrier, why), budgets in left_out.items()
    )


def _point(made: Plan, source: Any, options: Options) -> Point:
    taken = made.seconds
    return Point(
        carrier=made.carrier,
        errors=made.errors,
        guaranteed=made.guaranteed,
        seal_bytes=made.seal_bytes,
        check=taken.check if taken else 0.0,
        protect=taken.protect if taken else 0.0,
        moved=max((word.moved for word in made.words), default=0.0),
        score=made.stake.protected if made.stake else None,
        unrepaired=made.risk.yearly if made.risk else None,
        command=command_of(made, source, options),
    )


def _marked(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points, each with whether it is dominated; of equal ones the first is not."""

    def beaten(i: int) -> bool:
        mine = points[i].costs
        return any(
            all(a <= b for a, b in zip(other.costs, mine, strict=True))
            and (other.costs != mine or k < i)
            for k, other in enumerate(points)
            if k != i
        )

    return tuple(replace(point, dominated=beaten(i)) for i, point in enumerate(points))
