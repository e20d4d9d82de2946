"""Writing what is known to be right in place of what is wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from parimend.atomic import atomic, locked
from parimend.carriers import diagnose, repair_
from parimend.carriers.base import Search
from parimend.carriers.finding import Finding
from parimend.files.blocks import without
from parimend.files.fetching import Fetched
from parimend.files.opening import Opened, sidecars_of
from parimend.files.seals import sidecar_of
from parimend.files.unreadable import said_of, unknown
from parimend.outcomes import FileOutcome, Verdict
from parimend.seal import SealedWord
from parimend.stores.file import FileTensors, Progress, copy_data


def put_back(
    found: Opened,
    report: FileOutcome,
    findings: Mapping[SealedWord, Finding],
    out: Path | None,
    progress: Progress,
    fetched: Fetched | None = None,
) -> FileOutcome:
    """Put back what a check found and proved; what cannot be repaired stays as it is.

    Args:
        found: the file, of which a word shows that its seal belongs to it.
        report: what a check found in it.
        findings: in each of its words that are there and not clean.
        out: where to write the result instead of replacing the file.
        progress: see `parimend.repair_file`.
        fetched: blocks from other copies, with which the report was made.

    Returns:
        The report, with what was done.

    Raises:
        MismatchError: if the file was saved anew since it was opened.
        BusyError, OSError: if the result cannot be written. Nothing was changed then.
    """
    goal = out or found.path
    place = sidecar_of(out) if out else found.side
    words = zip(found.sealed.seal.words, report.words, strict=True)
    wrong = [word for word, outcome in words if outcome.verdict is Verdict.CORRECTABLE]
    if found.sealed.path is None or not (out or report.seal is not Verdict.CLEAN):
        place = None  # nothing to write there
    is_written = out or wrong or Verdict.CORRECTABLE in (report.header, report.frame)
    with ExitStack() as stack:
        # What is entered first takes its place last: a sidecar never lies beside another file.
        if place is not None:
            confirm = found.require_sidecar if out is None else found.require_unchanged
            side = stack.enter_context(atomic(place, found.path, confirm=confirm))
            side.write(found.sealed.seal.to_bytes())
            side.flush()  # whether there is room for it is known before the file is replaced
            report = replace(report, seal=_done(report.seal))
        if is_written:
            stale = sidecars_of(goal) if out else []
            confirm = found.require_unchanged
            new = stack.enter_context(atomic(goal, found.path, stale=stale, confirm=confirm))
            known = {word: findings[word] for word in wrong}
            report = _write(found, report, known, new, progress, fetched)
            report = replace(report, written=str(goal))
        elif place is not None:
            if place in sidecars_of(goal):
                stack.enter_context(locked(goal))
            found.require_unchanged()
    return report


def _write(
    found: Opened,
    report: FileOutcome,
    known: Mapping[SealedWord, Finding],
    new: BinaryIO,
    progress: Progress,
    fetched: Fetched | None,
) -> FileOutcome:
    """Make the repaired copy, and read it again before it takes its place."""
    seal, layout = found.sealed.seal, found.sealed.layout
    before = FileTensors(found.file, layout)
    # If it is not known where the file ends, nothing is made up, and nothing cut off.
    size = before.found if report.frame is Verdict.UNCORRECTABLE else before.size
    outcomes = dict(zip(seal.words, report.words, strict=True))
    clean = tuple(word for word, outcome in outcomes.items() if outcome.verdict is Verdict.CLEAN)
    copy_data(found.file, new, layout, size)
    if left := unknown([*known, *clean], before, size):
        raise OSError(errno.EIO, said_of(left), str(found.path))
    if fetched:
        fetched.put_into(new, known)
    copy = FileTensors(new, layout, progress)
    done = repair_(replace(seal, words=tuple(known)), copy, Search(lambda word, _: known[word]))
    again = diagnose(replace(seal, words=clean), copy)
    written = FileTensors(new, layout)
    is_framed = written.found == size and written.has_header_until(size)
    if not (done.verdict.ok and again.verdict.ok and is_framed):
        found.require_unchanged()  # else it is no fault of what was written
        lost = before.unreadable_bytes  # maybe after words in the same page were looked at
        if lost:
            begin, end = (without(lost, report.unreadable) or lost)[0]
            why = (
                f"{os.strerror(errno.EIO)}: bytes {begin} to {end - 1} could be read before, and "
                "not when they were copied: repair it again"
            )
            raise OSError(errno.EIO, why, str(found.path))
        raise OSError(f"{found.path}: what was written cannot be read back as it was")
    outcomes |= zip(known, done.words, strict=True)
    return replace(
        report,
        words=tuple(outcomes.values()),
        header=_done(report.header),
        frame=_done(report.frame),
    )


def _done(verdict: Verdict) -> Verdict:
    return Verdict.CORRECTED if verdict is Verdict.CORRECTABLE else verdict
