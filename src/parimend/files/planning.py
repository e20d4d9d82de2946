"""What protecting files would take."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Unpack

from parimend.arguments import path_of
from parimend.carriers import Carrier, CarrierName, Options, PlannedWord, Request, Sidecar
from parimend.carriers import plan as plan_tensors
from parimend.files.targets import is_index, targets
from parimend.formats import layout_of
from parimend.names import select
from parimend.regular import open_regular
from parimend.stores.file import ChosenTensors, FileTensors


def plan_file(
    path: str | os.PathLike[str],
    errors: int,
    carrier: Carrier | CarrierName = "sidecar",
    **options: Unpack[Options],
) -> tuple[tuple[str, tuple[PlannedWord, ...]], ...]:
    """What `protect_file` with the same arguments would take; nothing is written.

    Returns:
        For every file its path and its words.

    Raises:
        FormatError, SpecError, WordError, OSError: as `protect_file` does.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "weights.bin")
        ...     _ = path.write_bytes(bytes(10_000))
        ...     [(_, [word])] = plan_file(path, errors=210)
        ...     word.elements, word.checks, word.seal_bytes
        (10000, 424, 1749)
    """
    request = Request.of(errors, carrier, **options)
    planned = []
    for target, names in choose(targets(path_of(path)), request.only).items():
        with open_regular(target) as file:
            tensors = ChosenTensors(FileTensors(file, layout_of(file, target)), names)
            mine = for_index(request) if is_index(target) else request
            planned.append((str(target), plan_tensors(tensors, mine)))
    return tuple(planned)


def choose(files: Sequence[Path], only: Sequence[str] | None) -> dict[Path, Collection[str] | None]:
    """The names of the tensors to protect in every file; None for all, as in an index.

    Raises:
        WordError: if a pattern matches no tensor in any of the files.
    """
    if only is None:
        return dict.fromkeys(files)
    names = {}
    for path in files:
        if not is_index(path):
            with open_regular(path) as file:
                names[path] = [part.name for part in layout_of(file, path).parts]
    wanted = set(select([name for found in names.values() for name in found], only))
    return {path: wanted.intersection(names[path]) if path in names else None for path in files}


def for_index(request: Request) -> Request:
    """What is asked of an index, which has no weights to carry anything or to be chosen."""
    return Request(request.errors, Sidecar(), seed=request.seed)
