"""Damaging copies of files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from parimend.atomic import atomic
from parimend.errors import SealError
from parimend.faults import FaultList, Words, draw
from parimend.files.notes import renamed
from parimend.files.opening import sidecars_of
from parimend.files.seals import sidecar_for, sidecar_of
from parimend.formats import layout_of
from parimend.regular import open_regular, read_regular, require_place
from parimend.seal import MAX_BYTES, unsealed
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

    The sidecar of the copy notes its name, and both are as old as what they were made of: damage
    changes neither.

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
        if (own := sidecar_for(path)).exists():
            side = stack.enter_context(atomic(sidecar_of(out), like=path))
            side.write(_renamed(own, out))
            side.flush()
            _date(side, own.stat())
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
        _date(new, os.fstat(file.fileno()))
    return faults


def _renamed(own: Path, out: Path) -> bytes:
    """A sidecar as that of a copy, which is in no set; one that is damaged stays as it is."""
    data = read_regular(own, MAX_BYTES)
    try:
        seal, _, is_intact = unsealed(data, str(own))
    except SealError:
        return data
    if not is_intact:
        return data
    return replace(seal, notes=renamed(seal.notes, out)).to_bytes()


def _date(file: BinaryIO, like: os.stat_result) -> None:
    os.utime(file.fileno(), ns=(like.st_atime_ns, like.st_mtime_ns))
