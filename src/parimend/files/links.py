"""Links: a path may lead to its file by several names, each of which may have a seal.

A link may lead to another file tomorrow, as ``latest`` or ``last.ckpt`` do. So a seal that is made
through one notes which file that was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def steps(path: Path) -> Iterator[Path]:
    """A path, and what it leads to, link by link; the last one is the file."""
    seen = set[Path]()
    while path not in seen:
        yield path
        seen.add(path)
        with suppress(OSError):  # it is no link
            path = path.parent / os.readlink(path)


def led_to(link: Path) -> list[str]:
    """What a link says, and each that it leads to."""
    return [os.readlink(step) for step in steps(link) if step.is_symlink()]


def leads_to(link: Path, noted: object) -> bool:
    """Whether a link leads to the file that it led to once. It may have been moved together with
    it, or alone, and be written in another way.

    Args:
        link: the link.
        noted: what `led_to` was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     link = Path(folder, "latest.pt")
    ...     link.symlink_to("step-2/model.pt")
    ...     leads_to(link, ["step-2/model.pt"]), leads_to(link, ["step-1/model.pt"])
    (True, False)
    """
    *_, file = steps(link)
    try:
        path = link
        for text in noted:  # type: ignore[attr-defined]
            path = path.parent / text
        return _place(path) == _place(file)
    except (TypeError, ValueError):  # what is noted is no list of paths
        return False


def is_place(path: Path, place: str) -> bool:
    """Whether a path is one of a place, in some folder.

    >>> is_place(Path("/models/unet/a.bin"), "unet/a.bin"), is_place(Path("b.bin"), "a.bin")
    (True, False)
    """
    parts = tuple(place.split("/"))
    return Path(os.path.abspath(path)).parts[-len(parts) :] == parts


def _place(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)
