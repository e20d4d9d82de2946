"""Pictures of sheets for papers, by matplotlib (needs the ``plot`` extra)."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from parimend.atomic import PathLike, atomic
from parimend.errors import SpecError
from parimend.experiment import Estimate
from parimend.report.places import place
from parimend.report.sheet import Chart, Column, Sheet, finite, numbers
from parimend.showing import escaped

# Told apart by colour-blind people (Okabe and Ito), by shape and by dashes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "^", "D", "P", "X", "*", "v", "p", "h")
_DASHES = ("-", "--", ":", "-.", (0, (6, 2)))
_FORMATS = (".svg", ".png", ".pdf")
_FEW = 12
"""Numbers that all stand at their axis."""
_CHARACTER = 0.025
"""The part of a lone panel's width that a character takes, with the space between numbers."""
_LINE = 0.06  # of its height
_BESIDE = 4.0
"""Inches beside names that stand down the page."""
_LETTER = 0.075  # inches
_LONGEST = 200
"""Letters of a name, at most."""
_APART = 0.6
"""The part of a place that the marks of several series take side by side."""


def write_picture(sheet: Sheet, path: PathLike, title: str = "") -> None:
    """Draw a sheet's panels, of the rows that are chosen at first.

    Marks of what is proven are filled, others open, where the chart says how its points are known;
    an arrow is a bound where nothing was seen. The same sheet gives the same SVG or PNG.

    Args:
        sheet: with a chart.
        path: ``.svg``, ``.png`` or ``.pdf``.
        title: above all panels.

    Raises:
        SpecError: for another kind of file, a sheet without a chart, or without matplotlib.
        FormatError: without the folder, or if something else than a file is there.
        OSError: if the file cannot be written.
    """
    target = require_picture(path)
    if sheet.chart is None:
        raise SpecError(f"sheet {sheet.name} has no chart: there is nothing to draw")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = sheet.chart.pictured()
    kept = sheet.chosen()
    # Names may hold dollars, which are not formulas; the same rows give the same file.
    settings: Any = {
        "svg.hashsalt": "parimend",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=_size(kept, sheet.chart), layout="constrained")
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (along, value) in zip(every, panels, strict=True):
            handles = _Panel(kept, sheet.chart, along, value).draw(axes)
        if len(handles) > 1:
            told = ["filled: proven, open: measured"] if sheet.chart.known else []
            if any(_unseen(cell) for _, value in panels for cell in kept.values(value)):
                told.append("open arrow: an upper bound, where none was seen")
            figure.legend(
                handles=handles,
                labels=[each.get_label() for each in handles],
                loc="outside lower center",
                ncols=3 if len(panels) > 1 else 2,
                frameon=False,
                fontsize="small",
                title="; ".join(told) or None,
                title_fontsize="small",
            )
        figure.suptitle(escaped(title))
        metadata: Any = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with atomic(target) as file:
            figure.savefig(
                file, format=target.suffix[1:], metadata=metadata.get(target.suffix), dpi=150
            )


def require_picture(path: PathLike) -> Path:
    """The path of a picture that can be drawn: to be asked before the work of a long run is done.

    Raises:
        SpecError, FormatError: as `write_picture` does.
    """
    return place(path, "a picture", _FORMATS, "matplotlib", "plot")


def _size(sheet: Sheet, chart: Chart) -> tuple[float, float]:
    """Inches: for names down the page as many as there are names, and room for the longest."""
    wide = 4.5 * len(chart.pictured()) if len(chart.pictured()) > 1 else 7.0
    if not chart.lying:
        return wide, 3.8
    along = chart.pictured()[0][0]
    names = {escaped(sheet.column(along).text(value)) for value in sheet.values(along)}
    longest = max((len(_shortened(name)) for name in names), default=0)
    return max(wide, _BESIDE + _LETTER * longest), max(3.8, 0.25 * len(names))


