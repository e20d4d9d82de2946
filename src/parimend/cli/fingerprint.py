"""``parimend fingerprint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parimend.cli.options import Json, Only
from parimend.cli.output import print_json, print_table, say
from parimend.regular import read_regular
from parimend.showing import counted

if TYPE_CHECKING:
    from parimend.fingerprints import Fingerprint

MOST = 1 << 28
"""Bytes of the largest fingerprint that is read."""


def command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="A file, the index or the folder of a sharded checkpoint; or the JSON of one.",
        ),
    ],
    other: Annotated[
        Path | None, typer.Argument(metavar="B", help="What it is compared with.")
    ] = None,
    only: Only = None,
    json: Json = False,
) -> None:
    """Show a few sums of every tensor of a file, which tell it from others, or compare two files.

    Files may be of different formats, sharded or not, protected or not. With --json the output of
    one can be saved as NAME.json, and is taken for A or B elsewhere: so two places are compared
    without bringing the files together.

    Exit status: 0 both are the same, 1 they differ, 2 the command could not run.
    """
    from parimend.fingerprints import Difference

    here = _taken(path, only)
    if other is None:
        if json:
            print_json("fingerprint", {"digest": here.digest, **here.as_dict()})
            return
        rows = [
            (name, each.dtype, str([*each.shape]), each.digits)
            for name, each in here.tensors.items()
        ]
        print_table(("tensor", "dtype", "shape", "sums"), rows)
        say(here.digest)
        return
    found = here.compare(_taken(other, only))
    if json:
        print_json("fingerprint", found.as_dict())
    else:
        if found.differences:
            print_table(Difference.COLUMNS, [each.row for each in found.differences])
        if found.equal:
            say(f"equal: {counted(found.tensors, 'tensor')}")
        else:
            say(f"{len(found.differences):,} of {counted(found.tensors, 'tensor')} differ")
    raise typer.Exit(0 if found.equal else 1)


def _taken(path: Path, only: list[str] | None) -> Fingerprint:
    from parimend.files.targets import is_index
    from parimend.fingerprints import Fingerprint, fingerprint

    if path.suffix != ".json" or is_index(path):
        return fingerprint(path, only=only)
    return Fingerprint.from_json(read_regular(path, MOST), str(path)).chosen(only)
