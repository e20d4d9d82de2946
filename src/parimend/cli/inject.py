"""``parimend inject``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parimend.cli.contract import require_written, unwritten
from parimend.cli.options import Json, Only, kinds, require_idle, written
from parimend.cli.output import print_json, print_table, say
from parimend.showing import counted

if TYPE_CHECKING:
    from parimend.faults import FaultList


def _placements() -> list[str]:
    from parimend.faults import PLACEMENTS

    return list(PLACEMENTS)


def command(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="An undamaged file; it is not changed.")
    ],
    out: Annotated[Path, written("Where to write the damaged copy.", "--out", "-o")],
    fault: Annotated[
        str | None,
        typer.Option(
            "--fault",
            "-f",
            autocompletion=kinds,
            help="Kind of damage: bitflip, doublebyte, multiflip, random, zero, sign, noise, "
            "replace, stuck, nonfinite on scattered elements; burst, lines, page, row, bank: "
            "--count overwritten elements in areas of that kind; column, rowhammer: flipped bits "
            "in rows of memory.",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "--count", "-n", min=0, help="Elements to change: a page of 4 KiB is 1024 of float32."
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same damage.")] = 0,
    only: Only = None,
    placement: Annotated[
        str | None,
        typer.Option(
            autocompletion=_placements,
            help="Where, instead of where the kind says: scattered, burst, lines, page, row, bank, "
            "column, rowhammer.",
        ),
    ] = None,
    save: Annotated[
        Path | None, written("Also write the list of faults here (JSON lines).")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Apply this list of faults instead of drawing one.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a damaged copy of a file, to try out what protection is good for.

    A sidecar comes along, so that the copy can be checked and repaired.

    Example: parimend inject model.safetensors -o broken.safetensors --fault bitflip --count 210
    """
    from parimend.cli.damaging import damage_file
    from parimend.cli.places import FAULTS, require_distinct, require_free, require_free_for

    if (fault is None) == (replay is None):
        raise typer.BadParameter("give either --fault KIND or --replay FILE")
    if replay is not None:
        because = "--replay does the faults that are listed, all of them: leave this out"
        require_idle(context, because, "count", "seed", "only", "placement")
    require_distinct([out, save], [path, replay])
    require_free_for(out, path)
    if save is not None:
        require_free(save, FAULTS)
    faults = damage_file(
        path, out, fault, count, seed, only=only, placement=placement, replay=replay
    )
    trouble = unwritten(lambda: faults.save(save)) if save is not None else ""
    if json:
        listed = [
            {
                "tensor": fault.tensor,
                "index": fault.index,
                "dtype": fault.dtype,
                "before": f"{fault.before:x}",
                "after": f"{fault.after:x}",
            }
            for fault in faults
        ]
        facts = {"kind": faults.kind, "placement": faults.placement, "seed": faults.seed}
        print_json("inject", {"path": str(out), **facts, "faults": listed}, trouble)
    else:
        _print(out, faults)
    require_written(trouble)


def _print(out: Path, faults: FaultList) -> None:
    per_tensor = [(name, int((faults.tensor == i).sum())) for i, name in enumerate(faults.names)]
    print_table(["tensor", "elements changed"], [[name, f"{n:,}"] for name, n in per_tensor])
    how = ", ".join(dict.fromkeys((faults.kind, faults.placement)))  # of a burst both are one
    say(f"{out}: {counted(len(faults), 'fault')} ({how}, seed {faults.seed})")
