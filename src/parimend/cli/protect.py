"""``parimend protect``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parimend.cli.options import (
    PROTECTED,
    CarrierOption,
    Guaranteed,
    Json,
    Only,
    PerOption,
    Seed,
    known,
    written,
)
from parimend.cli.output import print_json, print_table, reading, say, size
from parimend.errors import ParimendError
from parimend.warning import warn

if TYPE_CHECKING:
    from parimend.files import Protected, Protection


_SHOWN = 5
"""Names of files that are left out, of which most are of no interest."""
Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SRC",
        readable=False,  # it is told of each when its turn comes
        help="One or more of these: a " + PROTECTED,
    ),
]
Errors = Annotated[
    int,
    typer.Option(
        "--errors", "-e", min=1, help="Wrong 32-bit words that can be repaired, wherever they fall."
    ),
]


def command(
    srcs: Sources,
    out: Annotated[
        Path | None,
        written(
            "For real and lowbits the protected file to write; of a folder or an index an existing "
            "folder. For sidecar where to write the sidecar of a single file.",
            "--out",
            "-o",
        ),
    ] = None,
    carrier: CarrierOption = "sidecar",
    errors: Errors = 210,
    only: Only = None,
    per: PerOption = "model",
    seed: Seed = 0,
    guaranteed: Guaranteed = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Of a folder, all other files, too: tokenizers, configurations."
        ),
    ] = False,
    seal_dir: Annotated[
        Path | None,
        typer.Option("--seal-dir", help="A folder for the sidecars, made if it is missing."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Protect what is there now, even if it has a seal.")
    ] = False,
    json: Json = False,
) -> None:
    """Protect files, so that up to --errors wrong words of each can be found and repaired.

    By default, SRC is left alone and SRC.parimend is written beside it. A word is 32 bits:
    one float32, half a float64, two weights of 16 bits, or four of 8. Protect before damage can
    strike: a seal of damaged weights preserves the damage. A command that was interrupted can be
    run again: it keeps the seals of unchanged files that are already as asked for.

    Example: parimend protect model.safetensors --errors 1000
    """
    from parimend.files import protect_all
    from parimend.files.seals import is_seal

    if out is not None and carrier != "sidecar":
        _require_free(_goals(out, srcs, everything), known(srcs, everything), force)
    elif out is not None and not (out.exists() or is_seal(out)):
        _require_free([out], srcs, force)
    with reading(known(srcs, everything), "protecting") as progress:
        made = protect_all(
            srcs,
            errors,
            carrier,
            out,
            everything=everything,
            seal_dir=seal_dir,
            force=force,
            progress=progress,
            only=only,
            per=per,
            seed=seed,
            guaranteed=guaranteed,
        )
    _warn_of_the_rest(made.files)
    if json:
        print_json("protect", made.as_dict())
    else:
        _print(made)
    raise typer.Exit(1 if made.problems else 0)


def _require_free(goals: Sequence[Path], read: Iterable[Path], force: bool) -> None:
    """Refuse to write protected files or seals where others are."""
    from parimend.cli.places import require_distinct, require_free

    require_distinct(goals, read)
    for goal in () if force else goals:
        require_free(goal, instead=", or use --force")


def _goals(out: Path, srcs: Sequence[Path], everything: bool) -> list[Path]:
    """Where protected files are written, as far as that is known."""
    from parimend.files.protecting import goals_of

    if not out.is_dir():
        return [out]
    goals = []
    for src in srcs:
        with suppress(ParimendError, OSError):  # it is told of when its turn comes
            goals += [goal for goal in goals_of(src, out, everything) if goal.parent.is_dir()]
    return goals


def _print(made: Protected) -> None:
    rows = [
        [
            file.path,
            f"{file.seal.covered:,} of {file.elements:,}",
            f"{file.seal.errors:,}",
            *file.seal.promise.cells,
            size(file.seal_bytes),
            (file.sidecar or "inside") + (" (kept)" if file.is_kept else ""),
        ]
        for file in made.files
    ]
    print_table(
        ["file", "elements covered", "errors", "guaranteed", "bound", "measured", "seal", "where"],
        rows,
    )
    if moved := [by for file in made.files for by in file.seal.notes.get("moved", ())]:
        say(f"weights moved by {max(moved):.2g} (relative L2) at most")
    for path, problem in made.problems.items():
        say(f"not protected: {path}: {problem}")
    for name, reason in made.left_out.items():
        say(f"left out: {name}: {reason}")
    if made.others:
        more = f", and {len(made.others) - _SHOWN} smaller ones" * (len(made.others) > _SHOWN)
        say(
            f"left out, as not known to hold weights: {', '.join(made.others[:_SHOWN])}{more} "
            "(--all protects them)"
        )


def _warn_of_the_rest(made: Sequence[Protection]) -> None:
    """Warn if patterns chose so little that hardly anything is protected."""
    covered, present = (
        sum(getattr(file, count) for file in made) for count in ("covered_bytes", "data_bytes")
    )
    if 2 * covered < present:
        warn(
            f"{covered / present:.2%} of the bytes are protected; damage to others is not found, "
            "and not repaired",
        )
