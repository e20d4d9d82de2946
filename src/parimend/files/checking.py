"""Checking files: what is wrong in them, and how sure that is."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from parimend import kernels
from parimend.arguments import path_of, require_callable
from parimend.atomic import PathLike
from parimend.carriers import diagnose
from parimend.carriers.base import BY_SHA256, BY_SUMS, Search
from parimend.errors import ParimendError
from parimend.files.apart import seals_in
from parimend.files.engines import engine_of
from parimend.files.examining import report_on
from parimend.files.looking import Looked, looked_at, settled
from parimend.files.members import Members, visit
from parimend.files.opening import opened
from parimend.files.problems import reason
from parimend.files.seals import Seals
from parimend.files.targets import index_first
from parimend.files.unreadable import salvaging
from parimend.outcomes import FileOutcome, Report
from parimend.regular import size_of
from parimend.stores.file import PROGRESS, FileTensors, Progress, silent

_HASHED = 1 << 28
"""Bytes that are hashed in no more time than compiled loops, which sums need, take to load."""


def check_file(
    path: PathLike,
    *,
    progress: Progress = silent,
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
        SpecError: if ``path`` is no path, ``workers`` no number of them, or ``engine`` none of
            these.
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
    return check_all([path], progress=progress, seal_dir=seal_dir, workers=workers, engine=engine)


def check_all(
    paths: Sequence[PathLike],
    *,
    progress: Progress = silent,
    seal_dir: PathLike | None = None,
    workers: int | None = 1,
    engine: str = "local",
) -> Report:
    """As `check_file`, of several paths in one report.

    Of several, one that cannot be checked at all has the verdict `unknown`, and a problem.
    """
    require_callable(progress, "progress", PROGRESS)
    began = time.perf_counter()
    seals, looker = seals_in(seal_dir), engine_of(engine, workers)
    groups = [Members(path_of(path), seals) for path in paths]
    with looker:
        threads = looker.threads(sum(len(group.first()) for group in groups))
        told = silent if looker.cluster else progress
        look = functools.partial(_look, seals, quickest(groups), told, threads)
        for path in visit(groups, look, looker):
            if looker.cluster:
                progress(size_of(path))
    return Report(outcomes(groups), time.perf_counter() - began)


def _look(seals: Seals, search: Search, progress: Progress, threads: int, path: Path) -> Looked:
    with opened(path, seals, salvage=True) as found:
        tensors = FileTensors(found.file, found.sealed.layout, progress, threads)
        act = functools.partial(diagnose, search=salvaging(search, tensors))
        outcome = settled(report_on(found, tensors, act), found)
        return looked_at(outcome, found, outcome)


def quickest(groups: Sequence[Members]) -> Search:
    """What says soonest that files are clean."""
    if kernels.loaded():
        return BY_SUMS
    size = sum(size_of(path) for members in groups for path in members.first())
    return BY_SHA256 if size <= _HASHED else BY_SUMS


def outcomes(groups: Sequence[Members]) -> tuple[FileOutcome, ...]:
    """What was found in each member of some groups, and why others could not be looked at.

    Raises:
        ParimendError, OSError: see `Members.outcome`; but of several groups one that could not be
            looked at has a problem.
    """
    files: list[FileOutcome] = []
    named = {path: name for group in groups for path, name in group.named.items()}
    for group in groups:
        try:
            files += _outcomes(group, named)
        except (ParimendError, OSError) as error:
            if len(groups) == 1:
                raise
            why = reason(error, group.path) if isinstance(error, OSError) else str(error)
            files.append(FileOutcome((), str(group.path), problem=why))
    return tuple(files)


def _outcomes(members: Members, named: Mapping[Path, str]) -> tuple[FileOutcome, ...]:
    found, problems = members.outcome(named)
    found = {
        path: replace(outcome, path=str(path), note=members.note(path))
        for path, outcome in found.items()
    }
    for path, text in problems.items():
        # What was found in a file that lies in the wrong place, and done about it, is told, too.
        was = members.looked(path) or FileOutcome(())
        found[path] = replace(was, path=str(path), problem=text)
    return tuple(found[path] for path in sorted(found, key=index_first))
