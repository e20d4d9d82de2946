"""The command line: thin commands over the public functions.

Every command is a module of this package with a function ``command``. Nothing that takes time to
load is imported before a command runs.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from parimend.cli import (
    campaign,
    check,
    demo,
    fingerprint,
    inject,
    inspect,
    plan,
    propagate,
    protect,
    repair,
)
from parimend.cli.output import print_json, require_encodable
from parimend.showing import escaped

# Typer carries a copy of click, or uses an installed one, depending on its version.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="parimend",
    help="Error-correcting codes on the weights of neural networks.",
    epilog="Exit status: 0 clean or all repaired, 1 findings remain, 2 the command could not run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (demo, protect, check, repair, inspect, fingerprint, plan, inject, propagate):
    app.command(_module.__name__.rpartition(".")[2])(_module.command)
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
    """Run a command and exit with its status; errors become one line.

    Args:
        arguments: by default those of the process.
    """
    from parimend.errors import ParimendError

    require_encodable()
    given = sys.argv[1:] if arguments is None else list(arguments)
    fail = _fail_as_json(given) if "--json" in given else _tell
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: _tell(f"warning: {message}")
        try:
            sys.exit(app(given, standalone_mode=False))
        except _UsageError as error:
            fail(error.format_message())  # type: ignore[attr-defined]
        except ParimendError as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(130)
        except Exception:
            for line in traceback.format_exc().splitlines():
                print(escaped(line), file=sys.stderr)
            fail("this is an error of parimend itself; please report what is printed above")
    sys.exit(2)


def _fail_as_json(arguments: Sequence[str]) -> Callable[[str], None]:
    """Programs that asked for an object get one, whatever happens."""

    def fail(text: str) -> None:
        command = next((a for a in arguments if not a.startswith("-")), "")
        print_json(command, {"error": " ".join(text.split())})
        _tell(text)

    return fail


def _tell(text: str) -> None:
    # One line, whatever a file name may contain; a bare `parimend` has said everything already.
    if line := " ".join(text.split()):
        print("parimend:", escaped(line), file=sys.stderr)
