"""Where the seal of a file is, and what the file should look like according to it.

A ``sidecar`` seal lies beside the file, see `parimend.files.beside`, or in a folder of seals, see
`parimend.files.apart`. The other carriers put theirs into the file, where its format has a place
for it.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from parimend.errors import DamagedFileError, FormatError, ParimendError, SealError
from parimend.files.links import is_place, leads_to, steps
from parimend.files.notes import LED_TO, MEMBERS, NAME, PLACE, is_inside, names_in
from parimend.files.walking import walk
from parimend.formats import FORMATS, Layout, layout_of
from parimend.seal import Seal, read_unsealed, unsealed
from parimend.showing import command_word

SUFFIX = ".parimend"
"""What a sidecar's name ends in."""
DIGESTED = re.compile(r"(.+)\.[0-9a-f]{16}", re.DOTALL)
"""How a sidecar in a folder of seals is called, without `SUFFIX`."""
KEYED = re.compile(r"[0-9a-f]{64}")
"""The same where the name of the file leaves no room for it; see `is_long`."""
_LONGEST = 255  # bytes of a file's name
FORCED = "or use --force (in Python: force=True)"
"""What also helps where there is a seal already."""


@dataclass(frozen=True)
class Sealed:
    """What is known about a file from its seal.

    Attributes:
        seal: as read, repaired if it was damaged.
        layout: what the file should be made of.
        path: of the sidecar, or None if the seal is inside the file.
        is_intact: whether the sidecar holds exactly these bytes. (A seal inside the file is a part
            of what is around its tensors.)
    """

    seal: Seal
    layout: Layout
    path: Path | None
    is_intact: bool = True


def sidecar_of(path: Path) -> Path:
    """The sidecar of a file.

    >>> sidecar_of(Path("model.safetensors")).name
    'model.safetensors.parimend'
    """
    return path.with_name(path.name + SUFFIX)


def sidecar_for(path: Path) -> Path:
    """The sidecar of a file, to which the path may lead by links.

    It is the one beside the file itself, or the nearest to it on the way. The one beside the path
    counts if it says the same, or was made for a file of a set that was no link.
    """
    own, *others = map(sidecar_of, steps(path))
    nearest = next((side for side in reversed(others) if os.path.exists(side)), own)
    return own if _say_the_same(own, nearest) or _was_member(own) else nearest


def _was_member(side: Path) -> bool:
    """Whether a sidecar is that of a file of a set, and of no link."""
    with suppress(ParimendError, OSError):
        notes = read_unsealed(side).seal.notes
        return MEMBERS in notes and LED_TO not in notes and not side.is_symlink()
    return False


def _say_the_same(one: Path, other: Path) -> bool:
    if one == other:
        return True
    content = _content_in(one)
    return bool(content) and content == _content_in(other)


def _content_in(side: Path) -> bytes:
    """What a sidecar was made of, see `content_digest`; empty if there is none that can be read."""
    with suppress(ParimendError, OSError):
        return content_digest(read_unsealed(side).seal)
    return b""


def is_led_elsewhere(sealed: Sealed, path: Path) -> bool:
    """Whether a path is a link that led to another file when this seal was made of it.

    Args:
        sealed: the seal, which may be that of another name.
        path: of a file.
    """
    *links, file = steps(path)
    if sealed.path in (None, *seals_beside(file)):
        return False
    name, noted = sealed.seal.notes.get(NAME), sealed.seal.notes.get(LED_TO)
    own = [link for link in links if link.name == name or sealed.path in seals_beside(link)]
    if noted is not None:
        return bool(own) and not any(leads_to(link, noted) for link in own)
    # It was no link then.
    beside = [link for link in own if sealed.path in seals_beside(link)]
    if beside and sealed.path.is_symlink():  # which may be that of another file, or of a hub's blob
        side = Path(os.path.realpath(sealed.path))
        return is_seal(side) and side != sidecar_of(Path(os.path.realpath(path)))
    if any(_leads_to_another(link, file, sealed.seal.notes) for link in own):
        return True
    # The file itself may have been moved, and a link left in its place.
    is_other = any(file.name != (name or link.name) for link in beside) and os.path.exists(file)
    if is_other or not beside:
        return is_other
    content = _content_in(sidecar_of(file))
    return bool(content) and content != content_digest(sealed.seal)


