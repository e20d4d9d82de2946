"""``parimend check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parimend.cli.output import Json, reading
from parimend.cli.report import show

if TYPE_CHECKING:
    from parimend.outcomes import Report

Protected = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A protected file; or the folder or the index (.index.json) of a sharded checkpoint.",
    ),
]
Listed = Annotated[
    bool, typer.Option("--list", "-l", "--verbose", help="List every wrong element.")
]


Ranges = Annotated[
    bool,
    typer.Option(
        "--ranges",
        help="Print only the bytes to be fetched from another copy, as curl -r takes them; of "
        "several files a line for each, after its path.",
    ),
]


def command(
    path: Protected, listed: Listed = False, ranges: Ranges = False, json: Json = False
) -> None:
    """Compare a protected file with its seal. Nothing is written.

    Says how much of the file is covered and what is wrong, and whether it can be repaired. The seal
    is NAME.parimend beside the file, or inside it.

    Of a folder or an index, files that are missing, cannot be read or are not protected are
    findings, and the others are looked at.

    Exit status: 0 nothing is wrong, 1 something is, 2 the check could not run (the file is not
    protected, the sidecar belongs to another file, ...).
    """
    from parimend.files import Members, check_file

    with reading(Members(path).first(), "checking") as progress:
        report = check_file(path, progress)
    if ranges and not json:
        raise typer.Exit(_print_ranges(report))
    raise typer.Exit(show("check", report, as_json=json, listed=listed))


def _print_ranges(report: Report) -> int:
    """Print what is to be fetched, for programs; the exit status."""
    from parimend.files.blocks import ranges_text

    for file in report.files:
        if file.ranges:
            name = f"{file.path}\t" if len(report.files) > 1 else ""
            print(name + ranges_text(file.ranges))
    return 0 if report.ok else 1
