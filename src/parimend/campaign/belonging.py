"""Which trials may be added up or compared: those that mean the same, each of them once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from parimend.campaign.rounds import Unit
from parimend.campaign.stats import Row
from parimend.errors import MismatchError


def terms(unit: Unit, protection: str) -> dict[str, Any]:
    """What the numbers of a network, a protection and a fault depend on, but for their seeds.

    Args:
        unit: the network and the fault.
        protection: its name.
    """
    fact, stop = unit.facts[protection], unit.spec.stop
    source = unit.spec.networks[unit.network]
    return {
        "weights": fact.weights,
        "metric": (source.metric, source.data, dict(source.data_arguments)),
        "score": fact.given,
        "tolerance": source.tolerance,
        "fault": unit.fault.label,
        "strata": unit.strata,
        "confidence": stop.confidence,
        "what is looked for": "harmed" if stop.harmed else sorted(set(stop.outcomes)),
    }


def require_same(what: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuse to add up or to compare what does not mean the same.

    Raises:
        MismatchError: says in what they differ.
    """
    if differing := [name for name in one if one[name] != other[name]]:
        raise MismatchError(
            f"{what} do not belong together: they differ in {', '.join(differing)}; report them "
            "one by one"
        )


def require_apart(what: str, rows: Iterable[Row]) -> None:
    """Refuse rows of which two have the same trials, in tasks of other sizes.

    Raises:
        MismatchError: names the trials.
    """
    tasks = sorted(
        (row.task.seed, row.task.stratum.name, row.task.start, row.task.stop) for row in rows
    )
    for (*place, _, stop), (*following, start, _) in pairwise(tasks):
        if place == following and start < stop:
            raise MismatchError(
                f"{what}: several campaigns hold trial {start:,} of seed {place[0]}, which would "
                "count twice: name one of them, or run one with another seed"
            )
