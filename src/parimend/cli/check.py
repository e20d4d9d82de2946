"""``parimend check``."""

from __future__ import annotations

from collections.abc import Callable
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


Written = Annotated[
    Path | None,
    typer.Option(
        "--receipt",
        metavar="FILE",
        help="Write down which files these are and what is found, as JSON to be signed.",
    ),
]


def command(
    path: Protected, listed: Listed = False, receipt: Written = None, json: Json = False
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
        report = _with_receipt(path, receipt, progress) if receipt else check_file(path, progress)
    raise typer.Exit(show("check", report, as_json=json, listed=listed))


def _with_receipt(path: Path, out: Path, progress: Callable[[int], None]) -> Report:
    from parimend.atomic import atomic
    from parimend.loading import receipt

    made, report = receipt(path, progress)
    with atomic(out) as file:
        file.write(made.to_bytes())
    return report
