"""Checking and repairing files."""

from __future__ import annotations

import errno
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from parimend import kernels
from parimend.arguments import path_of
from parimend.atomic import PathLike
from parimend.carriers import diagnose
from parimend.carriers.base import Find, find, find_hashed, require_match
from parimend.carriers.finding import Finding
from parimend.errors import FormatError, MismatchError, ParimendError, SpecError
from parimend.files.apart import seals_in
from parimend.files.engines import Engine, Local, engine_of
from parimend.files.members import Looked, Members, looked_at, visit
from parimend.files.opening import opened
from parimend.files.repairing import put_back
from parimend.files.seals import Sealed, Seals, force_anew
from parimend.files.targets import index_first, is_index
from parimend.formats import layout_of
from parimend.outcomes import FileOutcome, Report, Verdict, WordOutcome, worst
from parimend.regular import require_place
from parimend.seal import Seal, SealedWord
from parimend.stores.base import Tensors
from parimend.stores.file import FileTensors, Progress, silent
from parimend.words.bits import WORD
from parimend.words.layout import elements_in

Act = Callable[[Seal, FileTensors], FileOutcome]
_HASHED = 1 << 28
"""Bytes that are hashed in no more time than compiled loops, which sums need, take to load."""
# Why nothing can be written somewhere, whatever it is.
_NOT_HERE = {errno.EACCES, errno.EPERM, errno.EROFS}
_ELSEWHERE = "give another one for the result, with -o (in Python: out)"
_BEHIND = "it lies behind the end of the file, which cannot be made whole"


def check_file(
    path: PathLike,
    progress: Progress = silent,
    *,
    seal_dir: PathLike | None = None,
    workers: int | None = 1,
    engine: str = "local",
) -> Report:
    """Compare a protected file with its seal; nothing is written.

    One pass of sums, without SHA-256 if they are as sealed: damage changes them, but for one case
    in 2^64 or fewer. What is found to be wrong is decoded, and proven by SHA-256 in a second pass.
    Small files are compared by SHA-256 instead, in a process that has not computed any sums yet.

    Args:
        path: a protected file; a folder, which stands for everything that is protected in it and
            below, or should be; or the index of a sharded checkpoint, which stands for all that was
            protected together with it.
        progress: called with the number of bytes of every read, from any thread.
        seal_dir: a folder of seals, in which those of the files are found by their content,
            whatever they are called; or one seal. By default they lie beside the files.
        workers: files that are looked at at the same time; None for one on each core.
        engine: who looks: ``local``, threads of this process; or ``ray``, tasks of a Ray cluster,
            on whose machines the files have the same paths.

    Returns:
        A report with an outcome for each file. Of a folder or an index, files that are missing,
        cannot be read, are not protected or came to the others later have the verdict `unknown`,
        and a problem.

    Raises:
        SealError: if the file is not protected, or its seal cannot be read; of a folder or an
            index, if none of the files is protected.
        MismatchError: if the sidecar was made for another file, or ``seal_dir`` has several seals
            for it.
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
    return check_all([path], progress, seal_dir=seal_dir, workers=workers, engine=engine)


def check_all(
    paths: Sequence[PathLike],
    progress: Progress = silent,
    *,
    seal_dir: PathLike | None = None,
    workers: int | None = 1,
    engine: str = "local",
) -> Report:
    """As `check_file`, of several paths in one report.

    Of several, one that cannot be checked at all has the verdict `unknown`, and a problem.
    """
    began = time.perf_counter()
    seals, chosen = seals_in(seal_dir), engine_of(engine, workers)
    groups = [Members(path_of(path), seals) for path in paths]
    with chosen as looker:
        _look_at(groups, seals, looker, progress)
    files: list[FileOutcome] = []
    for group in groups:
        try:
            files += _outcomes(group)
        except (ParimendError, OSError) as error:
            if len(groups) == 1:
                raise
            reason = error.strerror if isinstance(error, OSError) else None
            files.append(FileOutcome((), str(group.path), problem=reason or str(error)))
    return Report(tuple(files), time.perf_counter() - began)


def _look_at(groups: Sequence[Members], seals: Seals, engine: Engine, progress: Progress) -> None:
    act = functools.partial(diagnose, find=_quickest(groups))
    threads = engine.threads(sum(len(group.first()) for group in groups))
    look = functools.partial(_look, seals, act, silent if engine.cluster else progress, threads)
    for path in visit(groups, look, engine):
        if engine.cluster and path.exists():
            progress(path.stat().st_size)


def _look(seals: Seals, act: Act, progress: Progress, threads: int, path: Path) -> Looked:
    with opened(path, seals) as found:
        tensors = FileTensors(found.file, found.sealed.layout, progress, threads)
        return looked_at(report_on(found.sealed, tensors, found.file, path, act), found)


def repair_file(
    path: PathLike,
    out: PathLike | None = None,
    progress: Progress = silent,
    *,
    partial: bool = False,
    seal_dir: PathLike | None = None,
) -> Report:
    """Put back every wrong element of a protected file, its header and its length, bit for bit.

    The repaired file is written beside its place and verified before it takes it, so that a crash
    at any moment leaves the file as it was, or repaired. Nothing is written where something cannot
    be repaired, unless ``partial`` asks for it. A damaged sidecar is written anew.

    Args:
        path: as for `check_file`.
        out: where to write the repaired file, protected as it was; for several files an existing
            folder. By default repaired files take the place of the damaged ones, and clean ones are
            not touched.
        progress: see `check_file`.
        partial: of a file that cannot be repaired as a whole, put back what is proven: the header
            and the words that are `corrected` in the report. Everything else is left as it is, the
            length too.
        seal_dir: see `check_file`.

    Raises:
        BusyError: if another process is writing the same file.
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
    members = Members(path_of(path), seals_in(seal_dir))
    folder = None if out is None else path_of(out, "out")
    count = len(members.first())
    if folder and not folder.is_dir() and (count > 1 or is_index(Path(path))):
        raise SpecError(f"{path} has {count} files: give an existing folder to write them to")

    search = _quickest([members])

    def mend(target: Path) -> Looked:
        new = folder
        if folder and folder.is_dir():
            new = folder / members.name(target)
            new.parent.mkdir(parents=True, exist_ok=True)
        return _repair(target, new, progress, partial, members, search)

    for _ in visit([members], mend, Local(1)):
        pass
    return Report(_outcomes(members), time.perf_counter() - began)


