"""``parimend check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parimend.cli.output import Json, SealDir, reading
from parimend.cli.report import show

Protected = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A protected file; a folder, with all that is protected in it and below; or the index "
        "(.index.json) of a sharded checkpoint.",
    ),
]
Listed = Annotated[
    bool, typer.Option("--list", "-l", "--verbose", help="List every wrong element.")
]


def command(
    path: Protected, seal_dir: SealDir = None, listed: Listed = False, json: Json = False
) -> None:
    """Compare a protected file with its seal. Nothing is written.

    Says how much of the file is covered and what is wrong, and whether it can be repaired. The seal
    is NAME.parimend beside the file, or inside it.

    Of a folder or an index, files that are missing, cannot be read or are not protected are
    findings, and the others are looked at.

    Exit status: 0 nothing is wrong, 1 something is, 2 the check could not run (the file is not
    protected, the sidecar belongs to another file, ...).
    """
    from parimend.files import check_file, known_members

    with reading(known_members(path, seal_dir), "checking") as progress:
        report = check_file(path, progress, seal_dir=seal_dir)
    raise typer.Exit(show("check", report, as_json=json, listed=listed))
