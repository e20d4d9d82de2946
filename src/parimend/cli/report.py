"""How the outcome of `check` and `repair` is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from parimend.cli.contract import Status
from parimend.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from pathlib import Path

    from parimend.outcomes import FileOutcome, Report


def show(
    command: str,
    report: Report,
    *,
    as_json: bool,
    listed: bool,
    quiet: bool,
    seal_dir: Path | None = None,
    error: str = "",
) -> int:
    """Print a report.

    Args:
        command: its name.
        report: what was found.
        as_json: print JSON; it always lists every wrong element.
        listed: list every wrong element in a table too.
        quiet: leave out of the text what is clean.
        seal_dir: where the seals are, if not beside the files.
        error: what could not be written beside it, for JSON; see `unwritten`.

    Returns:
        The exit status.
    """
    from parimend.files.remedies import remedy
    from parimend.outcomes import Verdict

    remedies = {file.path: text for file in report.files if (text := remedy(file, seal_dir))}
    shown = [file for file in report.files if not (quiet and file.verdict is Verdict.CLEAN)]
    if as_json:
        print_json(command, {**report.as_dict(), "remedies": remedies}, error)
    elif shown or not quiet:
        _print(report, shown, remedies, listed, repaired=command == "repair")
    return Status.OK if report.ok else Status.FINDINGS


def _print(
    report: Report,
    shown: Sequence[FileOutcome],
    remedies: Mapping[str, str],
    listed: bool,
    repaired: bool,
) -> None:
    from parimend.outcomes import Change, FileOutcome

    print_table(FileOutcome.COLUMNS, [file.row for file in shown])
    if listed and report.changes:
        print_table(Change.COLUMNS, [change.row for change in report.changes])
    for path, text in remedies.items():
        say(f"{path}: {text}")
    written = [file.written for file in report.files if file.written]
    if written or (repaired and not report.ok):
        say(f"written: {', '.join(written) or 'nothing'}")
    say(f"{report.verdict.value} ({report.seconds:.2f} s)")
