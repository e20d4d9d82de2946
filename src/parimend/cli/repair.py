"""``parimend repair``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from parimend.cli.options import Json, Listed, Paths, Quiet, SealDir, written
from parimend.cli.output import reading
from parimend.cli.report import show


def command(
    paths: Paths,
    out: Annotated[
        Path | None, written("Write the repaired file and its sidecar here.", "--out", "-o")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Let the repaired file take the damaged one's place.")
    ] = False,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Of a file that cannot be repaired as a whole, put back what is proven, and leave "
            "the rest as it is.",
        ),
    ] = False,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="OTHER",
            help="Another copy, damaged or not: a path, a folder with files of the same names, or "
            "an address (https://, s3://, hf://). Takes from it the blocks of 64 KiB that are "
            "damaged beyond the budget; may be repeated.",
        ),
    ] = None,
    seal_dir: SealDir = None,
    listed: Listed = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Put back every wrong element, bit for bit; the header and the length, too.

    The result is written aside, proven by SHA-256, and only then takes its place: a crash leaves
    the file as it was, or repaired. What cannot be repaired is named, and nothing is written then,
    unless --partial is given. With --from, a command that was interrupted goes on where it was.

    Exit status: 0 the file is or was right, 1 findings remain, 2 the repair could not run.
    """
    from parimend.files import known_members, repair_all

    if (out is None) != in_place:
        raise typer.BadParameter("give either -o DST or --in-place")
    known = [file for path in paths for file in known_members(path, seal_dir)]
    if out is not None:
        _require_free(out, paths, seal_dir, sources or ())
    with reading(known, "repairing") as progress:
        report = repair_all(
            paths, out, progress=progress, partial=partial, seal_dir=seal_dir, sources=sources or ()
        )
    raise typer.Exit(
        show("repair", report, as_json=json, listed=listed, quiet=quiet, seal_dir=seal_dir)
    )


def _require_free(
    out: Path, paths: Sequence[Path], seal_dir: Path | None, sources: Sequence[str]
) -> None:
    """Refuse to write repaired files where others are that have a seal, or that are read."""
    from parimend.cli.places import require_distinct, require_free_for
    from parimend.files.apart import seals_in
    from parimend.files.members import Members

    seals = seals_in(seal_dir)
    for members in (Members(path, seals) for path in paths):
        files = {file: members.name(file) for file in members.first()}
        others = [source for source in map(Path, sources) if not source.is_dir()]
        others += [Path(source, name) for source in sources for name in files.values()]
        goals = [out / name for name in files.values()] if out.is_dir() else [out]
        require_distinct(goals, files, ", or use --in-place")
        require_distinct(goals, [seal_dir, *others])
        for file, name in files.items():
            require_free_for(out / name if out.is_dir() else out, file, seals)
