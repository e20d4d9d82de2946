"""CSV files of sheets, for papers and spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from parimend.atomic import PathLike, atomic
from parimend.experiment import Estimate
from parimend.report.places import place
from parimend.report.sheet import Sheet, Value

_ENDS = ("low", "high", "at most")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that spreadsheets take for a formula, which may run programs."""


def write_csv(sheets: Sequence[Sheet], path: PathLike) -> list[Path]:
    """Write every sheet as a CSV file (RFC 4180, UTF-8), numbers in full.

    An interval takes four columns: the number, ``low``, ``high``, and ``at most`` where nothing
    was seen. What is not known is empty. A text that a spreadsheet would take for a formula has an
    apostrophe before it: names of tensors and files may come from strangers.

    Args:
        sheets: the first one goes into the file, each further one into ``NAME-SHEET.csv``.
        path: of the file, ``.csv``.

    Returns:
        The files that were written.

    Raises:
        SpecError: for another kind of file.
        FormatError: without the folder, or if something else than a file is there.
        OSError: if a file cannot be written.
    """
    written = csv_files(sheets, path)
    for sheet, target in zip(sheets, written, strict=True):
        with atomic(target) as file:
            # Names of files and tensors may hold halves of surrogate pairs.
            file.write(_csv(sheet).encode(errors="backslashreplace"))
    return written


def csv_files(sheets: Sequence[Sheet], path: PathLike) -> list[Path]:
    """The files that `write_csv` writes, which see."""
    target = require_csv(path)
    names = [f"{target.stem}-{sheet.name.replace(' ', '-')}.csv" for sheet in sheets[1:]]
    return [target, *(target.with_name(name) for name in names)][: len(sheets)]


def require_csv(path: PathLike) -> Path:
    """The path of a CSV file.

    Raises:
        SpecError, FormatError: as `write_csv` does.
    """
    return place(path, "a table", (".csv",))


def _csv(sheet: Sheet) -> str:
    ranged = [
        any(isinstance(value, Estimate) for value in sheet.values(each.name))
        for each in sheet.columns
    ]
    text = io.StringIO()
    out = csv.writer(text)
    heads = []
    for column, has_ends in zip(sheet.columns, ranged, strict=True):
        heads += [column.title, *(f"{column.title}, {end}" for end in _ENDS * has_ends)]
    out.writerow(heads)
    for row in sheet.rows:
        cells: list[object] = []
        for value, has_ends in zip(row, ranged, strict=True):
            cells += _cells(value, has_ends)
        out.writerow(cells)
    return text.getvalue()


def _cells(value: Value, has_ends: bool) -> list[object]:
    if isinstance(value, Estimate):
        ends = value.value, value.low, value.high, value.upper
        return [_number(each) for each in ends]
    if isinstance(value, str) and value.startswith(_FORMULA):
        value = f"'{value}"
    return [_number(value), *[""] * (len(_ENDS) * has_ends)]


def _number(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
