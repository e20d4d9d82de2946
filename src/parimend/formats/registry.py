"""Which formats there are, and which one a file has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from parimend.errors import AnotherFormatError, FormatError
from parimend.formats.base import Format, Layout
from parimend.formats.gguf import Gguf
from parimend.formats.numpies import Npy, Npz
from parimend.formats.onnx import Onnx, OnnxData
from parimend.formats.raw import Raw
from parimend.formats.safetensors import Safetensors
from parimend.formats.torch_archive import Torch

_IN_ORDER = (Gguf(), Npy(), Torch(), Npz(), Safetensors(), Onnx(), OnnxData(), Raw())
FORMATS: Mapping[str, Format] = MappingProxyType({format.name: format for format in _IN_ORDER})
"""Every format by its name, in the order in which a file is tried. `Raw` takes any: it is last."""


def of_name(name: str) -> Format:
    """The format of that name.

    Raises:
        FormatError: if it is not known.

    >>> of_name("safetensors").suffix
    '.safetensors'
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise FormatError(
            f"the format {name!r} is not known to this parimend: install a newer one"
        ) from None


def of_suffix(path: Path) -> Format | None:
    """The format that the name of a file promises, in whatever case; None if it promises none.

    >>> of_suffix(Path("model.bin")) is None, of_suffix(Path("MODEL.GGUF")).name
    (True, 'gguf')
    """
    found = (format for format in FORMATS.values() if format.suffix)
    return next((format for format in found if path.suffix.lower() == format.suffix), None)


def layout_of(file: BinaryIO, path: Path) -> Layout:
    """What a whole file is made of, whatever its format.

    Args:
        file: open for reading.
        path: where it is or will be: a file must be what its name promises.

    Raises:
        FormatError: if it is not, or is damaged, or empty.
    """
    if expected := of_suffix(path):
        return expected.parse(file, str(path))
    *others, last = FORMATS.values()
    for format in others:
        try:
            return format.parse(file, str(path))
        except AnotherFormatError:
            continue
    return last.parse(file, str(path))
