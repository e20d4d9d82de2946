"""How the outcome of `check` and `repair` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parimend.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from parimend.records import Change, FileReport, Report, WordOutcome


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
        print_json(command, as_dict(report))
    else:
        _print(report, listed)
    return 0 if report.verdict.ok else 1


def as_dict(report: Report) -> dict[str, Any]:
    """A report as JSON values; docs/files.md describes them."""
    return {
        "verdict": report.verdict.value,
        "seconds": round(report.seconds, 6),
        "files": [_file(file) for file in report.files],
    }


def _file(file: FileReport) -> dict[str, Any]:
    return {
        "path": file.path,
        "verdict": file.verdict.value,
        "carrier": file.carrier,
        "errors": file.errors,
        "elements": file.elements,
        "covered": file.outcome.elements,
        "seal": file.seal.value,
        "header": file.header.value,
        "frame": file.frame.value,
        "missing_bytes": file.missing,
        "surplus_bytes": file.surplus,
        "written": file.written,
        "problem": file.problem,
        "words": [_word(word) for word in file.outcome.words],
    }


def _word(word: WordOutcome) -> dict[str, Any]:
    return {
        "name": word.name,
        "verdict": word.verdict.value,
        "elements": word.elements,
        "unexplained": word.unexplained,
        "reason": word.reason,
        "changes": [_change(change) for change in word.changes],
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "tensor": change.tensor,
        "index": list(change.index),
        "dtype": change.dtype,
        "received": change.received.hex(),
        "original": change.original.hex(),
        # JSON has no NaN and no infinities.
        "received_value": _finite(change.value(change.received)),
        "original_value": _finite(change.value(change.original)),
    }


def _finite(value: float | int | str) -> float | int | str:
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)


def _print(report: Report, listed: bool) -> None:
    rows = [
        [
            file.path,
            file.verdict.value,
            f"{file.outcome.elements:,} of {file.elements:,}" if file.carrier else "-",
            "\n".join(file.findings) or "-",
        ]
        for file in report.files
    ]
    print_table(["file", "verdict", "elements covered", "findings"], rows)
    if listed and report.changes:
        print_table(
            ["tensor", "index", "dtype", "found", "original"],
            [
                [
                    change.tensor,
                    ", ".join(map(str, change.index)),
                    change.dtype,
                    f"{change.value(change.received)} ({change.received[::-1].hex()})",
                    f"{change.value(change.original)} ({change.original[::-1].hex()})",
                ]
                for change in report.changes
            ],
        )
    written = [file.written for file in report.files if file.written]
    if written:
        console().print("written:", ", ".join(written), soft_wrap=True)
    console().print(f"{report.verdict.value} ({report.seconds:.2f} s)")
