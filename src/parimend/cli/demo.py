"""``parimend demo``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from parimend.cli.options import Json, kinds, require_idle
from parimend.cli.output import print_json, reaching, say


def command(
    context: typer.Context,
    data: Annotated[
        Literal["digits", "mnist", "fashion-mnist"],
        typer.Option(help="Digits ship with scikit-learn; the others need --root."),
    ] = "digits",
    root: Annotated[
        Path | None, typer.Option(help="Folder of the IDX files, packed (.gz) or not.")
    ] = None,
    errors: Annotated[int, typer.Option(min=1, help="Weights to break and repair.")] = 210,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=kinds,
            help="Kind of damage; may be repeated. Default: bitflip, noise, replace.",
        ),
    ] = None,
    l1: Annotated[
        bool, typer.Option(help="Decode the same damage by linear programming too.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    json: Json = False,
) -> None:
    """Train a network inside the code, break its weights, repair them bit for bit.

    The network is pixels - 512 - 10 (LeakyReLU); 5,120 weights and 10 biases of its output layer
    are inside the code. Shown for every kind of damage: accuracy, verdict, accuracy after the
    repair, and whether the SHA-256 of all weights is again that of before; then the same damage
    decoded by linear programming with a dense Gaussian code, as far as it is finite.

    Exit status: 0 all damage was repaired, 1 some was not, 2 the demonstration could not run.
    """
    from parimend import datasets, demo

    if data == "digits":
        because = "digits come with scikit-learn: say what is there, with --data mnist or the like"
        require_idle(context, because, "root")
    with reaching("training") as told:
        result = demo.run(
            datasets.load(data, root),
            errors=errors,
            seed=seed,
            faults=fault or demo.FAULTS,
            l1=l1,
            say=lambda label, text: None if json else say(f"{label:25}{text}"),
            progress=told,
        )
    if json:
        print_json("demo", asdict(result))
    repaired = all(damage.sha256_equal for damage in result.damages)
    raise typer.Exit(0 if repaired else 1)
