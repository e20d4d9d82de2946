"""``parimend propagate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parimend.cli.contract import require_written
from parimend.cli.options import Json, require_idle
from parimend.cli.options import kinds as weight_kinds
from parimend.cli.output import aside, print_json, print_table
from parimend.cli.sheets import Csv, Files, Html, Picture
from parimend.errors import SpecError

if TYPE_CHECKING:
    from parimend.experiment import Faults
    from parimend.upsets import Upset

UPSETS = ("bitflip", "relative", "offset", "row", "tile", "stuck")
"""As `parimend.upsets` has them, which takes time to load."""


def command(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that gives (model, inputs) or (model, inputs, answer); the module is "
            "looked for in this folder, too.",
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENT", help="Of the function, as text.")
    ] = None,
    upset: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=lambda: list(UPSETS),
            help=f"Kind of wrong outputs: {', '.join(UPSETS)}; may be repeated. Default: bitflip, "
            "if no --weights are given.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=weight_kinds,
            help="Kind of wrong weights, as of `parimend inject`; may be repeated.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Elements it strikes.")] = 1,
    size: Annotated[
        float,
        typer.Option(
            help="Of wrong outputs. relative: their relative error; offset, stuck: in units of the "
            "rms output; tile: its side."
        ),
    ] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, help="Faults of each kind in each layer.")] = 20,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Strike only modules whose names match; may be repeated."),
    ] = None,
    buffers: Annotated[
        bool,
        typer.Option("--buffers", help="Let --weights strike the buffers of modules, too."),
    ] = False,
    html: Html = None,
    picture: Picture = None,
    csv: Csv = None,
    json: Json = False,
) -> None:
    """Strike layer after layer of a model, and follow the errors to the answer.

    The first table has the layers that were struck: the relative error of their own output and of
    the answer, the share of faults that leave no error in it, and the share that changes it. The
    second has what every module does to errors that arrive: by how much they grow in relation to
    what they are in, and how many vanish. All with 95 % intervals.

    Example: parimend propagate traced:wrn weights_bf16.safetensors cifar10 --weights bitflip
    """
    from parimend.experiment import Faults
    from parimend.propagation import Layer, Struck, trace
    from parimend.upsets import Upset

    if not weights:
        require_idle(context, "for wrong weights: add --weights KIND", "buffers")
    elif not upset:
        require_idle(context, "for wrong outputs: add --upset KIND", "size")
    files = Files(html, picture, csv, read=[Path(each) for each in arguments or ()])
    computed = upset or ([] if weights else ["bitflip"])
    kinds: list[Upset | Faults] = [Upset(kind, count, size=size) for kind in computed]  # type: ignore[arg-type]
    kinds += [Faults(kind, count) for kind in weights or ()]
    with aside(json):
        model, inputs, *answer = _made(source, arguments or [])
        options = {"answer": answer[0]} if answer else {}
        chosen = range(seeds)
        found = trace(model, inputs, kinds, seeds=chosen, only=only, buffers=buffers, **options)
    trouble = ""
    if files:
        from parimend.report import trace_sheets

        trouble = files.write(trace_sheets(found), f"How errors travel in {source}")
    if json:
        print_json("propagate", found.as_dict(), trouble)
    else:
        print_table(Struck.COLUMNS, [each.row for each in found.struck])
        print_table(Layer.COLUMNS, [each.row for each in found.layers])
    require_written(trouble)


def _made(source: str, arguments: list[str]) -> tuple[Any, ...]:
    """What the named function gives."""
    from parimend.functions import function_of

    maker = function_of(source, Path())
    try:
        made = maker(*arguments)
    except Exception as error:  # whatever a function that is not ours may raise
        raise SpecError(f"{source} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise SpecError(f"{source} must give (model, inputs) or (model, inputs, answer)")
    return made