def _leads_to_another(link: Path, file: Path, notes: Mapping[str, Any]) -> bool:
    """Whether a link, where a file of a set lay before, leads to another file of that set, as far
    as their places in it tell.
    """
    names, own = names_in(notes, MEMBERS), str(notes.get(PLACE, notes.get(NAME)))
    nearest = max((each for each in names if is_place(file, each)), key=len, default=own)
    folders = own.count("/")
    if nearest != own.rpartition("/")[2] or not folders:
        return nearest != own
    # What was moved elsewhere is still called so; the other one lies in the folder of the set.
    return file.parent.resolve() == Path(*link.parent.resolve().parts[:-folders])


def name_of(sealed: Sealed) -> str:
    """The name that the file of a sidecar had when it was sealed, as that of the sidecar says."""
    assert sealed.path is not None
    return named_by(sealed.path.name, sealed.seal.notes)


def is_found_by_content(sealed: Sealed) -> bool:
    """Whether a sidecar is called as those in folders of seals, and not after its file alone."""
    return sealed.path is not None and name_of(sealed) != sealed.path.name.removesuffix(SUFFIX)


def named_by(side: str, notes: Mapping[str, Any]) -> str:
    """The same of the name of a sidecar, as far as it tells, and of what the seal notes; a file may
    itself be called as sidecars in folders of seals are.

    >>> named_by("a.bin.0123456789abcdef.parimend", {}), named_by("a.bin.parimend", {})
    ('a.bin', 'a.bin')
    >>> named_by("a.0123456789abcdef.parimend", {"name": "a.0123456789abcdef"})
    'a.0123456789abcdef'
    """
    stem, name = side.removesuffix(SUFFIX), notes.get(NAME)
    if KEYED.fullmatch(stem) and is_inside(name) and is_long(str(name)):
        return str(name)
    match = DIGESTED.fullmatch(stem)
    return match[1] if match and name != stem else stem


def apart_name(name: str, key: str) -> str:
    """How the sidecar of a file is called in a folder of seals.

    Args:
        name: of the file.
        key: what its seal is known by there, in 64 hexadecimal digits.
    """
    return f"{key}{SUFFIX}" if is_long(name) else f"{name}.{key[:16]}{SUFFIX}"


def is_long(name: str) -> bool:
    """Whether the name of a file leaves no room for a digest beside it."""
    return len(os.fsencode(name)) > _LONGEST - len(f".{0:016x}{SUFFIX}")


def content_digest(seal: Seal) -> bytes:
    """A digest of what was sealed: of the frame, and of the SHA-256 or the sums of every word."""
    digest = hashlib.sha256()
    for data in seal.blobs.values():
        digest.update(hashlib.sha256(data).digest())
    for word in seal.words:
        digest.update(word.sha256 or hashlib.sha256(word.code.pack(word.target)).digest())
    return digest.digest()


def is_seal(path: Path) -> bool:
    """Whether a file is one, by its name.

    >>> is_seal(Path("model.safetensors.parimend")), is_seal(Path("model.safetensors"))
    (True, False)
    """
    return path.suffix == SUFFIX and not path.is_dir()


def seals_below(
    folder: Path, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, str]]:
    """Names of the sidecars in and below a folder, hidden or not, and of what they lie beside."""
    for name in walk(folder, onerror, hidden=True):
        of = name.removesuffix(SUFFIX)
        # What macOS keeps of a file in another one, as ._NAME, is called like it and none.
        if of != name and os.path.basename(of) and not os.path.basename(of).startswith("._"):
            yield name, of


def seals_beside(path: Path) -> tuple[Path, Path]:
    """Where seals of a file may lie: its sidecar, and the seal of a live model that it holds."""
    return sidecar_of(path), path.with_suffix(SUFFIX)


def force_anew(sealed: Sealed, path: Path) -> str:
    """The command that seals a file as it is now, in place of its seal.

    >>> force_anew(Sealed(None, None, Path("seals/a.parimend")), Path("a b.bin"))  # type: ignore
    "parimend protect 'a b.bin' -o seals/a.parimend --force"
    """
    is_beside = sealed.path is None or sealed.path.parent == path.parent
    where = "" if is_beside else f" -o {command_word(sealed.path)}"
    return f"parimend protect {command_word(path)}{where} --force"


