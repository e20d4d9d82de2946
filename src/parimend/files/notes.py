"""What the seal of a file notes of its name and of the files that were protected together with it.

What is read of notes may be anything: a seal that was made for it says what it likes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from parimend.files.links import led_to

NAME = "name"
"""The note that names the file, without folders."""
LED_TO = "led_to"
"""The note that says which file the name of the file, a link, led to; see `led_to`."""
MEMBERS = "members"
"""The note that names all files of the set, the own one included."""
PLACE = "place"
"""The note that names the file as the others do, if it is in a folder below theirs."""
LEFT_OUT = "left_out"
"""The note that names weights that lay beside the set and do not belong to it."""


def names_of(path: Path) -> dict[str, Any]:
    """What the seal of a file notes of how it is called."""
    return {NAME: path.name, **({LED_TO: led_to(path)} if path.is_symlink() else {})}


def renamed(notes: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Notes of a copy of a file, which is in no set."""
    places = {NAME, LED_TO, MEMBERS, PLACE, LEFT_OUT}
    return {**{note: notes[note] for note in notes.keys() - places}, **names_of(path)}


def names_in(notes: Mapping[str, Any], note: str) -> frozenset[str]:
    """The names of files in a note, `MEMBERS` or `LEFT_OUT`, as far as they are such."""
    names = notes.get(note)
    if isinstance(names, list):
        return _inside(tuple(each for each in names if isinstance(each, str)))
    return names if isinstance(names, frozenset) else frozenset()  # see `shared`


def shared(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Notes, with the names that other seals note, too, in the same memory."""
    return {**notes, **{note: names_in(notes, note) for note in (MEMBERS, LEFT_OUT)}}


def noted(notes: Mapping[str, Any], note: str, name: str) -> frozenset[str]:
    """The names in a note, as they are called from another folder on.

    Args:
        notes: of a seal.
        note: `MEMBERS` or `LEFT_OUT`.
        name: of the file of the seal, from that folder on. The set may have been protected from a
            folder above it, or below; names that are not in it, or cannot be names, are left out.

    >>> notes = {"members": ["unet/a.bin", "vae/b.bin"], "place": "unet/a.bin"}
    >>> noted(notes, "members", "a.bin"), sorted(noted(notes, "members", "x/unet/a.bin"))
    (frozenset({'a.bin'}), ['x/unet/a.bin', 'x/vae/b.bin'])
    """
    place = notes.get(PLACE, PurePosixPath(name).name)
    if not is_inside(place):
        return frozenset()
    then, now = PurePosixPath(place).parent.parts, PurePosixPath(name).parent.parts
    common = min(len(then), len(now))
    if then[len(then) - common :] != now[len(now) - common :]:
        return frozenset()  # moved: nothing is known of where the others are
    above, below = then[: len(then) - common], now[: len(now) - common]
    return _seen_from(names_in(notes, note), above, below)


def is_inside(name: object) -> bool:
    """Whether something names a file in a folder or below, and is no way out of it.

    >>> is_inside("unet/a.bin"), is_inside("../a.bin"), is_inside("/a.bin"), is_inside("a//b")
    (True, False, False, False)
    """
    if not isinstance(name, str) or "\0" in name:
        return False
    if any(part in ("", ".", "..") for part in name.split("/")):
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


# All seals of a set note all names of it: what is made of these is made once, and there once.


@lru_cache(maxsize=16)
def _inside(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(filter(is_inside, names))


@lru_cache(maxsize=16)
def _seen_from(
    names: frozenset[str], above: tuple[str, ...], below: tuple[str, ...]
) -> frozenset[str]:
    """Names in or below the folder ``above``, as they are called where that is ``below``."""
    parts = (PurePosixPath(each).parts for each in names)
    of_it = (p[len(above) :] for p in parts if p[: len(above)] == above)
    return frozenset("/".join(below + rest) for rest in of_it if rest)
