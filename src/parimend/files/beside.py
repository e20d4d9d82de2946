"""Seals beside their files, as ``NAME.parimend``; links lead to files that may have some, too."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from parimend.atomic import atomic, locked
from parimend.errors import FormatError, ParimendError, SealError
from parimend.files.links import steps
from parimend.files.notes import names_of
from parimend.files.seals import (
    DIGESTED,
    SUFFIX,
    Save,
    Sealed,
    Seals,
    content_digest,
    find_inside,
    is_led_elsewhere,
    name_of,
    read_sidecar,
    seals_below,
    seals_beside,
    sidecar_for,
    sidecar_of,
)
from parimend.formats import Layout, layout_of, of_suffix
from parimend.regular import unreadable
from parimend.seal import Seal, read_unsealed

_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}


class Beside(Seals):
    """Every sidecar lies beside its file, and is found by the name."""

    def find(self, file: BinaryIO, path: Path) -> Sealed:
        try:
            sealed = _beside(sidecar_for(path), file, path)
        except FileNotFoundError:
            return _without_sidecar(file, path)
        if is_led_elsewhere(sealed, path):  # the file itself may have another one
            with suppress(ParimendError, OSError):
                return _without_sidecar(file, path)
        return sealed

    def place(self, path: Path, sealed: Sealed | None) -> Path | None:
        sides = [side for step in steps(path) for side in seals_beside(step)]
        return sealed.path if sealed and sealed.path in sides else sides[0]

    def has(self, path: Path) -> bool:
        return os.path.exists(sidecar_of(path))  # no error where the name is too long for one

    def is_sealed(self, path: Path, place: str | None) -> bool:
        return os.path.exists(sidecar_for(path))

    def require_place(self, path: Path) -> None:
        pass  # nobody else's file has such a name

    def notes(self, path: Path) -> Mapping[str, Any]:
        return read_unsealed(sidecar_of(path)).seal.notes

    def names(self, folder: Path) -> list[str]:
        return [
            of
            for side, of in seals_below(folder)
            if (folder / of).exists() or _is_of_lost(folder / side)
        ]

    @contextmanager
    def saving(self, path: Path, confirm: Callable[[], None]) -> Iterator[Save]:
        beside = sidecar_of(path)
        with _elsewhere(beside), atomic(beside, like=path, confirm=confirm) as new, locked(path):

            def save(seal: Seal) -> Path:
                new.write(seal.to_bytes())
                for step in [*steps(path)][1:]:
                    side = sidecar_of(step)
                    if os.path.exists(side) and not (
                        os.path.exists(beside) and side.samefile(beside)
                    ):
                        _renew(side, seal, names_of(step))
                return beside

            yield save


@contextmanager
def _elsewhere(place: Path) -> Iterator[None]:
    """Say what to do where nothing can be written at a place, as in read-only caches, or beside
    the longest names.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_PLACE and error.filename == str(place):
            error.strerror = (
                f"{error.strerror}: give another place for the seal, with --seal-dir (in Python: "
                "seal_dir=)"
            )
        raise


def _renew(side: Path, seal: Seal, notes: Mapping[str, Any]) -> None:
    """Let the sidecar beside another name of a file say what the new seal of it says."""
    with suppress(ParimendError):
        old = read_unsealed(side).seal
        if content_digest(old) == content_digest(seal):
            return
        notes = {**old.notes, **notes}
    replace(seal, notes=notes).save(side)


def _beside(side: Path, file: BinaryIO, path: Path) -> Sealed:
    """The seal of a file that lies beside it."""
    seal, layout, is_intact = read_unsealed(side)
    if layout is None:  # a model's own seal, saved beside the file it was loaded from
        layout = _layout_with(side, file, path)
    return Sealed(seal, layout, side, is_intact)


def _layout_with(side: Path, file: BinaryIO, path: Path) -> Layout:
    """What a file is made of whose seal, that of a model, does not say it.

    Raises:
        FormatError: if it does not say so itself.
    """
    unsaid = f"{side.name}, the seal of a model, does not say what is around the tensors of {path}"
    try:
        layout = layout_of(file, path)
    except FormatError as error:
        raise FormatError(f"{error}; {unsaid}: fetch the file again") from error
    if not layout.format.strict:
        raise FormatError(
            f"{unsaid}, which is of no known format, or damaged there: fetch it again"
        )
    lost = unreadable(file)
    if any(b < at + len(data) and at < e for at, data in layout.spans for b, e in lost):
        raise FormatError(f"{unsaid}, which cannot be read: fetch the file again")
    return layout


def _without_sidecar(file: BinaryIO, path: Path) -> Sealed:
    """The seal in a file, or that of a model that was loaded from it."""
    try:
        return find_inside(file, path)
    except SealError as error:
        hint = ""
        for step in reversed([*steps(path)]):
            side, live = seals_beside(step)
            if _is_of_model(live, step):
                return _beside(live, file, path)
            if live.is_file() and not is_of_file(live):
                hint = (
                    f"; {live.name} is the seal of a live model: if {path.name} holds that model, "
                    f"call the seal {side.name}"
                )
        raise type(error)(f"{error}{hint}") from error.__cause__


def is_of_file(beside: Path) -> bool:
    """Whether a seal was made of a file: the seal of a live model may have any name."""
    try:
        return read_sidecar(beside) is not None
    except (ParimendError, OSError):
        return True


def _is_of_lost(side: Path) -> bool:
    """Whether a sidecar that lies beside no file belongs there: that of a live model does not, nor
    one in a folder of seals.
    """
    stem = side.name.removesuffix(SUFFIX)
    try:
        sealed = read_sidecar(side)
    except (ParimendError, OSError):
        return not DIGESTED.fullmatch(stem)
    return sealed is not None and name_of(sealed) == stem


def _is_of_model(beside: Path, path: Path) -> bool:
    """Whether a seal is that of a live model, saved as ``model.parimend`` for its file of tensors.

    A sidecar of that name would belong to a file called ``model``.
    """
    expected = of_suffix(path)
    if expected is None or expected.loads != "tensors" or not beside.is_file():
        return False
    return read_sidecar(beside) is None
