"""``parimend check``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from parimend.cli.output import Json, SealDir, reading
from parimend.cli.report import show

_IS = (
    "protected file; a folder, with all that is protected in it and below; or the index "
    "(.index.json) of a sharded checkpoint."
)
Protected = Annotated[Path, typer.Argument(metavar="PATH", help="A " + _IS)]
Listed = Annotated[
    bool, typer.Option("--list", "-l", "--verbose", help="List every wrong element.")
]


class EngineName(StrEnum):
    """`parimend.files.engines.ENGINES`, as typer wants it."""

    LOCAL = "local"
    RAY = "ray"


def command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="One or more of these: a " + _IS)
    ],
    seal_dir: SealDir = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Files that are looked at at the same time; by default 1."),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="Who looks: threads here, or tasks of a Ray cluster, on whose machines the files "
            "have the same paths."
        ),
    ] = EngineName.LOCAL,
    listed: Listed = False,
    json: Json = False,
) -> None:
    """Compare protected files with their seals. Nothing is written.

    Says how much of the file is covered and what is wrong, and whether it can be repaired. The seal
    is NAME.parimend beside the file, or inside it.

    Of a folder or an index, files that are missing, cannot be read or are not protected are
    findings, and the others are looked at.

    Exit status: 0 nothing is wrong, 1 something is, 2 the check could not run (the file is not
    protected, the sidecar belongs to another file, ...).
    """
    from parimend.files import check_all, known_members

    known = [file for path in paths for file in known_members(path, seal_dir)]
    if engine is EngineName.LOCAL and workers is None:
        workers = 1
    with reading(known, "checking") as progress:
        report = check_all(paths, progress, seal_dir=seal_dir, workers=workers, engine=engine.value)
    raise typer.Exit(show("check", report, as_json=json, listed=listed, seal_dir=seal_dir))