def _shortened(text: str) -> str:
    """A name as it stands at an axis: no longer than can be read."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


class _Panel:
    """One pair of axes: values of a sheet along something, series by series."""

    def __init__(self, sheet: Sheet, chart: Chart, along: str, value: str) -> None:
        self.chart = chart
        self.along, self.value = sheet.column(along), sheet.column(value)
        cells = sheet.values(along)
        texts = [escaped(self.along.text(cell)) for cell in cells]
        self.names = list(dict.fromkeys(texts))
        self.named = any(isinstance(cell, str) for cell in cells)
        self.places = (
            [float(self.names.index(text)) for text in texts] if self.named else numbers(cells)
        )
        pairs = zip(texts, self.places, strict=True)
        self.ticks = {text: place for text, place in pairs if place is not None}
        self.cells = sheet.values(value)
        self.crowded = self.named and not chart.joined and len(self.names) < len(cells)
        self.known = sheet.values(chart.known) if chart.known else ["proven"] * len(cells)
        by = [
            [escaped(sheet.column(name).text(x)) for x in sheet.values(name)] for name in chart.by
        ]
        self.series = list(zip(*by, strict=True)) if by else [()] * len(cells)

    def draw(self, axes: Any) -> list[Any]:
        """Draw all series; gives what a legend has of each, also of names that begin with _."""
        # A colour for what the first column says, a dash for the rest, a mark for both.
        every, first, rest = (
            list(dict.fromkeys(each[part] for each in self.series))
            for part in (slice(None), slice(1), slice(1, None))
        )
        handles = []
        differ = [len(set(column)) > 1 for column in zip(*every, strict=True)]
        for at, one in enumerate(every):
            shift = _APART * ((at + 0.5) / len(every) - 0.5)
            apart = shift if self.crowded else 0.0
            style = {
                "color": _COLOURS[first.index(one[:1]) % len(_COLOURS)],
                "marker": _MARKS[at % len(_MARKS)],
            }
            dash = _DASHES[rest.index(one[1:]) % len(_DASHES)]
            label = ", ".join(text for text, told in zip(one, differ, strict=True) if told)
            self._series(axes, one, apart, style, dash)
            line = dash if self.chart.joined else "none"
            handles += axes.plot([], [], **style, linestyle=line, label=label)
        self._label(axes)
        return handles

    def _label(self, axes: Any) -> None:
        across, up = ("y", "x") if self.chart.lying else ("x", "y")
        for axis, column in ((across, self.along), (up, self.value)):
            axes.set(**{f"{axis}label": column.title})
            if column.log and self._positive(column):
                axes.set(**{f"{axis}scale": "log"})
                scaled = getattr(axes, f"{axis}axis")
                scaled.set_major_formatter(_plain_numbers())
                scaled.set_minor_formatter(_plain_numbers())
        if self.named:
            shown = [_shortened(name) for name in self.names]
            axes.set(**{f"{across}ticks": range(len(shown)), f"{across}ticklabels": shown})
            if self.chart.lying:
                axes.invert_yaxis()
                axes.set(ylabel="")
            elif len("".join(self.names)) > 40:
                axes.tick_params(axis="x", rotation=30)
        elif self.along.log and len(self.names) < _FEW and self._has_room():
            axes.set(
                **{
                    f"{across}ticks": list(self.ticks.values()),
                    f"{across}ticklabels": list(self.ticks),
                }
            )
            axes.minorticks_off()
        if self.value.neutral is not None:
            line = axes.axvline if self.chart.lying else axes.axhline
            line(self.value.neutral, color="#888888", linewidth=0.8, linestyle=":")

    def _positive(self, column: Column) -> bool:
        """Whether anything stands on a logarithmic axis."""
        there = self.places if column is self.along else map(_height, self.cells)
        return any(number is not None and number > 0 for number in there)

    def _has_room(self) -> bool:
        """Whether numbers fit beside each other along a logarithmic axis."""
        there = sorted((place, text) for text, place in self.ticks.items() if place > 0)
        character = _CHARACTER * len(self.chart.pictured())
        return all(
            math.log(b / a) / math.log(there[-1][0] / there[0][0])
            >= (_LINE if self.chart.lying else character * (len(left) + len(right)) / 2)
            for (a, left), (b, right) in pairwise(there)
        )

    def _series(
        self, axes: Any, one: tuple[str, ...], apart: float, style: dict[str, Any], dash: Any
    ) -> None:
        mine = [i for i, each in enumerate(self.series) if each == one]
        points = [(place + apart, i) for i in mine if (place := self.places[i]) is not None]
        points = [(place, i) for place, i in points if _height(self.cells[i]) is not None]
        if self.chart.joined:
            line = [(place, _height(self.cells[i])) for place, i in points]
            turned = self._turned(zip(*line, strict=True))
            axes.plot(*turned, color=style["color"], linestyle=dash, linewidth=1.2)
        for fill in ("full", "none"):
            some = [
                (place, i)
                for place, i in points
                if (self.known[i] == "proven") == (fill == "full") and not _unseen(self.cells[i])
            ]
            self._marks(axes, some, {**style, "fillstyle": fill})
        arrow = "<" if self.chart.lying else "v"
        bounds = [(place, i) for place, i in points if _unseen(self.cells[i])]
        self._marks(axes, bounds, {**style, "marker": arrow, "fillstyle": "none"})

    def _marks(self, axes: Any, points: list[tuple[float, int]], style: dict[str, Any]) -> None:
        if not points:
            return
        places, heights = zip(*((p, _height(self.cells[i])) for p, i in points), strict=True)
        ends = [_ends(self.cells[i]) for _, i in points]
        bars = {"xerr" if self.chart.lying else "yerr": list(zip(*ends, strict=True))}
        axes.errorbar(
            *self._turned((places, heights)), **bars, **style, linestyle="none", elinewidth=1
        )

    def _turned(self, pair: Any) -> Any:
        """Places and heights as x and y."""
        pair = tuple(pair) or ((), ())
        return pair[::-1] if self.chart.lying else pair


def _plain_numbers() -> Any:
    """What labels logarithmic axes: matplotlib's writes powers as formulas, which are not read."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,.6g}" if super().__call__(x, pos) else ""

    return Plain()


def _unseen(cell: object) -> bool:
    return isinstance(cell, Estimate) and cell.upper is not None


def _height(cell: object) -> float | None:
    """Where a mark is: at the value, or at the bound where nothing was seen."""
    if isinstance(cell, Estimate):
        return finite(cell.value if cell.upper is None else cell.upper)
    return finite(cell)


def _ends(cell: object) -> tuple[float, float]:
    """How far the interval reaches below and above the mark."""
    if not isinstance(cell, Estimate) or cell.upper is not None:
        return 0.0, 0.0
    below, above = finite(cell.value - cell.low), finite(cell.high - cell.value)
    # Rounding may take an end across the value.
    return max(below or 0.0, 0.0), max(above or 0.0, 0.0)
