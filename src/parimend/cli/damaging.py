"""Damaging copies of files."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from parimend.atomic import atomic
from parimend.faults import FaultList, Words, draw
from parimend.files.opening import sidecars_of
from parimend.files.seals import sidecar_of
from parimend.formats import layout_of
from parimend.regular import open_regular, read_regular, require_place
from parimend.seal import MAX_BYTES
from parimend.stores.file import copy_data


def damage_file(
    path: Path,
    out: Path,
    kind: str | None,
    count: int,
    seed: int,
    *,
    only: Sequence[str] | None = None,
    placement: str | None = None,
    replay: Path | None = None,
) -> FaultList:
    """Write a damaged copy of a file, with a copy of its sidecar if it has one.

    Args:
        path: a whole file; not changed.
        out: where to write the copy; another place.
        kind, count, seed, only, placement: see `parimend.faults.draw`.
        replay: apply these stored faults instead of drawing any.

    Returns:
        What was changed.

    Raises:
        FormatError: if the file is not what its name says.
        FaultError: if there cannot be such damage, or stored faults do not fit.
        OSError: if a file cannot be read or written.
    """
    require_place(out)
    with open_regular(path) as file, ExitStack() as stack:
        # What is entered first takes its place last: a sidecar never lies beside another file.
        if sidecar_of(path).exists():
            side = stack.enter_context(atomic(sidecar_of(out), like=path))
            side.write(read_regular(sidecar_of(path), MAX_BYTES))
        new = stack.enter_context(atomic(out, like=path, stale=sidecars_of(out)))
        layout = layout_of(file, path)
        copy_data(file, new, layout, layout.size)
        # Shared, so that what is changed in memory is changed in the file.
        mapped = np.frombuffer(mmap.mmap(new.fileno(), 0), np.uint8)
        words = [
            Words.of_bytes(entry.name, mapped[entry.begin : entry.end], entry.part().dtype)
            for entry in layout.entries
        ]
        if replay is not None:
            faults = FaultList.load(replay)
        else:
            faults = draw(kind or "", words, count, seed, only=only, placement=placement)
        faults.apply_(words)
    return faults
