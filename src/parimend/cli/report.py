"""How the outcome of `check` and `repair` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parimend.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from parimend.outcomes import Report


def show(command: str, report: Report, *, as_json: bool, listed: bool) -> int:
    """Print a report.

    Args:
        command: its name.
        report: what was found.
        as_json: print JSON; it always lists every wrong element.
        listed: list every wrong element in a table too.

    Returns:
        The exit status.
    """
    if as_json:
        print_json(command, report.as_dict())
    else:
        _print(report, listed)
    return 0 if report.ok else 1


def _print(report: Report, listed: bool) -> None:
    from parimend.outcomes import Change, FileOutcome

    print_table(FileOutcome.COLUMNS, [file.row for file in report.files])
    if listed and report.changes:
        print_table(Change.COLUMNS, [change.row for change in report.changes])
    written = [file.written for file in report.files if file.written]
    if written:
        say(f"written: {', '.join(written)}")
    say(f"{report.verdict.value} ({report.seconds:.2f} s)")
