"""What is to be protected in files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from parimend.carriers import Request, Sidecar
from parimend.errors import FormatError
from parimend.files.targets import is_index
from parimend.formats import layout_of
from parimend.names import select
from parimend.regular import open_regular


def choose(files: Sequence[Path], only: Sequence[str] | None) -> dict[Path, Collection[str] | None]:
    """The names of the tensors to protect in every file; None for all, as in an index.

    Of several files, nothing is chosen in one that cannot be read: whoever opens it will know.

    Raises:
        WordError: if a pattern matches no tensor in any of the files.
    """
    if only is None:
        return dict.fromkeys(files)
    names = {}
    for path in files:
        if is_index(path):
            continue
        try:
            with open_regular(path) as file:
                names[path] = [part.name for part in layout_of(file, path).parts]
        except (FormatError, OSError):
            if len(files) == 1:
                raise
            names[path] = []
    wanted = set(select([name for found in names.values() for name in found], only))
    return {path: wanted.intersection(names[path]) if path in names else None for path in files}


def of_file(request: Request, path: Path) -> Request:
    """What is asked of one file: an index has no weights to carry anything or to be chosen."""
    if not is_index(path):
        return request
    return Request(request.errors, Sidecar(), seed=request.seed, guaranteed=request.guaranteed)
