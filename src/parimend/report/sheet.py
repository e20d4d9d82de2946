"""Sheets: tables whose columns say what they are, and what is drawn of them.

Pages, pictures and CSV files are written from sheets alone, and so show the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from parimend.errors import SpecError
from parimend.experiment import Estimate
from parimend.showing import per_cent


class Known(StrEnum):
    """How a number is known: kinds of statement that are never mixed up."""

    PROVEN = "proven"
    BOUNDED = "bounded"
    MEASURED = "measured"
    GIVEN = "given"


Value = str | int | float | Estimate | None
"""What a cell holds; None where there is nothing to say."""


@dataclass(frozen=True)
class Column:
    """What stands in one column.

    Attributes:
        name: its title; no two of a sheet are the same.
        unit: of its numbers, such as ``%`` or ``bytes``.
        known: how its numbers are known.
        note: what it means, in a sentence.
        choice: whether rows are chosen by it.
        chosen: the texts that are chosen at first; none given: all.
        log: whether its axis is logarithmic.
        neutral: the number that says *no difference*; intervals that leave it out get a star.
    """

    name: str
    unit: str = ""
    known: Known = Known.GIVEN
    note: str = ""
    choice: bool = False
    chosen: tuple[str, ...] = ()
    log: bool = False
    neutral: float | None = None

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self, value: Value) -> str:
        """A cell as people read it.

        >>> share = Column("silent", "%")
        >>> share.text(Estimate(12.5, 8.04, 19.3)), share.text(Estimate(0.0, 0.0, 3.7, 2.95))
        ('12.5 (8.04 to 19.3)', '0 (< 2.95)')
        >>> Column("bytes").text(3256400), Column("score").text(None)
        ('3,256,400', '-')
        """
        if isinstance(value, Estimate):
            return self._interval(value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, float):
            return self._number(value)
        return value if isinstance(value, str) else f"{value:,}"

    def _interval(self, value: Estimate) -> str:
        if math.isnan(value.value):
            return "-"
        if value.upper is not None:
            return f"0 (< {value.upper:.3g})"
        out = self.neutral is not None and not value.low <= self.neutral <= value.high
        at, low, high = map(self._number, (value.value, value.low, value.high))
        return f"{at} ({low} to {high}){' *' if out else ''}"

    def _number(self, value: float) -> str:
        return per_cent(value, 4) if self.unit == "%" else f"{value:.4g}"


@dataclass(frozen=True)
class Chart:
    """What is drawn of a sheet.

    Attributes:
        along: columns that points may be placed by; the first one at first.
        values: columns with what is shown; the first one at first.
        by: columns of texts; each combination is a series with a colour and a mark of its own.
        known: a column of texts that are `Known`: marks of what is proven are filled, others open.
        lying: what points are placed by goes down the page, for long names.
        joined: points of a series are joined by a line.
        panels: pairs of along and values that a picture has side by side; by default the first.
    """

    along: tuple[str, ...]
    values: tuple[str, ...]
    by: tuple[str, ...]
    known: str = ""
    lying: bool = False
    joined: bool = False
    panels: tuple[tuple[str, str], ...] = ()

    def pictured(self) -> tuple[tuple[str, str], ...]:
        """The panels of a picture."""
        return self.panels or ((self.along[0], self.values[0]),)


@dataclass(frozen=True)
class Sheet:
    """A table and its chart.

    Args:
        name: short, also a part of names of files.
        about: what it shows, in a few sentences.
        columns: of the table.
        rows: as many values each as there are columns.
        chart: what is drawn; None: nothing.

    Raises:
        SpecError: if rows or charts do not fit the columns.

    Example:
        >>> columns = (Column("carrier", choice=True), Column("kept", "bytes", Known.PROVEN))
        >>> sheet = Sheet("costs", "", columns, [("sidecar", 25)])
        >>> sheet.values("kept"), sheet.column("kept").title
        ([25], 'kept, bytes')
    """

    name: str
    about: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Value, ...]]
    chart: Chart | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise SpecError(f"sheet {self.name}: two columns have one name: {', '.join(names)}")
        for row in self.rows:
            if len(row) != len(names):
                raise SpecError(
                    f"sheet {self.name}: a row has {len(row)} values for {len(names)} columns"
                )
        for name in _named(self.chart):
            if name not in names:
                raise SpecError(
                    f"sheet {self.name}: its chart names {name!r}; there are {', '.join(names)}"
                )

    def column(self, name: str) -> Column:
        """The column of a name."""
        return next(each for each in self.columns if each.name == name)

    def values(self, name: str) -> list[Value]:
        """All values of a column, in the order of the rows."""
        at = [each.name for each in self.columns].index(name)
        return [row[at] for row in self.rows]

    def chosen(self) -> Sheet:
        """The sheet with the rows that are chosen at first."""
        asked = [(i, each.chosen) for i, each in enumerate(self.columns) if each.chosen]
        rows = [row for row in self.rows if all(row[i] in some for i, some in asked)]
        return Sheet(self.name, self.about, self.columns, rows, self.chart)


def _named(chart: Chart | None) -> Iterator[str]:
    if chart is not None:
        yield from (*chart.along, *chart.values, *chart.by)
        yield from (each for pair in chart.panels for each in pair)
        yield from (chart.known,) * bool(chart.known)


def numbers(values: Sequence[Value]) -> list[float | None]:
    """Cells as numbers, of intervals the value; None where there is none that can be drawn.

    >>> numbers([3, Estimate(0.5, 0.1, 0.9), None, float("inf")])
    [3.0, 0.5, None, None]
    """
    return [finite(each.value if isinstance(each, Estimate) else each) for each in values]


def percent(of: Estimate | None) -> Estimate | None:
    """A share in per cent."""
    return of and of.scaled(100.0)


def finite(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
