"""Which files of a set lie in the places of others of it.

A seal elsewhere is found by the content of a file, and one beside a file may be moved with it. So a
file that was overwritten with another one of its set, or exchanged with it, is just as a seal says;
but that is the seal of another place, which seals note.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from parimend.files.links import is_place, steps
from parimend.files.notes import MEMBERS, NAME, PLACE, is_inside, names_in
from parimend.files.seals import DIGESTED, SUFFIX, Sealed, content_digest, name_of

Set = frozenset[str]
"""A set of files, by their names."""
Root = tuple[str, ...]
"""The parts of the path of the folder of a set."""


@dataclass(frozen=True)
class Origin:
    """What a seal says of where its file was.

    Attributes:
        members: the names of all files of its set, from their folder on.
        place: which of them it was.
        content: a digest of what was sealed.
    """

    members: Set
    place: str
    content: bytes


def origin_of(sealed: Sealed, path: Path) -> Origin | None:
    """What a seal says of where its file was; None if that is not one of the places of a set.

    Args:
        sealed: the seal.
        path: of the file.
    """
    members, place = names_in(sealed.seal.notes, MEMBERS), place_of(sealed, path)
    return Origin(members, place, content_digest(sealed.seal)) if place in members else None


def place_of(sealed: Sealed, path: Path) -> str:
    """What the file of a seal was called, from the folder of its set on, if it had one.

    Args:
        sealed: the seal.
        path: of the file, which is believed where the seal notes nothing.
    """
    notes = sealed.seal.notes
    noted = notes.get(PLACE, notes.get(NAME))
    if is_inside(noted):
        return str(noted)
    if sealed.path and DIGESTED.fullmatch(sealed.path.name.removesuffix(SUFFIX)):
        return name_of(sealed)
    return path.name


def may_be_of(sealed: Sealed, path: Path) -> bool:
    """Whether a path may be that of the file of a seal, as far as names go: folders may be renamed,
    but not to what another file of the set is in.
    """
    return any(_may_be(sealed, step) for step in steps(path))


def _may_be(sealed: Sealed, path: Path) -> bool:
    place = place_of(sealed, path)
    if is_place(path, place):
        return True
    others = (each for each in names_in(sealed.seal.notes, MEMBERS) if "/" in each)
    same_name = PurePosixPath(place).name == path.name
    return same_name and not any(is_place(path, each) for each in others)


def is_elsewhere(sealed: Sealed, path: Path) -> bool:
    """Whether a path is the place of another file of the set of a seal, as far as names go: of
    several that it may be, the one with the most folders.
    """
    origin = origin_of(sealed, path)
    if origin is None:
        return False
    found = (place for step in steps(path) for _, place in _places(step, origin))
    return max(found, key=len, default=origin.place) != origin.place


def homes(origins: Iterable[Origin]) -> Mapping[tuple[Set, bytes], set[str]]:
    """All places of each set that have had the same content: a configuration is in several."""
    found = defaultdict[tuple[Set, bytes], set[str]](set)
    for each in origins:
        found[each.members, each.content].add(each.place)
    return found


class Displaced(NamedTuple):
    """A file that holds what was in another place of its set.

    Attributes:
        place: where it lies, from the folder of the set on.
        holds: the place of what it holds.
        own: the file that holds what was in its place; None if there is none.
        seal: that of what was in its place, where seals are apart from files.
        beside: the seal of what it holds, if that lies beside another file.
    """

    place: str
    holds: str
    own: Path | None
    seal: Path | None
    beside: Path | None = None


def displaced(
    lying: Mapping[Path, Origin],
    apart: Mapping[Path, Origin],
    seen: Iterable[Path],
    known: Mapping[tuple[Set, bytes], set[str]],
) -> dict[Path, Displaced]:
    """The files that hold what was sealed in another place of their set, and not in theirs.

    Files may be renamed, and sets moved and copied. So a name alone does not tell that a file lies
    in a place of its set: others of the set have to lie around it, one of them in its own place, or
    each in that of another one of these, or files in all places.

    Args:
        lying: what the seals of files say that belong to them.
        apart: what seals in a folder of their own say, of files that may be anywhere or lost.
        seen: all files that there are, whatever is in them.
        known: `homes` of all of these origins.
    """
    files = {Path(os.path.abspath(path)) for path in seen}
    sealed = defaultdict[tuple[Set, str], dict[bytes, Path | None]](dict)
    for side, origin in [*zip(repeat(None), lying.values()), *apart.items()]:
        sealed[origin.members, origin.place][origin.content] = side
    there = defaultdict[tuple[Set, Root], dict[str, Origin]](dict)
    for path, origin in lying.items():
        for root, place in _places(path, origin):
            there[origin.members, root][place] = origin
    at = {(each.members, each.content): path for path, each in lying.items()}

    def is_set(members: Set, root: Root) -> bool:
        """Whether the set is in a folder, as those that lie there tell."""
        found = there[members, root]
        # What several places have, such as a configuration in every checkpoint, tells of none.
        fits = any(
            each.content in sealed[members, place] and len(known[members, each.content]) == 1
            for place, each in found.items()
        )
        is_ring = {*found} == {each.place for each in found.values()}
        is_full = all(Path(*root, each) in files for each in members)
        return len(found) > 1 and (fits or is_ring or is_full)

    told = {}
    for path, origin in lying.items():
        members, places = origin.members, dict(_places(path, origin))
        rank = max(
            (len(there[members, r]) for r, p in places.items() if p == origin.place), default=0
        )
        for root, place in places.items():
            contents = sealed[members, place]
            # One that was found by its content may have an equal file's seal, if it has none.
            is_equal = origin.content in contents or (apart and not contents)
            if place == origin.place or is_equal or len(there[members, root]) <= rank:
                continue
            home = Path(*root, origin.place)
            if not contents and os.path.realpath(path) == os.path.realpath(home):
                continue  # a link, whose sidecar is one, too: one file in both places
            if is_set(members, root):
                where = (at.get((members, content)) for content in contents)
                own, side = next(filter(None, where), None), next(iter(contents.values()), None)
                told[path] = Displaced(place, origin.place, own, side)
    return told


def exchanged(named: Mapping[Path, str]) -> dict[Path, Displaced]:
    """The files that took each other's names, with their seals: one alone may have been renamed.

    Args:
        named: what files were called when they were sealed, by what they are called now.
    """
    now = {Path(os.path.abspath(path)): path for path in named}
    was = {place: place.parent / named[path] for place, path in now.items()}
    found = {}
    for place, path in now.items():
        ring = [place]
        while (other := was[ring[-1]]) in was and other not in ring:
            ring.append(other)
        if len(ring) > 1 and other == place:
            found[path] = Displaced(path.name, named[path], now[ring[-1]], None)
    return found


def _places(path: Path, origin: Origin) -> Iterator[tuple[Root, str]]:
    """The places of a set that a path may be, as far as its names go, each with its folder."""
    parts = Path(os.path.abspath(path)).parts
    for count in range(1, len(parts)):
        if (place := "/".join(parts[-count:])) in origin.members:
            yield parts[:-count], place
