"""The names of what lies in a folder and below."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(
    folder: Path,
    onerror: Callable[[OSError], object] | None = None,
    *,
    hidden: bool = False,
) -> Iterator[str]:
    """Names of the files in and below a folder, from it on, folder by folder.

    Hidden folders, ``lost+found`` and what is no regular file are left out; a link that leads
    nowhere is not. Folders that are links are named, as ``name/``, and not followed: they may lead
    back.

    Args:
        folder: the folder.
        onerror: called for folders that cannot be read, which are passed over.
        hidden: whether hidden files are named, too.
    """
    for base, folders, files in os.walk(folder, onerror=onerror):
        links = {name for name in folders if os.path.islink(os.path.join(base, name))}
        # lost+found is where disks begin, and root's alone.
        shown = sorted(n for n in folders if not n.startswith(".") and n != "lost+found")
        folders[:] = [name for name in shown if name not in links]
        prefix = "" if base == os.fspath(folder) else os.path.relpath(base, folder) + "/"
        named = sorted(name for name in files if hidden or not name.startswith("."))
        yield from (prefix + name for name in named if _is_file(base, name))
        yield from (f"{prefix}{name}/" for name in shown if name in links)


def _is_file(base: str, name: str) -> bool:
    path = os.path.join(base, name)
    return os.path.isfile(path) or not os.path.exists(path)


def unreadable(folder: Path) -> dict[Path, OSError]:
    """Which folders there cannot be read, and why; nobody knows what is in them."""
    errors: dict[Path, OSError] = {}

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # what is gone has nothing in it
            errors[Path(error.filename)] = error

    for _ in walk(folder, note):
        pass
    return errors


def refuse(error: OSError) -> None:
    """What `walk` calls where all of a folder has to be seen.

    Raises:
        OSError: if a folder cannot be read; it names that. One that is gone has nothing in it.
    """
    if not isinstance(error, FileNotFoundError):
        raise error
