"""The command line: thin commands over the public functions.

Every command is a module of this package with a function ``command``. Nothing that takes time to
load is imported before a command runs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from parimend.cli import (
    campaign,
    check,
    demo,
    inject,
    inspect,
    plan,
    propagate,
    protect,
    repair,
)
from parimend.cli.contract import ending, held, tell
from parimend.cli.output import prepare_streams

app = typer.Typer(
    name="parimend",
    help="Error-correcting codes on the weights of neural networks.",
    epilog="Exit status: 0 clean or all repaired, 1 findings remain, 2 the command could not run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (demo, protect, check, repair, inspect, plan, inject, propagate):
    _name = _module.__name__.rpartition(".")[2]
    app.command(_name)(held(_name)(_module.command))
app.add_typer(campaign.app, name="campaign")


def _version(asked: bool) -> None:
    if asked:
        from parimend import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status; see `parimend.cli.contract`.

    Args:
        arguments: by default those of the process.
    """
    prepare_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = given[: given.index("--")] if "--" in given else given
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: tell(f"warning: {message}")
        with ending("", as_json="--json" in options):
            sys.exit(app(given, prog_name="parimend", standalone_mode=False))
