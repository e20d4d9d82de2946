"""What commands print: tables for people, JSON for programs, progress on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from io import TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from parimend.regular import size_of
from parimend.showing import escaped, table

if TYPE_CHECKING:
    from rich.progress import Progress

SCHEMA = 1
"""Version of the JSON output: it changes when something is taken away or gets another meaning."""


def say(text: str) -> None:
    """A line of its own on the standard output, escaped and never cut."""
    with printing():
        print(escaped(text))


@contextmanager
def printing() -> Iterator[None]:
    """Let an error say that it is what is printed that goes nowhere: all else may be done."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def prepare_streams() -> None:
    """Let characters that the terminal's encoding lacks be escaped, too, and let what is printed
    to a stream that was closed from the start go nowhere.
    """
    sys.stdout, sys.stderr = (
        stream or open(os.devnull, "w")  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr)
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def aside(as_json: bool) -> Iterator[None]:
    """Let what code of users prints, here and in processes that begin here, go to the standard
    error, if an object was asked for: the standard output has that alone.
    """
    if not as_json:
        yield
        return
    sys.stdout.flush()
    with ExitStack() as stack:
        with suppress(OSError):  # one of them was closed from the start
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        stack.enter_context(redirect_stdout(sys.stderr))
        yield


def end_aside() -> None:
    """Let what is printed as the process ends, after its object, go to the standard error: by what
    code of users left behind, such as threads and what runs at exit.
    """
    with suppress(OSError, ValueError):  # one of them is closed, or no file
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def print_json(command: str, content: dict[str, Any], error: str = "") -> None:
    """One JSON object on a line of its own; with an error, if there is one."""
    error_of = {"error": error} if error else {}
    with printing():
        print(json.dumps({"schema": SCHEMA, "command": command, **content, **error_of}))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table; numbers stand to the right. Names are never cut, wherever it goes to."""
    for line in table(columns, rows, get_terminal_size().columns if sys.stdout.isatty() else None):
        with printing():
            print(line)


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
    if not _is_shown():
        yield lambda count: None
        return
    from rich.progress import DownloadColumn, TimeRemainingColumn

    total = sum(map(size_of, files))
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
    if not _is_shown():
        yield lambda count, total=None: None
        return
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with _progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count, total=None: bar.update(task, advance=count, total=total)


@contextmanager
def reaching(what: str) -> Iterator[Callable[[int, int], None]]:
    """`counting` for those who tell how many are done by now, and of how many."""
    shown = 0
    with counting(0, what) as advance:

        def told(done: int, total: int) -> None:
            nonlocal shown
            advance(done - shown, total)
            shown = done

        yield told


def _is_shown() -> bool:
    """Whether there is a terminal that progress is shown on; what shows it takes long to load."""
    return sys.stderr.isatty()


def _progress(*columns: Any) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress

    console = Console(stderr=True)
    return Progress("{task.description}", BarColumn(), *columns, console=console, transient=True)
