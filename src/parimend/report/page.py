"""Pages: one HTML file that holds everything, for a browser without a network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from parimend.atomic import PathLike, atomic
from parimend.experiment import Estimate
from parimend.report.places import place
from parimend.report.sheet import Column, Sheet, Value, finite, numbers
from parimend.showing import escaped


def write_page(
    sheets: Sequence[Sheet],
    path: PathLike,
    title: str,
    *,
    confidence: float = 0.95,
) -> None:
    """Write a page with a table, a figure and filters for each sheet (needs the ``report`` extra).

    Data and plotly.js are packed with gzip and unpacked by the browser: of any sheet, whatever
    stands in it, nothing is markup. The same sheets give the same file.

    Args:
        sheets: from top to bottom.
        path: of the file, ``.html``.
        title: of the page.
        confidence: of the intervals.

    Raises:
        SpecError: for another kind of file, or without plotly.
        FormatError: without the folder, or if something else than a file is there.
        OSError: if the file cannot be written.
    """
    target = require_page(path)
    text = _page(sheets, title, confidence)
    with atomic(target) as file:
        file.write(text.encode())


def require_page(path: PathLike) -> Path:
    """The path of a page that can be written: to be asked before the work of a long run is done.

    Raises:
        SpecError, FormatError: as `write_page` does.
    """
    return place(path, "a page", (".html",), "plotly", "report")


def _page(sheets: Sequence[Sheet], title: str, confidence: float) -> str:
    from parimend import __version__

    parts = {
        "title": html.escape(escaped(title)),
        "version": __version__,
        "confidence": f"{100 * confidence:g} % confidence",
        "style": _source("page.css"),
        "script": _source("page.js"),
        "data": _packed(json.dumps([_sheet(each) for each in sheets], allow_nan=False)),
        "plotly": _packed(_plotly()),
    }
    # In one pass: what is put in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _source("page.html"))


def _source(name: str) -> str:
    return (files("parimend.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _sheet(sheet: Sheet) -> dict[str, Any]:
    chart = None
    if sheet.chart:
        names = ("along", "values", "by", "known", "lying", "joined")
        chart = {name: getattr(sheet.chart, name) for name in names}
    columns = [_column(column, sheet.values(column.name)) for column in sheet.columns]
    about = escaped(sheet.about)  # with names of folders and networks
    return {"name": escaped(sheet.name), "about": about, "columns": columns, "chart": chart}


def _column(column: Column, values: Sequence[Value]) -> dict[str, Any]:
    """A column as the page's script takes it; `numbers` and the ends only where there are any."""
    numeric = not any(isinstance(value, str) for value in values)
    made: dict[str, Any] = {
        "name": column.name,
        "title": column.title,
        "known": column.known,
        "note": column.note,
        "choice": column.choice,
        "chosen": column.chosen,
        "log": column.log,
        "neutral": column.neutral,
        "numeric": numeric,
        "texts": [escaped(column.text(value)) for value in values],
    }
    if numeric:
        made["numbers"] = numbers(values)
    if any(isinstance(value, Estimate) for value in values):
        for end in ("low", "high", "upper"):
            made[end] = [finite(getattr(value, end, None)) for value in values]
    return made
