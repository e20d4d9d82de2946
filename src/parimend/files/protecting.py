"""Protecting files, and all that belong together in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, Unpack

from parimend.arguments import flag, goal_of, path_of, require_callable
from parimend.atomic import PathLike
from parimend.carriers import Carrier, CarrierName, Options, Planned, Request
from parimend.errors import FormatError, MismatchError, ParimendError, SpecError, WordError
from parimend.files.apart import Apart
from parimend.files.beside import Beside
from parimend.files.choosing import choose
from parimend.files.problems import absence, reason
from parimend.files.sealing import Protection, Task, prepare
from parimend.files.seals import Seals, is_seal
from parimend.files.targets import (
    SAFETENSORS,
    is_index,
    is_shard,
    is_weights,
    left_out,
    notes_of,
    targets,
)
from parimend.formats import FORMATS, of_suffix
from parimend.record import Record
from parimend.regular import size_of
from parimend.showing import counted
from parimend.stores.file import PROGRESS, Progress, silent


def protect_file(
    path: PathLike,
    errors: int | Planned,
    carrier: Carrier | CarrierName = "sidecar",
    out: PathLike | None = None,
    *,
    everything: bool = False,
    seal_dir: PathLike | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Unpack[Options],
) -> tuple[Protection, ...]:
    """Protect a file, so that any ``errors`` wrong words of it can be repaired.

    ``sidecar`` leaves the file alone and writes ``NAME.parimend`` beside it; it is read once,
    whatever its size, and may be of any format. The other carriers write a new safetensors file
    ``out`` that holds its seal itself, and take safetensors files that fit into memory.

    Args:
        path: a file; the index of a sharded checkpoint, which stands for itself and its shards; or
            a folder, which stands for all files of weights, by their names, in it and below, and
            their indices. They are protected one by one, each for that many errors. (An index has
            no weights to carry anything: it always gets a sidecar.)
        errors: number of wrong 32-bit words to repair wherever they fall in a file, or a plan; see
            `parimend.protect_`.
        carrier: where the redundancy lives: its name, or `parimend.Sidecar`, `parimend.Real` or
            `parimend.LowBits` with their options.
        out: where to write the protected file, for the carriers that change it; for several files
            an existing folder. For a sidecar, where to write that of a single file.
        everything: of a folder, protect all other files, too: tokenizers, configurations and the
            like.
        seal_dir: a folder for the sidecars, instead of beside the files; it is made if it is not
            there. Whoever checks says where it is, and each is found by the content of its file.
        force: protect what is there now, even if the file has a seal already.
        progress: called with the number of bytes of every read, from any thread.
        **options: ``only``, ``per``, ``seed`` and ``guaranteed``; see `parimend.Options`. Patterns
            choose an index, too.

    Nothing is written before all files have been looked at; of several, those that cannot be
    protected do not keep the others from it. Files that are protected in this way already, and are
    as they were then, keep their seals: what was interrupted can be run again.

    Returns:
        How each of the files was protected.

    Raises:
        FormatError: if a file is damaged or empty, or an index cannot be read.
        MismatchError: if a file is protected in another way or is not as it was then, or changes
            while it is read; or a plan was made for another file. Also if some of several files
            could not be protected; it names all of them.
        SpecError, WordError: if it cannot be protected in this way, or an argument is of the wrong
            type.
        BusyError: if another process is writing the same file.
        OSError: if a file cannot be read or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "weights.bin")
        ...     _ = path.write_bytes(bytes(10_000))
        ...     [made] = protect_file(path, errors=210)
        ...     made.elements, Path(made.sidecar).name
        (10000, 'weights.bin.parimend')
    """
    made = protect_all(
        [path],
        errors,
        carrier,
        out,
        everything=everything,
        seal_dir=seal_dir,
        force=force,
        progress=progress,
        **options,
    )
    made.require_whole()
    return made.files


@dataclass(frozen=True, repr=False)
class Protected(Record):
    """What came of protecting all that some paths stand for.

    Attributes:
        path: as given.
        files: how each file was protected.
        problems: why others of several were not, in words, by their paths.
        left_out: why weights in the folder and below do not belong to them, in words, by their
            names from the folder on; of several paths, by their paths.
        others: the names of files of a folder that are not known to hold weights, and were not
            asked for, the largest ones first.
    """

    path: str
    files: tuple[Protection, ...]
    problems: Mapping[str, str]
    left_out: Mapping[str, str]
    others: Sequence[str] = ()

    def require_whole(self) -> None:
        """Raise, if a file is not protected.

        Raises:
            MismatchError: names all of them.
        """
        if self.problems:
            told = "; ".join(f"{path}: {text}" for path, text in self.problems.items())
            raise MismatchError(
                f"of {self.path}, {len(self.problems)} of "
                f"{len(self.problems) + len(self.files)} files are not protected: {told}"
            )

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; `docs/reference.md` describes the keys."""
        problems = [{"path": path, "problem": text} for path, text in self.problems.items()]
        return {
            "files": [file.as_dict() for file in self.files],
            "problems": problems,
            "left_out": list(self.left_out),
            "others": list(self.others),
        }


