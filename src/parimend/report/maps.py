"""Sheets of maps."""

from __future__ import annotations

from parimend.planner.maps import Map, Point
from parimend.report.sheet import Chart, Column, Known, Sheet, Value


def map_sheets(found: Map) -> list[Sheet]:
    """What carriers and budgets give and take.

    Args:
        found: as `parimend.planner.map_of` gives it.
    """
    where = f" in {found.where}" if found.where else ""
    left_out = f" No points: {'; '.join(found.left_out)}." if found.left_out else ""
    about = (
        f"Ways to protect {found.source}{where}. Filled marks are proven: so many wrong words are "
        "repaired, always; open ones are measured. What another one beats or equals in everything "
        f"is dominated.{left_out}"
    )
    chart = Chart(
        along=("bytes", "check", "moved"),
        values=("errors", "guaranteed", *_there(found)),
        by=("carrier",),
        known="known",
        panels=(("bytes", "errors"), ("check", "errors")),
    )
    return [Sheet("map", about, _columns(), [_row(each) for each in found.points], chart)]


def _columns() -> tuple[Column, ...]:
    return (
        Column("carrier", choice=True),
        Column("errors", "words", note="that the budget is for.", log=True),
        Column("known", choice=True, note="how it is known that all of the budget is repaired."),
        Column("guaranteed", "words", Known.PROVEN, "any that many are always repaired.", log=True),
        Column("bytes", note="of all checks.", log=True),
        Column("check", "ms", Known.MEASURED, "time of a check.", log=True),
        Column("protect", "ms", Known.MEASURED, log=True),
        Column("moved", note="relative change of the weights to expect."),
        Column("score", "", Known.MEASURED, "of the protected model."),
        Column(
            "unrepaired", "a year", Known.BOUNDED, "what the environment leaves, at most.", log=True
        ),
        Column("dominated", choice=True, chosen=("no",)),
        Column("command"),
    )


def _there(found: Map) -> list[str]:
    """Of what not every map has."""
    names = ("score", "unrepaired")
    return [name for name in names if any(getattr(each, name) is not None for each in found.points)]


def _row(point: Point) -> tuple[Value, ...]:
    known = Known.PROVEN if point.guaranteed >= point.errors else Known.MEASURED
    return (
        *(point.carrier, point.errors, known.value, point.guaranteed, point.seal_bytes),
        *(1e3 * point.check, 1e3 * point.protect, point.moved, point.score, point.unrepaired),
        "yes" if point.dominated else "no",
        point.command,
    )
