"""``parimend check``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parimend.cli.contract import reason, require_written, tell
from parimend.cli.options import Json, Listed, Paths, Quiet, SealDir, written
from parimend.cli.output import printing, reading
from parimend.cli.report import show
from parimend.cluster import EngineName
from parimend.errors import ParimendError
from parimend.showing import escaped

if TYPE_CHECKING:
    from parimend.outcomes import Report

Ranges = Annotated[
    bool,
    typer.Option(
        "--ranges",
        help="Print only the bytes to be fetched from another copy, as curl -r takes them; of "
        "several files a line for each, after its path.",
    ),
]
Written = Annotated[
    Path | None,
    written(
        "Write to FILE which files these are and what was found, as JSON to be signed.",
        "--receipt",
        metavar="FILE",
    ),
]


def command(
    paths: Paths,
    seal_dir: SealDir = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Files to check at the same time; 1 by default."),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="Where they are checked: in threads here, or in tasks of a Ray cluster, on whose "
            "machines the files have the same paths."
        ),
    ] = "local",
    listed: Listed = False,
    quiet: Quiet = False,
    ranges: Ranges = False,
    receipt: Written = None,
    json: Json = False,
) -> None:
    """Compare protected files with their seals. The files are only read.

    Says how much of the file is covered and what is wrong, and whether it can be repaired. The seal
    is NAME.parimend beside the file, or inside it.

    Of a folder or an index, files that are missing, cannot be read or are not protected are
    findings, and the others are looked at.

    Exit status: 0 nothing is wrong, 1 something is, 2 the check could not run (the file is not
    protected, the sidecar belongs to another file, ...).
    """
    from parimend.files import check_all, known_members

    if receipt and (len(paths) > 1 or engine == "ray"):
        raise typer.BadParameter(
            "--receipt takes one path, checked here: leave out other paths and --engine ray"
        )
    known = [file for path in paths for file in known_members(path, seal_dir)]
    if receipt:
        from parimend.cli.places import RECEIPT, require_distinct, require_free
        from parimend.files.apart import Apart

        # Not by its name: a single seal would be that of any file.
        apart = Apart(seal_dir, proven=True) if seal_dir else None
        require_free(receipt, RECEIPT, seals=apart)
        require_distinct([receipt], [*known, seal_dir])
    if engine == "local" and workers is None:
        workers = 1
    trouble = ""
    with reading(known, "checking") as progress:
        if receipt:
            report, trouble = _with_receipt(paths[0], receipt, progress, seal_dir, workers)
        else:
            report = check_all(
                paths, progress=progress, seal_dir=seal_dir, workers=workers, engine=engine
            )
    if ranges and not json:
        status = _print_ranges(report)
    else:
        how = {"as_json": json, "listed": listed, "quiet": quiet}
        status = show("check", report, **how, seal_dir=seal_dir, error=trouble)
    require_written(trouble)
    raise typer.Exit(status)


def _print_ranges(report: Report) -> int:
    """Print what is to be fetched, for programs, and tell of files of which that is not known; the
    exit status.
    """
    from parimend.files.blocks import ranges_text
    from parimend.outcomes import Verdict

    for file in report.files:
        if file.ranges:
            name = f"{escaped(file.path)}\t" if len(report.files) > 1 else ""
            with printing():
                print(name + ranges_text(file.ranges))
        elif not file.ok and file.verdict is not Verdict.CORRECTABLE:
            tell(f"{file.path}: {file.said}")
    return 0 if report.ok else 1


def _with_receipt(
    path: Path,
    out: Path,
    progress: Callable[[int], None],
    seal_dir: Path | None,
    workers: int | None,
) -> tuple[Report, str]:
    """What was found, and why the receipt of it could not be written, if so."""
    from parimend.atomic import atomic
    from parimend.loading import receipt

    report = None
    try:
        with atomic(out) as file:  # what cannot be written is told before hours of looking
            made, report = receipt(path, progress=progress, seal_dir=seal_dir, workers=workers)
            file.write(made.to_bytes())
    except (ParimendError, OSError) as error:
        if report is None:
            raise
        return report, reason(error)
    return report, ""