def protect_all(
    paths: Sequence[PathLike],
    errors: int | Planned,
    carrier: Carrier | CarrierName = "sidecar",
    out: PathLike | None = None,
    *,
    everything: bool = False,
    seal_dir: PathLike | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Unpack[Options],
) -> Protected:
    """As `protect_file`, of several paths; files that cannot be protected are told, not raised.

    Raises:
        MismatchError, FormatError, SpecError, WordError, BusyError, OSError: as `protect_file`
            does, but of several files only if none of them can be protected.
    """
    request = Request.of(errors, carrier, **options)
    everything, force = flag(everything, "everything"), flag(force, "force")
    require_callable(progress, "progress", PROGRESS)
    if out is not None and len(paths) > 1:
        raise SpecError(f"{out} is the place of one result: protect several paths one by one")
    how = request, out, everything, seal_dir, force, progress
    todo = [(path, partial(_protected, path, *how)) for path in map(path_of, paths)]
    done, problems = each_of(todo, len(todo) > 1)
    made = [each for _, each in done]
    return made[0] if len(todo) == 1 else _together(made, problems)


def _together(made: Sequence[Protected], failed: Mapping[Path, str]) -> Protected:
    """What came of several paths, as of one; and why others failed, in words."""
    problems = ((str(path), why) for path, why in failed.items())
    files = tuple(file for each in made for file in each.files)
    taken = {Path(file.path) for file in files}
    return Protected(
        path=", ".join([*(each.path for each in made), *map(str, failed)]),
        files=files,
        problems=dict(chain(*(each.problems.items() for each in made), problems)),
        left_out={
            os.path.join(_folder(Path(each.path)), name): why
            for each in made
            for name, why in each.left_out.items()
            if _folder(Path(each.path)) / name not in taken
        },
        others=_largest_first(
            os.path.join(each.path, name)
            for each in made
            for name in each.others
            if Path(each.path, name) not in taken
        ),
    )


def _protected(
    path: Path,
    request: Request,
    out: PathLike | None,
    everything: bool,
    seal_dir: PathLike | None,
    force: bool,
    progress: Progress,
) -> Protected:
    """What came of protecting all that one path stands for."""
    files = targets(path, everything)
    if is_seal(path):
        raise SpecError(f"{path} is a seal, which repairs itself: name the file that it belongs to")
    if request.carrier.moves and path.is_dir():
        files = with_places(files, path)
    if request.balance is not None and len(files) > 1:
        raise SpecError(f"{path} has {len(files)} files, and this plan is for the tensors of one")
    folder = _folder(path)
    seals = _seals(request, path, files, out, seal_dir)
    goals, root = files, folder
    if request.carrier.moves:
        where = goal_of(out, "out")
        goals, root = _goals(path, files, where), _folder(where)
    goes_on = path.is_dir() or is_index(path)
    notes = notes_of(goals, root) if goes_on or len(files) > 1 else {}
    task = Task(request, notes, root, seals, force, progress)
    balance = request.balance
    chosen = dict.fromkeys(files, balance.names) if balance else choose(files, request.only)
    todo = [
        (file, partial(prepare, task, file, goal, chosen[file]))
        for file, goal in zip(files, goals, strict=True)
    ]
    rest = left_out(files, folder) if goes_on else []
    ready, problems = each_of(todo, goes_on, _HOPELESS)
    made, more = each_of(ready, goes_on, _HOPELESS)
    weights = {
        name: _why_out(name, path) for name in rest if name.endswith("/") or is_weights(name)
    }
    others = [n for n in rest if n not in weights] if path.is_dir() and not everything else []
    told = {str(file): text for file, text in (problems | more).items()}
    return Protected(
        str(path), tuple(each for _, each in made), told, weights, _largest_first(others, folder)
    )


def _folder(path: Path) -> Path:
    """From which on the files are named that a path stands for, or that are written there."""
    return path if path.is_dir() else path.parent


def _largest_first(names: Iterable[str], folder: Path = Path()) -> list[str]:
    return sorted(names, key=lambda name: size_of(folder / name), reverse=True)


