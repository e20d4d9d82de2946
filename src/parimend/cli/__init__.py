"""The command line: thin commands over the public functions.

Every command is a module of this package with a function ``command``, or with an ``app`` of several
of them. A module is loaded when its command is asked for, and nothing that takes time to load is
imported before the command runs.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated

import typer

from parimend.cli.contract import Status, ending, held, stopping, tell
from parimend.cli.output import end_aside, prepare_streams

COMMANDS = (
    "demo",
    "protect",
    "check",
    "repair",
    "inspect",
    "fingerprint",
    "plan",
    "inject",
    "propagate",
    "campaign",
)
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that Python itself shows to nobody else."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status; see `parimend.cli.contract`.

    Args:
        arguments: by default those of the process.
    """
    prepare_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = given[: given.index("--")] if "--" in given else given
    with stopping() as stopped, warnings.catch_warnings():
        warnings.simplefilter("always")
        for category in _FOR_DEVELOPERS:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda message, *_: tell(f"warning: {message}")
        try:
            with ending("", as_json="--json" in options):
                _require_filled(given)
                # The first word is the command; what has none, or a wrong one, is told of all.
                app = app_of(set(given[:1]).intersection(COMMANDS) or COMMANDS)
                status = app(given, prog_name="parimend", standalone_mode=False)
                if status == Status.INTERRUPTED:  # before it began; Typer says nothing of it
                    raise stopped[0] if stopped else KeyboardInterrupt
                sys.exit(status)
        finally:
            if arguments is None and "--json" in options:
                end_aside()


def _require_filled(given: Iterable[str]) -> None:
    """Refuse what a variable that is not set leaves: as a path, it would be this folder."""
    for each in given:
        if re.fullmatch(r"(--[\w-]+=)?", each):
            which = f"{each} has nothing behind it" if each else "an argument is empty"
            raise typer.BadParameter(f"{which}: name what is meant (this folder is .)")


def app_of(names: Iterable[str]) -> typer.Typer:
    """What reads the arguments of the commands of these names."""
    app = typer.Typer(
        name="parimend",
        help="Error-correcting codes on the weights of neural networks.",
        epilog="Exit status: 0 clean or all repaired, 1 findings remain, 2 it could not run.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names:
        module = import_module(f"{__name__}.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(held(name)(module.command))
    return app


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _tell_version() if asked else None,
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    pass


def _tell_version() -> None:
    from parimend import __version__

    print(__version__)
    raise typer.Exit
