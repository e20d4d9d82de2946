"""Seals in a folder of their own, for files whose folders are read-only, or not to be added to.

There a seal is found by the content of its file: by the size and what is around the tensors, and,
where that leaves a choice, by looking which seal's sums the data have. Names are hints, and paths
mean nothing, so that a cache may be moved, linked or mounted elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from parimend.arguments import path_of
from parimend.atomic import PathLike, atomic
from parimend.carriers import diagnose
from parimend.carriers.base import BY_SUMS
from parimend.errors import MismatchError, ParimendError, SealError, SpecError
from parimend.files.beside import Beside
from parimend.files.blocks import Samples
from parimend.files.examining import is_of_another
from parimend.files.notes import PLACE
from parimend.files.places import is_elsewhere
from parimend.files.seals import (
    FORCED,
    KEYED,
    SUFFIX,
    Save,
    Sealed,
    Seals,
    apart_name,
    content_digest,
    find_inside,
    is_led_elsewhere,
    is_long,
    name_of,
    named_by,
    read_sidecar,
    seals_below,
    sidecar_of,
)
from parimend.files.unreadable import salvaging
from parimend.files.walking import refuse, walk
from parimend.formats import Layout
from parimend.lasting import cached_property
from parimend.outcomes import Verdict
from parimend.regular import open_regular
from parimend.seal import Seal
from parimend.showing import command_word
from parimend.stores.file import FileTensors
from parimend.words.bits import WORD


def seals_in(seal_dir: PathLike | None) -> Seals:
    """The seals in a folder; by default, those beside their files.

    Args:
        seal_dir: a folder of seals, or one seal.

    Raises:
        SpecError: if it is no path.
        FileNotFoundError: if there is none.
    """
    if seal_dir is None:
        return Beside()
    where = path_of(seal_dir, "seal_dir")
    if not where.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder of seals", str(where))
    return Apart(where)


class Apart(Seals):
    """Sidecars in one folder, called ``NAME.DIGEST.parimend``, by what they were made of.

    Args:
        where: the folder; or one sidecar, which may be there or not.
        proven: take no seal for a file's by its name, unless a sum of the data shows that it is.
        is_folder: whether it is a folder in any case, which is made when the first seal goes there.
    """

    def __init__(self, where: Path, *, proven: bool = False, is_folder: bool = False) -> None:
        self.where = where
        self._proven = proven
        self.is_one = not (is_folder or where.is_dir())
        self.option = f" --seal-dir {command_word(where)}"

    def __getstate__(self) -> dict[str, Any]:
        """What other processes need: seals are read where they are used."""
        return {name: vars(self)[name] for name in ("where", "_proven", "is_one", "option")}

    def known(self) -> Mapping[Path, Sealed]:
        return {sealed.path: sealed for sealed in self._sealed if sealed.path}

    def find(self, file: BinaryIO, path: Path) -> Sealed:
        near, named, sure = [], [], []
        fits: dict[bytes, tuple[bool, bool]] = {}
        samples = Samples(file)
        for sealed, name, frame, _ in self._traits:
            if frame not in fits:  # asked once, as all files of a set may look the same
                tensors = FileTensors(file, sealed.layout)
                fits[frame] = tensors.found == tensors.size, tensors.has_header
            is_whole, has_header = fits[frame]
            is_named = name == path.name
            if is_whole or is_named or (has_header and sealed.layout.spans):
                near.append(sealed)
            if is_named:
                named.append(sealed)
                if is_whole and has_header:
                    sure.append(sealed)
        if len(sure) != 1 or self._proven or is_elsewhere(sure[0], path):
            sure = _fitting(near, samples, path)
        elif len(near) > 1 and _look(sure[0], samples, path) is not Verdict.CLEAN:
            # A name is not believed against the content.
            sure = _fitting(near, samples, path, shown=()) or sure
        if not sure and not self._proven:
            here = [sealed for sealed in named if not is_elsewhere(sealed, path)]
            likely = [sealed for sealed in here if not _is_of_other(sealed, samples)]
            sure = self._sealed if self.is_one else likely or here
        if not sure:
            return self._inside(file, path)
        sure = [sealed for sealed in sure if not is_led_elsewhere(sealed, path)] or sure
        # Files of one content may have a seal each, all of which say the same.
        content = content_digest(sure[0].seal)
        equal = {id(trait.sealed) for trait in self._traits if trait.content == content}
        sure += [sealed for sealed in near if id(sealed) in equal]
        first = max(sure, key=lambda sealed: _in_common(sealed, path))
        if twins := [sealed for sealed in sure if not _is_equal(sealed, first)]:
            raise MismatchError(
                f"{self.where} has several seals for {path}, {_show(first)} and {_show(twins[0])}: "
                "remove the one that is not its seal, or name the right one (--seal-dir SEAL)"
            )
        return first

    def place(self, path: Path, sealed: Sealed | None) -> Path | None:
        return sealed.path if sealed else None

    def has(self, path: Path) -> bool:
        return path.name in self._names

    def is_sealed(self, path: Path, place: str | None) -> bool:
        with open_regular(path) as file, suppress(SealError):
            # Another file of the same content has a seal of its own.
            return self.find(file, path).seal.notes.get(PLACE) == place
        if self.is_one and self.where.exists():
            raise MismatchError(
                f"{self.where} is there already, and is not the seal of {path}: choose another "
                f"place, {FORCED}"
            )
        _, lost = self._loaded
        for side in lost:
            # What the sidecar of a long name is called does not tell whose it is.
            is_any = is_long(path.name) and KEYED.fullmatch(side.removesuffix(SUFFIX))
            if is_any or named_by(side, {}) == path.name:
                raise MismatchError(
                    f"{path} may be protected already, by {side} in {self.where}, which cannot be "
                    "read: restore that from a copy, or remove it to protect what is there now"
                )
        return False

    def notes(self, path: Path) -> Mapping[str, Any]:
        found = [trait.sealed for trait in self._traits if trait.name == path.name]
        if len(found) != 1:
            raise SealError(f"{self.where} has {len(found)} seals of the name of {path}")
        return found[0].seal.notes

    def names(self, folder: Path) -> list[str]:
        return [name for name in walk(folder, hidden=True) if Path(name).name in self._names]

    @contextmanager
    def saving(self, path: Path, confirm: Callable[[], None]) -> Iterator[Save]:
        def save(seal: Seal) -> Path:
            if not self.is_one:
                self.where.mkdir(parents=True, exist_ok=True)
            place = self._place(path, seal)
            stale = [old for old in self._replaced(path, seal) if old != place]
            with atomic(place, like=path, stale=stale, confirm=confirm) as new:
                new.write(seal.to_bytes())
            return place

        yield save

    def require_place(self, path: Path) -> None:
        if not self.is_one and self.where.exists() and not self.where.is_dir():
            raise SpecError(f"{self.where} is a file: choose a folder for the seals")
        if not (self.is_one and self.where.exists()):
            return
        is_seal = self._sealed or self.where.suffix == SUFFIX  # which may be damaged
        if self.where.samefile(path) or not is_seal:
            raise SpecError(f"{self.where} is there and is no seal: choose another place for one")

    def _place(self, path: Path, seal: Seal) -> Path:
        if self.is_one:
            return self.where
        key = _key(seal)
        there = (sealed.path for sealed in self._sealed if _key(sealed.seal) == key)
        if (same := next(there, None)) is not None:
            return same
        return self.where / apart_name(path.name, key)

    def _replaced(self, path: Path, seal: Seal) -> list[Path]:
        """The seals of the same content in another way, of which no other file can be."""
        with open_regular(path) as file:
            samples = Samples(file)
            return [
                sealed.path
                for sealed in ([] if self.is_one else self._sealed)
                if sealed.path and sealed.seal.blobs == seal.blobs
                if sealed.seal.notes.get(PLACE) == seal.notes.get(PLACE)
                if _is_whole(sealed) and _look(sealed, samples, path) is Verdict.CLEAN
            ]

    def _inside(self, file: BinaryIO, path: Path) -> Sealed:
        """A file that holds its seal itself needs none here."""
        none = f"no seal in {self.where} is of its content"
        try:
            return find_inside(file, path, none, self.option)
        except SealError as error:
            _, lost = self._loaded
            if not lost:
                raise
            raise type(error)(  # nor is it to be protected as it is now
                f"{path}: {none}, and {', '.join(lost)} there cannot be read, which may be one: "
                "restore it from a copy"
            ) from error.__cause__

    @cached_property
    def _loaded(self) -> tuple[list[Sealed], list[str]]:
        """The sidecars, and the names of those that cannot be read."""
        if self.is_one:
            sides = [self.where] if self.where.exists() else []
        else:
            sides = sorted(self.where / side for side, _ in seals_below(self.where, refuse))
        found, lost = [], []
        for side in sides:
            try:
                found.append(read_sidecar(side))
            except (ParimendError, OSError):
                lost.append(side.name)
        return [sealed for sealed in found if sealed], lost

    @property
    def _sealed(self) -> list[Sealed]:
        return self._loaded[0]

    @cached_property
    def _traits(self) -> list[_Traits]:
        return [
            _Traits(sealed, name_of(sealed), _frame(sealed.layout), content_digest(sealed.seal))
            for sealed in self._sealed
        ]

    @cached_property
    def _names(self) -> set[str]:
        _, lost = self._loaded
        return {trait.name for trait in self._traits} | {named_by(side, {}) for side in lost}


class _Traits(NamedTuple):
    """By which the seal of a file is found: the name and the frame of the file, what is in it."""

    sealed: Sealed
    name: str
    frame: bytes
    content: bytes


def _frame(layout: Layout) -> bytes:
    """A digest of how long a file is and of what is around its tensors."""
    digest = hashlib.sha256(str(layout.size).encode())
    for at, data in layout.spans:
        digest.update(f",{at},{len(data)},".encode())
        digest.update(data)
    return digest.digest()


def holding(files: Collection[Path], others: Iterable[Path]) -> dict[Path, Path]:
    """Files that are just what the sidecar of another file seals, each with that other file.

    Args:
        files: that are not as their own sidecars say; each is read once for every sidecar of a file
            of its size and header.
        others: the files whose sidecars are asked, which may be lost.
    """
    found: dict[Path, Path] = {}
    for other in others:
        with suppress(ParimendError, OSError):
            if sealed := read_sidecar(sidecar_of(other)):
                for path in [path for path in files if path not in (other, *found)]:
                    with suppress(OSError), open_regular(path) as file:
                        if _is_just(sealed, file, path):
                            found[path] = other
    return found


def _is_just(sealed: Sealed, file: BinaryIO, path: Path) -> bool:
    tensors = FileTensors(file, sealed.layout)
    is_near = tensors.found == tensors.size and tensors.has_header and _is_whole(sealed)
    return is_near and _look(sealed, Samples(file), path) is Verdict.CLEAN


def _show(sealed: Sealed) -> str:
    assert sealed.path is not None
    return sealed.path.name


def _fitting(
    near: Sequence[Sealed],
    samples: Samples,
    path: Path,
    shown: Collection[Verdict] = (Verdict.CLEAN, Verdict.CORRECTABLE),
) -> list[Sealed]:
    """The seals that may be those of a file: those by which all of it is right; if there are none,
    those with a verdict that is in ``shown``.

    A seal that knows a part of a file alone may find that part in other files, too.
    """
    looks = [(sealed, _look(sealed, samples, path)) for sealed in near]
    sure = [each for each, verdict in looks if verdict is Verdict.CLEAN and _is_whole(each)]
    return sure or [each for each, verdict in looks if verdict in shown]


def _is_whole(sealed: Sealed) -> bool:
    """Whether a seal knows all elements of its file."""
    return sealed.seal.covered == sum(part.count for part in sealed.layout.parts)


def _is_of_other(sealed: Sealed, samples: Samples) -> bool:
    """Whether some blocks of a file show that it is not that of a seal, or lost."""
    tensors, words = FileTensors(samples.file, sealed.layout), sealed.seal.words
    return bool(words) and all(samples.show_other(word, tensors) for word in words)


def _look(sealed: Sealed, samples: Samples, path: Path) -> Verdict:
    """Whether a file is that of a seal: clean if it is, correctable if a word shows it. Most files
    are not, as of models of one architecture, and tell it by some of their blocks.
    """
    tensors = FileTensors(samples.file, sealed.layout)
    if abs(tensors.size - tensors.found) > 2 * WORD * sealed.seal.errors:
        return Verdict.UNKNOWN  # no work for what is not there
    if _is_of_other(sealed, samples):
        return Verdict.UNCORRECTABLE
    try:
        outcome = diagnose(sealed.seal, tensors, search=salvaging(BY_SUMS, tensors))
    except ParimendError:
        return Verdict.UNKNOWN
    is_framed = tensors.found == tensors.size and tensors.has_header
    if outcome.verdict is Verdict.CLEAN and is_framed:
        return Verdict.CLEAN
    if is_elsewhere(sealed, path) or is_of_another(sealed, outcome, tensors, path):
        return Verdict.UNKNOWN  # what lies in the place of another file is no damaged copy of it
    shows = any(word.verdict in (Verdict.CLEAN, Verdict.CORRECTABLE) for word in outcome.words)
    return Verdict.CORRECTABLE if shows else Verdict.UNCORRECTABLE


def _in_common(sealed: Sealed, path: Path) -> int:
    """How many of the last parts of a path are those of the file that was sealed."""
    place = Path(str(sealed.seal.notes.get(PLACE, name_of(sealed))))
    pairs = zip(reversed(place.parts), reversed(path.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_equal(one: Sealed, other: Sealed) -> bool:
    """Whether two seals say the same of a file, whatever they note of others."""
    if one is other:
        return True
    return replace(one.seal, notes={}).to_bytes() == replace(other.seal, notes={}).to_bytes()


def _key(seal: Seal) -> str:
    """By which a seal is named: its content, and the place of its file among the others."""
    place = str(seal.notes.get(PLACE, ""))
    return hashlib.sha256(content_digest(seal) + place.encode(errors="surrogatepass")).hexdigest()
