"""Where files of reports can be written."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from parimend.arguments import goal_of
from parimend.atomic import PathLike
from parimend.errors import SpecError
from parimend.regular import require_place


def place(
    path: PathLike,
    what: str,
    suffixes: tuple[str, ...],
    library: str = "",
    extra: str = "",
) -> Path:
    """The path of a file that can be made.

    Args:
        path: that was asked for.
        what: the file is, for a message.
        suffixes: of which it has to have one.
        library: that makes it, and the extra of this package that brings it.
        extra: see there.

    Raises:
        SpecError: for another suffix, or without the library.
        FormatError: without the folder, or if something else than a regular file is there.

    >>> place("map.gif", "a picture", (".svg", ".png"))
    Traceback (most recent call last):
    parimend.errors.SpecError: map.gif: a picture is a file .svg or .png
    """
    target = goal_of(path)
    if target.suffix not in suffixes:
        raise SpecError(f"{target}: {what} is a file {' or '.join(suffixes)}")
    require_place(target)
    if library and find_spec(library) is None:
        raise SpecError(f"{target}: {what} needs {library}: pip install 'parimend[{extra}]'")
    return target
