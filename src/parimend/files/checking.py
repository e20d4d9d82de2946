"""Checking and repairing files."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

from parimend import kernels
from parimend.arguments import path_of
from parimend.carriers import diagnose
from parimend.carriers.base import Find, find, find_hashed, proven, require_match
from parimend.carriers.finding import Finding
from parimend.errors import FormatError, MismatchError, SourceError, SpecError
from parimend.files.blocks import damage_in
from parimend.files.fetching import Fetched, PatchedTensors, fetching
from parimend.files.members import Members
from parimend.files.opening import Opened, opened
from parimend.files.repairing import put_back
from parimend.files.seals import Sealed
from parimend.files.targets import index_first, is_index
from parimend.formats import layout_of
from parimend.outcomes import FileOutcome, Report, Verdict, WordOutcome, worst
from parimend.regular import require_place
from parimend.seal import Seal, SealedWord
from parimend.showing import command_word
from parimend.stores.base import Tensors
from parimend.stores.file import FileTensors, Progress, silent
from parimend.words.bits import WORD
from parimend.words.layout import elements_in

Act = Callable[[Seal, FileTensors], FileOutcome]
PathLike = str | os.PathLike[str]
_HASHED = 1 << 28
"""Bytes that are hashed in no more time than compiled loops, which sums need, take to load."""
_BEHIND = "it lies behind the end of the file, which cannot be made whole"


def check_file(path: PathLike, progress: Progress = silent) -> Report:
    """Compare a protected file with its seal; nothing is written.

    One pass of sums, without SHA-256 if they are as sealed: damage changes them, but for one case
    in 2^64 or fewer. What is found to be wrong is decoded, and proven by SHA-256 in a second pass.
    Small files are compared by SHA-256 instead, in a process that has not computed any sums yet.

    Args:
        path: a protected file; a folder, which stands for everything that is protected in it or
            should be; or the index of a sharded checkpoint, which stands for all that was protected
            together with it.
        progress: called with the number of bytes of every read, from any thread.

    Returns:
        A report with an outcome for each file. Of a folder or an index, files that are missing,
        cannot be read, are not protected or came to the others later have the verdict `unknown`,
        and a problem.

    Raises:
        SealError: if the file is not protected, or its seal cannot be read; of a folder or an
            index, if none of the files is protected.
        MismatchError: if the sidecar was made for another file.
        FormatError: if a folder has nothing to check.
        SpecError: if ``path`` is no path.
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> from parimend import protect_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "weights.bin")
        ...     _ = path.write_bytes(bytes(range(256)))
        ...     _ = protect_file(path, errors=3)
        ...     _ = path.write_bytes(bytes([7, 0, 9]) + bytes(range(3, 256)))
        ...     report = check_file(path)
        >>> report.verdict.value, [(c.index, c.received[0], c.original[0]) for c in report.changes]
        ('correctable', [((0,), 7, 0), ((1,), 0, 1), ((2,), 9, 2)])
    """
    began = time.perf_counter()
    members = Members(path_of(path))

    act = functools.partial(diagnose, find=_quickest(members))

    def look(target: Path) -> FileOutcome:
        with opened(target) as found:
            members.learn(found.sealed, found.file, target)
            tensors = FileTensors(found.file, found.sealed.layout, progress)
            return report_on(found.sealed, tensors, found.file, target, act)

    return Report(_reports(members, look), time.perf_counter() - began)


def repair_file(
    path: PathLike,
    out: PathLike | None = None,
    progress: Progress = silent,
    *,
    partial: bool = False,
    sources: PathLike | Sequence[PathLike] = (),
) -> Report:
    """Put back every wrong element of a protected file, its header and its length, bit for bit.

    The repaired file is written beside its place and verified before it takes it, so that a crash
    at any moment leaves the file as it was, or repaired. Nothing is written where something cannot
    be repaired, unless ``partial`` asks for it. A damaged sidecar is written anew.

    Args:
        path: as for `check_file`.
        out: where to write the repaired file, protected as it was; for a sharded checkpoint an
            existing folder. By default repaired files take the place of the damaged ones, and
            clean ones are not touched.
        progress: see `check_file`.
        partial: of a file that cannot be repaired as a whole, put back what is proven: the header
            and the words that are `corrected` in the report. Everything else is left as it is, the
            length too.
        sources: other copies of the file, damaged or not, from which blocks of 64 KiB are taken
            that are damaged beyond the budget: paths, or addresses that fsspec opens (``https://``,
            ``s3://``, ``hf://``; extra ``remote``). A folder, or an address that ends in ``/``, is
            where files of the same names are. The blocks lie in ``.NAME.fetched`` until the file is
            repaired: what is interrupted goes on from there.

    Raises:
        BusyError: if another process is writing the same file.
        SourceError: if a source that is needed cannot be read in ranges, or is of another file.
        MismatchError: also if a file was saved anew while it was being repaired.
        FormatError: also if ``out`` is something else than a regular file or a folder.
        OSError: if a file cannot be read or written. Nothing was changed then.
        SealError, MismatchError, FormatError: as `check_file` does.

    Example:
        >>> import tempfile
        >>> from parimend import protect_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "weights.bin")
        ...     _ = path.write_bytes(bytes(range(256)))
        ...     _ = protect_file(path, errors=3)
        ...     _ = path.write_bytes(bytes(range(250)))  # the end is missing
        ...     repair_file(path).verdict.value, path.read_bytes() == bytes(range(256))
        ('corrected', True)
    """
    began = time.perf_counter()
    members = Members(path_of(path))
    folder = None if out is None else path_of(out, "out")
    count = len(members.first())
    if folder and not folder.is_dir() and (count > 1 or is_index(Path(path))):
        raise SpecError(f"{path} has {count} files: give an existing folder to write them to")

    others = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    task = _Task(progress, partial, others, _quickest(members))

    def mend(target: Path) -> FileOutcome:
        new = folder / target.name if folder and folder.is_dir() else folder
        return _repair(target, new, task, members)

    return Report(_reports(members, mend), time.perf_counter() - began)


def _quickest(members: Members) -> Find:
    """What says soonest that files are clean."""
    if kernels.loaded():
        return find
    size = sum(path.stat().st_size for path in members.first() if path.exists())
    return find_hashed if size <= _HASHED else find


def _reports(members: Members, look: Callable[[Path], FileOutcome]) -> tuple[FileOutcome, ...]:
    found, problems = members.visit(look)
    found |= {path: FileOutcome((), str(path), problem=text) for path, text in problems.items()}
    return tuple(found[path] for path in sorted(found, key=index_first))


class _Task(NamedTuple):
    """What is to be done with every file; see `repair_file`."""

    progress: Progress
    partial: bool
    sources: Sequence[PathLike]
    search: Find


def _repair(path: Path, out: Path | None, task: _Task, members: Members) -> FileOutcome:
    if out and out.exists() and out.samefile(path):
        out = None
    require_place(out or path)  # before the work
    with opened(path) as found:
        members.learn(found.sealed, found.file, path)
        tensors = FileTensors(found.file, found.sealed.layout, task.progress)
        report, findings = _found(found, tensors, task.search)
        lost = report.verdict is Verdict.UNCORRECTABLE
        if lost and task.sources and not unprotected_loss(found.sealed.seal, tensors):
            return _repair_from(found, report, out, task, members.is_set)
        return _put_back(found, report, findings, out, task)


def _repair_from(
    found: Opened,
    report: FileOutcome,
    out: Path | None,
    task: _Task,
    is_set: bool,
) -> FileOutcome:
    """Repair what its budget is not enough for with the blocks of other copies."""
    layout = found.sealed.layout
    tensors = FileTensors(found.file, layout, task.progress)
    damage = damage_in(found.sealed.seal, layout, tensors, report)
    if damage.unknown:
        name = damage.unknown[0].name
        return replace(
            report,
            problem=f"where {name} is damaged is not known, as the seal has no digests of its "
            "blocks: fetch the whole file again",
        )
    goal = out or found.path
    with fetching(damage.blocks, found, goal, task.sources, task.progress, is_set) as fetched:
        patched = PatchedTensors(found.file, layout, task.progress, fetched)
        better, known = _found(found, patched, functools.partial(_find_with, fetched))
        done = _put_back(found, better, known, out, task, fetched)
        fetched.is_done = done.ok
    why = "; ".join(fetched.problems + fetched.notes)
    if done.verdict is Verdict.UNCORRECTABLE and fetched.problems and not done.written:
        raise SourceError(why)
    problem = done.problem if done.ok else why or done.problem
    return replace(done, fetched=fetched.size, problem=problem)


def _find_with(fetched: Fetched, word: SealedWord, tensors: Tensors) -> Finding:
    """`find` in a word with blocks of other copies, whose result SHA-256 has to prove."""
    finding = find(word, tensors, erased=fetched.doubts_of(word))
    if finding.verdict is Verdict.CLEAN and word in fetched.words:
        return proven(Finding(Verdict.CORRECTABLE), word, tensors)
    return finding


def _found(
    found: Opened, tensors: FileTensors, search: Find
) -> tuple[FileOutcome, dict[SealedWord, Finding]]:
    """What a check finds in a file, and in each of its words that are there."""
    findings: dict[SealedWord, Finding] = {}

    def keep(word: SealedWord, tensors: Tensors) -> Finding:
        findings[word] = search(word, tensors)
        return findings[word]

    act = functools.partial(diagnose, find=keep)
    return report_on(found.sealed, tensors, found.file, found.path, act), findings


def _put_back(
    found: Opened,
    report: FileOutcome,
    findings: Mapping[SealedWord, Finding],
    out: Path | None,
    task: _Task,
    fetched: Fetched | None = None,
) -> FileOutcome:
    """`put_back`, if it is known what; nothing is put into a file that may be another one."""
    if not _is_proven(report) or (report.verdict is Verdict.UNCORRECTABLE and not task.partial):
        return report
    return put_back(found, report, findings, out, task.progress, fetched)


def report_on(
    sealed: Sealed, tensors: FileTensors, file: BinaryIO, path: Path, act: Act
) -> FileOutcome:
    """What ``act``, `diagnose` or `repair_`, finds in an open file."""
    outcome = _examine(sealed.seal, tensors, act)
    missing, surplus = max(tensors.size - tensors.found, 0), max(tensors.found - tensors.size, 0)
    has_end = not (missing or surplus)
    is_ours = _is_proven(outcome)
    if not is_ours and not (has_end and tensors.has_header):
        _refuse_another_file(sealed, file, path)
    header = _frame(tensors.has_header, is_ours)
    end = _frame(has_end, is_ours and _knows_end(sealed.seal, tensors, outcome))
    damage = damage_in(sealed.seal, sealed.layout, tensors, outcome)
    if end is Verdict.UNCORRECTABLE:
        outcome = _without_tail(sealed.seal, tensors, outcome)
    return replace(
        outcome,
        path=str(path),
        elements=sum(part.count for part in sealed.layout.parts),
        seal=Verdict.CLEAN if sealed.is_intact else Verdict.CORRECTABLE,
        header=header,
        frame=worst(header, end),
        missing=missing,
        surplus=surplus,
        ranges=damage.ranges,
        problem="" if damage.is_elsewhere_intact else _saved_anew(sealed, outcome, file, path),
    )


def _frame(is_right: bool, is_known: bool) -> Verdict:
    wrong = Verdict.CORRECTABLE if is_known else Verdict.UNCORRECTABLE
    return Verdict.CLEAN if is_right else wrong


def _is_proven(outcome: FileOutcome) -> bool:
    """Whether a word shows that the seal belongs to the file."""
    good = (Verdict.CLEAN, Verdict.CORRECTABLE, Verdict.CORRECTED)
    return not outcome.words or any(word.verdict in good for word in outcome.words)


def _saved_anew(sealed: Sealed, outcome: FileOutcome, file: BinaryIO, path: Path) -> str:
    """Says so if a file was probably saved anew after it was protected, and not damaged.

    Then no check holds, and the file is newer than its seal: damage does not change its time.
    """
    words = list(zip(sealed.seal.words, outcome.words, strict=True))
    if not sealed.path or not words:
        return ""
    if any(10 * found.unexplained < 9 * word.code.m for word, found in words):
        return ""
    written, taken = os.fstat(file.fileno()).st_mtime, sealed.path.stat().st_mtime
    if written <= taken:
        return ""
    return (
        f"it was written after its seal ({_day(written)}, the seal {_day(taken)}), and no check "
        "holds: probably saved anew after it was protected. If somebody did so, seal what is there "
        f"now: parimend protect {command_word(path)} --force; if nobody did, it is damaged beyond "
        "repair: fetch it again"
    )


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")


def _refuse_another_file(sealed: Sealed, file: BinaryIO, path: Path) -> None:
    """A file that is whole, has other tensors and no word as sealed is another file."""
    try:
        layout = layout_of(file, path)
    except FormatError:
        return
    can_tell = layout.format.strict and sealed.layout.format.strict
    if sealed.path and can_tell and layout.entries != sealed.layout.entries:
        raise MismatchError(
            f"{sealed.path} was not made for {path}, which is a whole file with other tensors or "
            "other contents: it was probably saved anew after it was protected (then seal what is "
            f"there now: parimend protect {command_word(path)} --force), or this is the sidecar of "
            "another file (then put its own beside it)"
        )


def _examine(seal: Seal, tensors: FileTensors, act: Act) -> FileOutcome:
    """Check or repair the words that are there; those of which too much is missing are lost."""
    require_match(seal, tensors)
    lost = {word: reason for word in seal.words if (reason := lost_of(word, seal.errors, tensors))}
    there = tuple(word for word in seal.words if word not in lost)
    found = act(replace(seal, words=there), tensors)
    outcomes = dict(zip(there, found.words, strict=True))
    outcomes |= {
        word: WordOutcome(
            word.name,
            Verdict.UNCORRECTABLE,
            word.word.elements,
            reason=reason,
        )
        for word, reason in lost.items()
    }
    words = tuple(outcomes[word] for word in seal.words)
    return replace(found, words=words, covered=seal.covered)


def is_truncated(seal: Seal, tensors: FileTensors) -> bool:
    """Whether more is missing at the end of the file than can be repaired."""
    lost = any(lost_of(word, seal.errors, tensors) for word in seal.words)
    return lost or unprotected_loss(seal, tensors) > 0


def _without_tail(seal: Seal, tensors: FileTensors, outcome: FileOutcome) -> FileOutcome:
    """Where a file is cut for good, what is known of words behind the cut has no place in it."""
    words = [
        replace(found, verdict=Verdict.UNCORRECTABLE, changes=(), reason=_BEHIND)
        if found.verdict is Verdict.CORRECTABLE and any(tensors.missing(p) for p in word.parts)
        else found
        for word, found in zip(seal.words, outcome.words, strict=True)
    ]
    return replace(outcome, words=tuple(words))


def _knows_end(seal: Seal, tensors: FileTensors, outcome: FileOutcome) -> bool:
    """Whether a wrong length can be put right: nothing that lies before the end is unknown."""
    if any(word.verdict is Verdict.UNCORRECTABLE for word in outcome.words):
        return False
    if tensors.found <= tensors.size:
        return not unprotected_loss(seal, tensors)
    # Bytes may have come in anywhere in tensors that are not protected.
    last = next((part for part in reversed(tensors.whole()) if part.count), None)
    if last is None:
        return False
    parts = (part for word in seal.words for part in word.parts if part.name == last.name)
    return elements_in(parts) == last.count


def unprotected_loss(seal: Seal, tensors: FileTensors) -> int:
    """Bytes missing at the end of the file that belong to no word, so that nobody knows them.

    Where words have some bits of an element, as many of its bytes as these bits are.
    """
    missing = Fraction(sum(tensors.missing(part) for part in tensors.whole()))
    for part in (part for word in seal.words for part in word.parts):
        missing -= Fraction(tensors.missing(part) * part.bits, 8 * part.itemsize)
    return math.ceil(missing)


def lost_of(word: SealedWord, errors: int, tensors: FileTensors) -> str:
    """Why more of a word is missing at the end of the file than can be repaired, or nothing.

    Whatever a seal says of errors, every code has its limit. So the work and the memory that a file
    takes are bounded by what is there, also if seal and header claim more.
    """
    budget = min(errors, word.code.most_bytes(word.word) // WORD)
    gone = [(part, missing) for part in word.parts if (missing := tensors.missing(part))]
    missing = sum(count for _, count in gone)
    if -(-missing // WORD) <= budget:
        return ""
    part, count = gone[0]
    kept = part.count - -(-count // part.itemsize)
    where = f"{list(part.index(kept))} of " if kept else ""
    others = f" and {len(gone) - 1} more tensors" if len(gone) > 1 else ""
    return (
        f"the file is truncated: {missing} bytes of it are missing, from {where}{part.name} on"
        f"{others}; {budget} words of {WORD} bytes could be repaired"
    )
