"""Where the seal of a file is, and what the file should look like according to it.

A ``sidecar`` seal lies beside the file, as ``NAME.parimend``. The other carriers put theirs into
the file, where its format has a place for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from parimend.errors import FormatError, SealError
from parimend.formats import FORMATS, Layout, layout_of, promised
from parimend.regular import read_regular
from parimend.seal import MAX_BYTES, Seal, Unsealed, unsealed
from parimend.showing import command_word

SUFFIX = ".parimend"
"""What a sidecar's name ends in."""


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


def find_seal(file: BinaryIO, path: Path) -> Sealed:
    """The seal of a file.

    Args:
        file: open for reading.
        path: its path, by which the sidecar is found.

    Raises:
        SealError: if the file is not protected, or its seal cannot be read.
    """
    beside = sidecar_of(path)
    try:
        seal, layout, is_intact = load_sidecar(beside)
    except FileNotFoundError:
        try:
            return _inside(file, path)
        except SealError:
            beside = path.with_suffix(SUFFIX)
            if not _is_of_model(beside, path):
                raise
        seal, layout, is_intact = load_sidecar(beside)
    if layout is None:  # a model's own seal, saved beside the file it was loaded from
        layout = layout_of(file, path)
        if not layout.format.strict:
            raise FormatError(
                f"{path} is of no known format, or damaged where its tensors are named, which "
                f"{beside.name}, the seal of a model, needs to be known"
            )
    return Sealed(seal, layout, beside, is_intact)


def load_sidecar(beside: Path) -> Unsealed:
    """The seal in a sidecar.

    Raises:
        SealError, FormatError: if it cannot be read.
        OSError: if there is none.
    """
    return unsealed(read_regular(beside, MAX_BYTES), str(beside))


def _is_of_model(beside: Path, path: Path) -> bool:
    """Whether a seal is that of a live model, saved as ``model.parimend`` for its file of tensors.

    A sidecar of that name would belong to a file called ``model``.
    """
    expected = promised(path)
    if expected is None or expected.loads != "tensors" or not beside.is_file():
        return False
    return load_sidecar(beside).layout is None


def _inside(file: BinaryIO, path: Path) -> Sealed:
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
    raise SealError(problem or _why_unprotected(file, path))


def _why_unprotected(file: BinaryIO, path: Path) -> str:
    """What to do about it; a damaged file is not to be protected as it is, and raises."""
    try:
        layout_of(file, path)
    except FormatError as error:
        raise SealError(
            f"{error}; so it is damaged, and not protected: no seal of it is found, and it cannot "
            "be repaired here: fetch it again"
        ) from error
    return (
        f"{path} is not protected: there is no {sidecar_of(path).name} beside it and no seal in it "
        f"(parimend protect {command_word(path)} makes one)"
    )
