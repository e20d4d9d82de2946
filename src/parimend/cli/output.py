"""What commands print: tables for people, JSON for programs, progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from parimend.showing import escaped

SCHEMA = 1
"""Version of the JSON output: it changes when something is taken away or gets another meaning."""
WIDTH = 160
"""Characters in a line where there is no terminal."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Only tensors whose names match this shell pattern; may be repeated."),
]

SealDir = Annotated[
    Path | None,
    typer.Option(
        "--seal-dir",
        help="A folder of seals, found by the content of their files, whatever these are called; "
        "or one seal. By default they lie beside the files.",
    ),
]


class _Escaping(Console):
    """Prints every text on a line of its own, escaped."""

    def print(self, *objects: Any, **style: Any) -> None:
        super().print(*(escaped(x) if isinstance(x, str) else x for x in objects), **style)


def console() -> Console:
    """Standard output. Names of files and tensors are never taken for markup, and escaped."""
    return _Escaping(
        markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else WIDTH
    )


def require_encodable() -> None:
    """Let characters that the terminal's encoding lacks be escaped, too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(command: str, content: dict[str, Any]) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps({"schema": SCHEMA, "command": command, **content}))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table; numbers stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(row[i].replace(",", "").isdigit() for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escaped, row))
    console().print(table)


def size(count: int) -> str:
    """Bytes for people.

    >>> size(999), size(6_080), size(68_856_552)
    ('999 bytes', '6.1 kB', '68.9 MB')
    """
    if count < 1000:
        return f"{count} bytes"
    value, unit = count / 1e3, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1e3, larger
    return f"{value:.1f} {unit}"


@contextmanager
def reading(files: Iterable[Path], what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much of some files has been read."""
    total = sum(file.stat().st_size for file in files if file.exists())
    with _progress(DownloadColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=total)

        def advance(count: int) -> None:
            bar.advance(task, count)
            # Proving a repair takes a second pass.
            if bar.tasks[0].completed > (bar.tasks[0].total or 0):
                bar.update(task, total=bar.tasks[0].completed + total)

        yield advance


@contextmanager
def counting(total: int, what: str) -> Iterator[Callable[..., None]]:
    """Show on a terminal how many of some things are done, and how long the rest takes.

    What is yielded is called with what was done since, and with a new total where that changes.
    """
    with _progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count, total=None: bar.update(task, advance=count, total=total)


def _progress(*columns: ProgressColumn) -> Progress:
    errors = Console(stderr=True)
    return Progress(
        "{task.description}",
        BarColumn(),
        *columns,
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
