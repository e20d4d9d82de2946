"""How every command ends: its exit status, and what it says where it cannot go on.

`docs/reference.md` has the statuses for users. Whatever happens, one line on the standard error
says why a command could not run; with ``--json``, an object on the standard output says it too.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any, NoReturn, TextIO, TypeVar

import typer

from parimend.cli.output import print_json, printing
from parimend.errors import ParimendError, SpecError
from parimend.showing import escaped

# Typer carries a copy of click, or uses an installed one, depending on its version.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_T = TypeVar("_T")


class Status(IntEnum):
    """What the exit status of a command says; the last ones as shells have it for signals."""

    OK = 0
    FINDINGS = 1
    FAILED = 2
    HUNG_UP = 128 + signal.SIGHUP
    INTERRUPTED = 128 + signal.SIGINT
    CUT_OFF = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


_STOPS = {
    signal.SIGHUP: (Status.HUNG_UP, "stopped, as the terminal was closed (SIGHUP)"),
    signal.SIGTERM: (Status.TERMINATED, "stopped from outside (SIGTERM)"),
}


class _Stopped(KeyboardInterrupt):
    """An interrupt by whoever stops processes: it leaves as little behind as Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.status, why = _STOPS[signal.Signals(number)]
        super().__init__(why)


@contextmanager
def stopping() -> Iterator[list[KeyboardInterrupt]]:
    """Make interrupts of the signals of systemd, ``timeout`` and closed terminals, which else end a
    process where it is, and leave half a copy of a large file behind.

    Yields:
        Them, as they come: whoever catches one need not know which it was.
    """
    process = os.getpid()
    stopped: list[KeyboardInterrupt] = []

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # a child of whatever code that users give
            os._exit(128 + number)
        for each in taken:  # they come twice from `timeout`
            signal.signal(each, signal.SIG_IGN)
        stopped.append(_Stopped(number))
        raise stopped[0]

    is_main = threading.current_thread() is threading.main_thread()
    taken = [each for each in _STOPS if is_main and signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, stop)
    try:
        yield stopped
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def held(name: str) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Let a command end as all do; it has an option ``json``.

    Args:
        name: of the command.
    """

    def decorate(command: Callable[..., _T]) -> Callable[..., _T]:
        @functools.wraps(command)
        def run(**options: Any) -> _T:
            with ending(name, as_json=options["json"]):
                try:
                    return command(**options)
                except SystemExit as error:  # none of ours: it would pass for an end of the work
                    said = (
                        "code that was to give a model, data or a score ended the program instead "
                        f"(SystemExit: {error.code}): let it return"
                    )
                    raise SpecError(error.code if isinstance(error.code, str) else said) from error

        return run

    return decorate


@contextmanager
def ending(name: str, *, as_json: bool) -> Iterator[None]:
    """Make an exit status of whatever ends the block, and say why.

    Args:
        name: of the command.
        as_json: whether an object was asked for.

    Raises:
        SystemExit: if the block did not come to its end.
    """
    process = os.getpid()

    def fail(text: str, status: Status = Status.FAILED, command: str = name) -> NoReturn:
        if os.getpid() != process:  # a child of whatever code that users give; it has said enough
            os._exit(status)
        if as_json:
            _say(lambda: print_json(command, {"error": _line(text)}), sys.stdout)
        tell(text)
        raise SystemExit(status) from None

    # An interrupt while a compiler calls back is lost there, and makes it fail later.
    lost: list[KeyboardInterrupt] = []

    def interrupt(by: KeyboardInterrupt) -> NoReturn:
        fail(str(by) or "interrupted", getattr(by, "status", Status.INTERRUPTED))

    hook = sys.unraisablehook
    sys.unraisablehook = lambda told: (
        lost.append(told.exc_value) if isinstance(told.exc_value, KeyboardInterrupt) else hook(told)
    )
    try:
        yield
        with printing():
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read what is printed has gone, and wants no more
        _silence(sys.stdout)
        raise SystemExit(Status.CUT_OFF) from None
    except _UsageError as error:
        fail(_misused(error), command=name or _name(error))
    except ParimendError as error:
        fail(str(error))
    except OSError as error:
        fail(reason(error))
    except KeyboardInterrupt as by:
        interrupt(by)
    except MemoryError:
        fail("there is not enough memory for this")
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            fail("this needs PyTorch, which is not installed here: pip install torch")
        if lost:
            interrupt(lost[0])
        for line in traceback.format_exc().splitlines():
            tell(line, prefix="")
        fail("this is an error of parimend itself; please report what is printed above")
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # of what prints the help
            _silence(sys.stdout)
            raise SystemExit(Status.CUT_OFF) from None
        raise
    except BaseException as error:  # of code that users give, such as what asyncio ends tasks with
        fail(f"stopped by {type(error).__name__}: {error}".removesuffix(": "))
    finally:
        sys.unraisablehook = hook


def reason(error: ParimendError | OSError) -> str:
    """Why something could not be done, in words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def unwritten(*writes: Callable[[], object]) -> str:
    """Write what goes beside an answer, which is printed all the same.

    Returns:
        Why something could not be written, in words, for `print_json` and `require_written`; or
        nothing.
    """
    reasons = []
    for write in writes:
        try:
            write()
        except (ParimendError, OSError) as error:
            reasons.append(reason(error))
    return "; ".join(dict.fromkeys(reasons))


def require_written(trouble: str) -> None:
    """After the answer, say what could not be written beside it.

    Raises:
        typer.Exit: if there is anything to say.
    """
    if trouble:
        tell(trouble)
        raise typer.Exit(Status.FAILED)


def tell(text: str, prefix: str = "parimend: ") -> None:
    """A line on the standard error, whatever a file name may contain."""
    # A bare `parimend` has said everything already.
    if line := _line(text) if prefix else text:
        _say(lambda: print(prefix + escaped(line), file=sys.stderr), sys.stderr)


def _say(what: Callable[[], None], stream: TextIO) -> None:
    """Print something, or nothing where nobody takes it: the exit status still says what it is."""
    try:
        what()
        stream.flush()
    except OSError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, as it would be written once more at the end."""
    with suppress(OSError, ValueError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _line(text: str) -> str:
    """A text of several lines, as libraries give, on one; names keep their spaces, of any kind."""
    return re.sub(r"[ \t]*[\r\n]+[ \t]*", " ", text.strip(" \t\r\n"))


def _misused(error: Any) -> str:
    """What is wrong with arguments; "invalid value" is said only of one that is named."""
    named = getattr(error, "param", None) or getattr(error, "param_hint", None)
    is_value = isinstance(error, typer.BadParameter)
    text: str = error.message if is_value and not named else error.format_message()
    return text


def _name(error: Exception) -> str:
    """The command that a wrong argument was given to."""
    context = getattr(error, "ctx", None)
    return " ".join(context.command_path.split()[1:]) if context else ""