def _why_out(name: str, path: Path) -> str:
    """Why weights do not belong to what a path stands for."""
    if name.endswith("/"):
        return "a link to a folder, which is not followed; protect it by its own path"
    if path.is_dir() and is_shard(name):
        return "a shard that no index lists; protect it by its own path, if it is needed"
    return f"it does not belong to {path.name}; protect it by its own path"


T = TypeVar("T")
_HOPELESS = SpecError, WordError  # what is asked for cannot be, of any file of a set


def each_of(
    todo: Sequence[tuple[Path, Callable[[], T]]],
    goes_on: bool,
    hopeless: tuple[type[Exception], ...] = (),
) -> tuple[list[tuple[Path, T]], dict[Path, str]]:
    """Do something with every path.

    Args:
        todo: paths, and what to do.
        goes_on: whether a path with which it fails does not keep the others from it.
        hopeless: errors that do so all the same.

    Returns:
        What came of each, and the problems of the others, in words.

    Raises:
        ParimendError, OSError: the first one, if it does not go on or all fail.
    """
    done: list[tuple[Path, T]] = []
    failed: dict[Path, Exception] = {}
    for path, do in todo:
        try:
            done.append((path, do()))
        except hopeless:
            raise
        except (ParimendError, OSError) as error:
            failed[path] = error
            if not goes_on:
                raise
    if failed and not done:
        raise next(iter(failed.values()))
    return done, {path: _problem(error, path) for path, error in failed.items()}


def _problem(error: Exception, path: Path) -> str:
    if not isinstance(error, OSError):
        return str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")
    gone = "" if isinstance(error, PermissionError) else absence(path)
    return gone or reason(error, path)


def with_places(files: Sequence[Path], folder: Path) -> list[Path]:
    """The files of a folder that have a place for a seal in them, and indices.

    Raises:
        FormatError: if there is none.
    """
    able = [format for format in FORMATS.values() if format.holds_seal]
    found = [file for file in files if of_suffix(file) in able or is_index(file)]
    if not found:
        suffixes = ", ".join(format.suffix for format in able)
        raise FormatError(
            f"{folder} has no file with a place for a seal in it ({suffixes}): protect it "
            "with --carrier sidecar (in Python: carrier='sidecar')"
        )
    return found


def _seals(
    request: Request,
    path: Path,
    files: Sequence[Path],
    out: PathLike | None,
    seal_dir: PathLike | None,
) -> Seals:
    """Where the sidecars go."""
    if request.carrier.moves:
        if out is None:
            raise SpecError(
                f"carrier={request.carrier.name!r} changes the weights: say where to write the new "
                "file, with -o (in Python: out=)"
            )
        if seal_dir is not None:
            raise SpecError(
                f"carrier={request.carrier.name!r} puts the seal into the file: it takes no "
                "--seal-dir (in Python: seal_dir=)"
            )
        return Beside()
    if out is not None and seal_dir is not None:
        raise SpecError(
            "-o and --seal-dir (in Python: out= and seal_dir=) both say where the seal goes: give "
            "one of them"
        )
    if seal_dir is not None:
        return Apart(path_of(seal_dir, "seal_dir"), proven=True, is_folder=True)
    if out is None:
        return Beside()
    where = goal_of(out, "out")
    if not where.is_dir() and (len(files) > 1 or path.is_dir()):
        raise SpecError(
            f"{path} has {counted(len(files), 'file')}: give a folder for their seals, with "
            "--seal-dir (in Python: seal_dir=)"
        )
    return Apart(where, proven=True)


def goals_of(path: Path, out: Path, everything: bool = False) -> list[Path]:
    """Where a carrier that changes weights writes the protected files; see `protect_file`.

    Raises:
        FormatError, SpecError, OSError: as `protect_file` does.
    """
    files = targets(path, everything)
    files = with_places(files, path) if path.is_dir() else files
    return _goals(path, files, out)


def _goals(path: Path, files: Sequence[Path], out: Path) -> list[Path]:
    """Where the protected files go."""
    if out.is_dir():
        return [out / file.relative_to(_folder(path)) for file in files]
    if len(files) > 1 or path.is_dir():
        count = counted(len(files), "file")
        raise SpecError(f"{path} has {count}: give an existing folder to write to")
    if is_weights(out.name) and out.suffix.lower() not in {SAFETENSORS, path.suffix.lower()}:
        raise SpecError(
            f"{out} promises a file of another format, and this writes a safetensors file: take a "
            f"name that ends in {SAFETENSORS}"
        )
    return [out]
