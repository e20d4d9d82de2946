"""What is kept of the tensors of files.

Formats that list their tensors are read as they lie, in pieces. An archive of torch or numpy says
how it is to be read (storages with views, byte orders, columns first): it is what its library makes
of it that is compared, so that it equals what was saved, however that lay in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from parimend.errors import FormatError
from parimend.files.targets import index_among, is_index, targets
from parimend.fingerprints.models import found_in, tensors_of
from parimend.fingerprints.record import Fingerprint, Print
from parimend.fingerprints.sums import prints_of
from parimend.formats import FORMATS, Layout, layout_of, of_suffix
from parimend.formats.numpies import ARRAY, dtype_name
from parimend.formats.raw import Raw
from parimend.loading.libraries import numpy_load, reading_array, torch_load
from parimend.names import is_chosen, select
from parimend.regular import open_regular
from parimend.stores.file import FileTensors

Only = str | Sequence[str] | None


def found_in_files(path: Path, only: Only) -> Fingerprint:
    """What is kept of the tensors in a file, or in the files of a folder or an index.

    Raises:
        WordError, FormatError, MismatchError, OSError: see `parimend.fingerprint`.
    """
    first: dict[str, Path] = {}
    prints: dict[str, Print] = {}
    tied: dict[str, str] = {}
    places = _files_of(path)
    for place in places:
        names, found = _found_in(place, only, among_others=len(places) > 1)
        if twice := first.keys() & names:
            name = min(twice)
            raise FormatError(f"{first[name]} and {place} both have a tensor {name}")
        first |= dict.fromkeys(names, place)
        prints |= found.tensors
        tied |= found.tied
    select(first, only)  # tells of a pattern that matches nothing
    return Fingerprint(prints, tied)


def _files_of(path: Path) -> list[Path]:
    """The files with the tensors of one model: of a folder those that its index lists, or those of
    safetensors, as others beside them hold the same tensors once more.
    """
    found = targets(path)
    if path.is_dir():
        own = [place for place in found if place.parent == path]
        if index := index_among(own, path):
            found = targets(index)
        else:
            found = own or found
            named = FORMATS["safetensors"]
            found = [place for place in found if of_suffix(place) is named] or found
    return [place for place in found if not is_index(place)]


def _found_in(place: Path, only: Only, among_others: bool) -> tuple[Sequence[str], Fingerprint]:
    """The names of the tensors of a file, and what is kept of those that are chosen.

    Files that lie among others and hold no tensors (states of random generators, arguments) have
    their bytes under their name.
    """
    with open_regular(place) as file:
        layout = layout_of(file, place)
        if layout.format.loads == "numpy":
            names, found = _of_numpy(numpy_load(file, place), place, only)
        elif layout.format.loads == "torch":
            strict = layout.format.strict and not among_others
            names, found = _of_torch(_loaded(file, place, strict), only)
        else:
            return _of_layout(file, layout, only)
        if names:
            return names, found
        if among_others:
            return _of_bytes(file, place, only)
        # Where a library finds no tensors, all of the file counts, as it does in a seal.
        return _of_layout(file, layout, only)


def _of_bytes(file: BinaryIO, place: Path, only: Only) -> tuple[Sequence[str], Fingerprint]:
    layout, name = Raw().parse(file, str(place)), place.name
    if not is_chosen([name], only):
        return [name], Fingerprint({}, {})
    [found] = prints_of(FileTensors(file, layout), layout.parts).values()
    return [name], Fingerprint({name: found}, {})


def _loaded(file: BinaryIO, place: Path, strict: bool) -> Any:
    """What torch makes of a file; nothing, if it need not be one that torch loads."""
    try:
        return torch_load(file, place)
    except FormatError:
        if strict:
            raise
        return {}


def _of_layout(file: BinaryIO, layout: Layout, only: Only) -> tuple[Sequence[str], Fingerprint]:
    entries = {entry.name: entry for entry in layout.entries}
    tensors = FileTensors(file, layout)
    chosen = [part for part in tensors.whole() if is_chosen([part.name], only)]
    # Sums may be of bytes, where the elements are less, or unknown.
    prints = {
        name: replace(each, dtype=entries[name].dtype, shape=entries[name].shape)
        for name, each in prints_of(tensors, chosen).items()
    }
    return list(entries), Fingerprint(prints, {})


def _of_torch(loaded: Any, only: Only) -> tuple[Sequence[str], Fingerprint]:
    import torch

    if not isinstance(loaded, torch.nn.Module | Mapping):
        loaded = {"" if isinstance(loaded, list | tuple) else ARRAY: loaded}
    tensors = tensors_of(loaded)
    return list(tensors), found_in({n: t for n, t in tensors.items() if is_chosen([n], only)})


def _of_numpy(loaded: Any, place: Path, only: Only) -> tuple[Sequence[str], Fingerprint]:
    arrays = {ARRAY: loaded} if isinstance(loaded, np.ndarray) else loaded
    prints: dict[str, Print] = {}
    for name in arrays:
        if is_chosen([name], only):
            with reading_array(f"{name} in {place}"):
                array = arrays[name]  # of an archive it is read here
            prints[name] = _of_array(name, array)
    return list(arrays), Fingerprint(prints, {})


def _of_array(name: str, array: Any) -> Print:
    """What is kept of an array; of what an archive holds beside arrays, its bytes."""
    import torch

    if not isinstance(array, np.ndarray):
        array = np.frombuffer(bytearray(array), np.uint8)
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    data = little.reshape(-1).view(np.uint8) if little.nbytes else np.zeros(0, np.uint8)
    found = found_in({name: torch.from_numpy(data)}).tensors[name]
    return replace(found, dtype=dtype_name(little.dtype), shape=array.shape)
