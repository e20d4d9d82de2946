"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from parimend.arguments import goal_of
from parimend.errors import ParimendError, SpecError

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH",
        readable=False,  # it is told of each when its turn comes
        help="One or more of these: a protected file; a folder, with all that is protected in it "
        "and below; or the index (.index.json) of a sharded checkpoint.",
    ),
]
Listed = Annotated[
    bool, typer.Option("--list", "-l", "--verbose", help="List every wrong element.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Leave out what is clean: print nothing if all is."),
]

PROTECTED = (
    "file of any format; a folder, of which all files of weights, by their names, in it and below "
    "are protected one by one; or the index (.index.json) of a sharded checkpoint."
)
Source = Annotated[Path, typer.Argument(metavar="SRC", help="A " + PROTECTED)]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Only tensors whose names match this shell pattern, or, if it begins with !, do not; "
        "may be repeated."
    ),
]
SealDir = Annotated[
    Path | None,
    typer.Option(
        "--seal-dir",
        help="A folder of seals, found by the content of their files, whatever these are called; "
        "or one seal. By default they lie beside the files.",
    ),
]
# `CarrierName` and `Per` of the library, which takes longer to load than a help text may.
CarrierOption = Annotated[
    Literal["sidecar", "real", "lowbits"],
    typer.Option(
        help="Where the redundancy lives. sidecar: in a small file beside SRC, which stays as it "
        "is. real: in linear constraints, to which weights are moved (needs retraining for large "
        "budgets). lowbits: in the lowest bits of float32 weights."
    ),
]
PerOption = Annotated[
    Literal["model", "tensor", "row"],
    typer.Option(help="What has that budget of errors: the file, each tensor, each row."),
]
Guaranteed = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Ask for a proof that any that many of the errors are always repaired. A sidecar for "
        "up to 1,000 errors proves all of them anyway; real takes a code with a certificate, for 3 "
        "at most.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Selects the code.")]


def require_idle(context: typer.Context, because: str, *names: str) -> None:
    """Refuse options that would do nothing, rather than ignore what was asked for.

    Args:
        context: of the command.
        because: why they would do nothing, and what to do.
        *names: of the command's arguments.

    Raises:
        BadParameter: if one of them was given.
    """
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and _is_given(context, parameter.name)
    ]
    if given:
        raise typer.BadParameter(f"{', '.join(given)}: {because}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def written(what: str, *names: str, metavar: str = "PATH", panel: str | None = None) -> Any:
    """An option that names a file to write.

    Args:
        what: it is, for the help.
        names: of the option; that of the argument by default.
        metavar: the file in the help.
        panel: where the option stands in the help, if not among the others.
    """
    return typer.Option(*names, help=what, parser=_goal_of, metavar=metavar, rich_help_panel=panel)


def _goal_of(text: str) -> Path:
    """`goal_of`, as a parser: it raises `BadParameter`."""
    try:
        return goal_of(text)
    except SpecError as error:
        raise typer.BadParameter(str(error)) from None


def known(srcs: Sequence[Path], everything: bool = False) -> Iterator[Path]:
    """The files that are read; what stands for none is told when its turn comes."""
    from parimend.files import targets

    for src in srcs:
        with suppress(ParimendError, OSError):
            yield from targets(src, everything)


def kinds() -> list[str]:
    """Of damage, to complete what is typed."""
    from parimend.faults import KINDS

    return list(KINDS)