def _quickest(groups: Sequence[Members]) -> Find:
    """What says soonest that files are clean."""
    if kernels.loaded():
        return find
    files = (path for members in groups for path in members.first())
    size = sum(path.stat().st_size for path in files if path.exists())
    return find_hashed if size <= _HASHED else find


def _outcomes(members: Members) -> tuple[FileOutcome, ...]:
    found, problems = members.outcome()
    found = {path: replace(outcome, path=str(path)) for path, outcome in found.items()}
    found |= {path: FileOutcome((), str(path), problem=text) for path, text in problems.items()}
    return tuple(found[path] for path in sorted(found, key=index_first))


def _repair(
    path: Path,
    out: Path | None,
    progress: Progress,
    partial: bool,
    members: Members,
    search: Find,
) -> Looked:
    if out and out.exists() and out.samefile(path):
        out = None
    require_place(out or path)  # before the work
    findings: dict[SealedWord, Finding] = {}

    def keep(word: SealedWord, tensors: Tensors) -> Finding:
        findings[word] = search(word, tensors)
        return findings[word]

    with opened(path, members.seals) as found:
        tensors = FileTensors(found.file, found.sealed.layout, progress)
        act = functools.partial(diagnose, find=keep)
        report = report_on(found.sealed, tensors, found.file, path, act)
        is_hopeless = report.verdict is Verdict.UNCORRECTABLE and not partial
        # Nothing is put into a file that may be another one.
        if not is_hopeless and _is_proven(report):
            try:
                report = put_back(found, report, findings, out, progress)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                reason = f"{error.strerror}: it cannot be repaired in its place; {_ELSEWHERE}"
                if not members.is_set or out:
                    raise type(error)(error.errno, reason, error.filename) from None
                report = replace(report, problem=reason)
        return looked_at(report, found)


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
        problem=_saved_anew(sealed, outcome, file, path),
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
        f"now: {force_anew(sealed, path)}; if nobody did, it is damaged beyond repair: fetch it "
        "again"
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
            f"there now: {force_anew(sealed, path)}), or this is the sidecar of another file (then "
            "put its own in its place)"
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
