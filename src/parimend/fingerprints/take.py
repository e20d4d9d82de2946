"""Taking fingerprints: of models in one piece, of models over processes, of files.

The sums are those of `parimend.codes.power`: of the words of 32 bits of a tensor times powers of a
number of their place, modulo p = 2^32 + 24,577. They add up over pieces, whoever holds these: a
process sums up what it has at its places, and one all-reduce of four numbers a tensor does the
rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import path_of
from parimend.atomic import PathLike
from parimend.codes.power import LONGEST, PowerSums
from parimend.cores import cores
from parimend.errors import FormatError, SpecError
from parimend.files.targets import index_among, is_index, targets
from parimend.fingerprints.record import SUMS, Fingerprint, Print
from parimend.formats import FORMATS, Layout, layout_of, of_suffix
from parimend.names import select
from parimend.regular import open_regular
from parimend.stores.base import Tensors, subparts
from parimend.stores.file import FileTensors
from parimend.stores.spread import Elements, local
from parimend.words.bits import WORD, words_of
from parimend.words.layout import Part

if TYPE_CHECKING:
    import torch

    from parimend.model import Model

Names = Mapping[str, str] | Callable[[str], str]
"""What tensors are called: others by their names, or a function of these."""
_THERE = 1 << 25  # bytes of a piece on another device


def fingerprint(
    of: Model | PathLike,
    *,
    only: str | Sequence[str] | None = None,
    names: Names | None = None,
) -> Fingerprint:
    """A few sums of every tensor of a model or a file, to compare it with another one.

    It is the same for a model in one piece, for one whose parameters are sharded (FSDP2, tensor
    parallelism: every `DTensor` that is split along whole dimensions, or replicated), and for a
    file. Nothing is gathered: of sharded parameters four numbers a tensor go through one
    all-reduce for each way in which they are split; all processes have to call this together, and
    all get the same, but for replicas: there every process tells of its own.

    Two tensors that differ in up to four words of 32 bits have different sums, always; if they
    differ in more, by accident, they have the same ones with a probability of about 2^-128. Bits
    are compared: weights that were converted to another dtype differ. Who wants to deceive can
    choose weights with the same sums: against that, sign digests (`parimend.receipt`).

    Args:
        of: a module (its parameters and buffers, as in its state dict), a state dict or a nested
            checkpoint; or the path of a file, of an index or of a folder with shards, of any
            format and protected or not.
        only: shell patterns of the names to take.
        names: what tensors are to be called in the fingerprint, where two places name them
            differently. Where tensors are fused in one place, give views of the parts, which copy
            nothing: ``fingerprint({"q": qkv[:64], "k": qkv[64:128], "v": qkv[128:]})``.

    Returns:
        The fingerprint: see `Fingerprint.compare`.

    Raises:
        WordError: if a tensor has no plain bytes, or is sharded in another way, or nothing is
            selected; names it.
        SpecError: if ``names`` calls two tensors the same.
        FormatError: if a file is not what its format promises, or two files have one tensor.
        MismatchError: if a folder has several indices.
        OSError: if a file cannot be read.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import save_model
        >>> model = torch.nn.Linear(64, 32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(model, f"{folder}/model.safetensors")
        ...     fingerprint(f"{folder}/model.safetensors") == fingerprint(model)
        True
    """
    if isinstance(of, str | os.PathLike):
        prints = _of_files(path_of(of), only)
        tied: dict[str, str] = {}
    else:
        prints, tied = _of_model(of, only)
    called = _called(prints, names)
    return Fingerprint(
        {called[name]: each for name, each in prints.items()},
        {called[name]: called[first] for name, first in tied.items()},
    )


def _called(prints: Iterable[str], names: Names | None) -> dict[str, str]:
    """The new name of every tensor."""
    if names is None:
        return {name: name for name in prints}
    rename = names if callable(names) else lambda name: names.get(name, name)
    called = {name: rename(name) for name in prints}
    first: dict[str, str] = {}
    for name, new in called.items():
        if other := first.get(new):
            raise SpecError(f"names calls both {other} and {name} {new}: give them different names")
        first[new] = name
    return called


def _of_files(path: Path, only: str | Sequence[str] | None) -> dict[str, Print]:
    layouts = {place: _layout(place) for place in _files_of(path)}
    wanted = set(select(_places(layouts), only))
    prints: dict[str, Print] = {}
    for place, layout in layouts.items():
        with open_regular(place) as file:
            tensors = FileTensors(file, layout)
            prints |= _prints(tensors, [part for part in tensors.whole() if part.name in wanted])
    return prints


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


def _layout(place: Path) -> Layout:
    with open_regular(place) as file:
        return layout_of(file, place)


def _places(layouts: Mapping[Path, Layout]) -> dict[str, Path]:
    """The file that holds each tensor."""
    found: dict[str, Path] = {}
    for place, layout in layouts.items():
        for entry in layout.entries:
            if other := found.get(entry.name):
                raise FormatError(f"{other} and {place} both have a tensor {entry.name}")
            found[entry.name] = place
    return found


def _of_model(
    model: Model, only: str | Sequence[str] | None
) -> tuple[dict[str, Print], dict[str, str]]:
    """What is kept of the tensors of a model, and which of them are the memory of others."""
    import torch

    from parimend.stores.model import unwrapped
    from parimend.stores.naming import leaves, require_plain
    from parimend.stores.shards import store_of

    model = unwrapped(model)
    # As a file would have it: with the buffers that are saved, and without those that are not.
    found = leaves(model.state_dict() if isinstance(model, torch.nn.Module) else model)
    chosen = {name: found[name].value for name in select(found, only)}
    for name, tensor in chosen.items():
        require_plain(name, tensor)
    tied = _tied(chosen)
    own = {name: tensor for name, tensor in chosen.items() if name not in tied}
    prints: dict[str, Print] = {}
    for group in _alike(own):
        store = store_of(group)
        prints |= _prints(store, store.whole())
    prints |= {name: prints[first] for name, first in tied.items()}
    return {name: prints[name] for name in chosen}, tied


def _tied(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names of tensors that are the memory of one before, and its name."""
    first: dict[Any, str] = {}
    tied = {}
    for name, tensor in tensors.items():
        held = local(tensor)
        if not held.numel():
            continue
        place = held.data_ptr(), held.device, tensor.dtype, tensor.shape, held.stride()
        if (other := first.setdefault(place, name)) != name:
            tied[name] = other
    return tied


def _alike(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The tensors in groups that are spread over processes in the same way."""
    from parimend.stores.shards import split_dimensions

    groups: dict[Any, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        mesh = getattr(tensor, "device_mesh", None)
        way = None if mesh is None else (mesh, *split_dimensions(name, tensor))
        groups.setdefault(way, {})[name] = tensor
    return list(groups.values())


def _prints(tensors: Tensors, parts: Sequence[Part]) -> dict[str, Print]:
    """What is kept of some tensors; collective where they are spread over processes."""
    sections = [max(-(-part.count // _section(part)), 1) for part in parts]
    starts = np.cumsum([0, *sections])
    total = np.zeros((int(starts[-1]), SUMS), np.uint64)
    pieces = (
        (int(start) + section, piece, word)
        for part, start in zip(parts, starts[:-1], strict=True)
        for section, piece, word in _pieces(part, tensors)
    )
    # Work on another device is not shared: it is one that waits.
    threads = 1 if any(map(tensors.is_elsewhere, parts)) else cores()
    with ThreadPoolExecutor(threads) as pool:
        for row, sums in pool.map(lambda piece: (piece[0], _sums(tensors, *piece[1:])), pieces):
            total[row] = _code().add(total[row], sums)
    # Residues of all processes: far from 2^63 in sum.
    total = tensors.spread.sum(total.astype(np.int64)).astype(np.uint64) % np.uint64(_code().prime)
    rows = np.split(total, starts[1:-1])
    return {
        part.name: Print(part.dtype, part.shape, tuple(sums.ravel().tolist()))
        for part, sums in zip(parts, rows, strict=True)
    }


@cache
def _code() -> PowerSums:
    return PowerSums(LONGEST, SUMS)


def _section(part: Part) -> int:
    """Elements of a tensor that sums are taken of together, whole lines: no code holds more."""
    return WORD * LONGEST // (part.itemsize * part.line) * part.line


class _Piece(NamedTuple):
    """A piece of a tensor: the section it is in, its elements, and their first word there."""

    section: int
    part: Part
    word: int


def _pieces(part: Part, tensors: Tensors) -> Iterator[_Piece]:
    """The pieces of a tensor in which this process holds elements."""
    begin, end = _range(tensors.spread.held(part).elements)
    size = _section(part)
    step = _THERE // (part.itemsize * part.line) * part.line
    for start in range(0, part.count, size):
        first = max(begin - start, 0) // part.line * part.line
        last = min(end - start, size)
        if first < last:
            some = replace(part, start=start + first, count=last - first)
            for piece in subparts(some, step if tensors.is_elsewhere(part) else None):
                word = (piece.start - start) * part.itemsize // WORD
                yield _Piece(start // size, piece, word)


def _range(elements: Elements) -> tuple[int, int]:
    """The first of some elements, and what follows the last."""
    if isinstance(elements, slice):
        return elements.start, elements.stop
    return (int(elements[0]), int(elements[-1]) + 1) if elements.size else (0, 0)


def _sums(tensors: Tensors, piece: Part, word: int) -> NDArray[np.uint64]:
    """The sums of what this process holds of a piece."""
    elements = tensors.resident(piece)
    if elements is not None:
        return _code().accumulate_resident(_code().zeros(), [(elements, word)])
    return _code().accumulate(_code().zeros(), words_of(tensors.share(piece)), word)