Save = Callable[[Seal], Path]
"""Writes the seal of a file, and returns where to."""


class Seals(ABC):
    """Where the sidecars of files are."""

    option: str = ""
    """What commands are told of it, with a space before."""

    def known(self) -> Mapping[Path, Sealed]:
        """All seals by their paths, where they lie apart, and none says by itself whose it is."""
        return {}

    @abstractmethod
    def find(self, file: BinaryIO, path: Path) -> Sealed:
        """The seal of a file.

        Args:
            file: open for reading.
            path: its path.

        Raises:
            SealError: if the file is not protected, or its seal cannot be read.
            MismatchError: if it is not known which of several seals is that of the file.
        """

    @abstractmethod
    def place(self, path: Path, sealed: Sealed | None) -> Path | None:
        """Where the sidecar of a file is, or would be as far as that is known."""

    @abstractmethod
    def has(self, path: Path) -> bool:
        """Whether there is a sidecar of the name of a file, which need not be there."""

    @abstractmethod
    def is_sealed(self, path: Path, place: str | None) -> bool:
        """Whether a file that is to be protected has a sidecar already.

        Args:
            path: of the file.
            place: the `PLACE` that its seal would note.

        Raises:
            MismatchError, SealError: if it is not known, as the place of the sidecar is taken.
        """

    @abstractmethod
    def require_place(self, path: Path) -> None:
        """Refuse to put the seal of a file where something else lies that is worth keeping.

        Raises:
            SpecError: if something does; names it.
        """

    @abstractmethod
    def notes(self, path: Path) -> Mapping[str, Any]:
        """What the sidecar of the name of a file notes, if the file cannot be read.

        Raises:
            ParimendError, OSError: if there is none, or it cannot be read.
        """

    @abstractmethod
    def names(self, folder: Path) -> list[str]:
        """Names of files in and below a folder that have sidecars, also where they are gone."""

    @abstractmethod
    def saving(self, path: Path, confirm: Callable[[], None]) -> AbstractContextManager[Save]:
        """Be the one who writes the sidecar of a file; ``confirm`` is that of `atomic`.

        Raises:
            BusyError: if another process writes it.
            OSError: if it cannot be written.
        """


def read_sidecar(side: Path) -> Sealed | None:
    """What a sidecar says; None if it is the seal of a live model, which belongs to no file."""
    seal, layout, is_intact = read_unsealed(side)
    return None if layout is None else Sealed(seal, layout, side, is_intact)


def find_inside(file: BinaryIO, path: Path, why: str = "", option: str = "") -> Sealed:
    """The seal that a file holds itself.

    Args:
        file: open for reading.
        path: its path.
        why: it is not protected then, in words; by default because none lies beside it either.
        option: what a command is told of where to put one; see `Seals.option`.

    Raises:
        DamagedFileError: if there is none, and the file is damaged.
        SealError: if there is none that can be read.
    """
    problem = ""
    for format in FORMATS.values():
        for data in format.seals_in(file, str(path)):
            try:
                seal, layout, _ = unsealed(data, str(path))
            except SealError as error:
                problem = f"{path}: the seal inside it cannot be read: {error}"
                continue
            if layout and layout.format.holds_seal:
                return Sealed(seal, layout.format.with_seal(layout, seal.to_bytes()), None)
    why = why or f"there is no {sidecar_of(path).name} beside it and no seal in it"
    raise SealError(problem or _unprotected(file, path, why, option))


def _unprotected(file: BinaryIO, path: Path, why: str, option: str) -> str:
    """That a file is not protected, and what to do about it; a damaged file is not to be protected
    as it is, and raises.
    """
    try:
        layout_of(file, path)
    except FormatError as error:
        raise DamagedFileError(
            f"{error}; so it is damaged, and not protected: no seal of it is found, and it cannot "
            "be repaired here: fetch it again"
        ) from error
    if is_seal(path):
        return f"{path} is a seal: name the file that it belongs to"
    return (
        f"{path} is not protected: {why} (parimend protect {command_word(path)}{option} makes one)"
    )
