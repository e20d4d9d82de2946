"""Which files a path stands for: one, or the shards of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from parimend.errors import FormatError, MismatchError
from parimend.regular import read_regular

INDEX = ".index.json"
"""What the name of a sharded checkpoint's index ends in."""

MAX_INDEX = 1 << 28
"""Bytes of the largest index that is read."""


def targets(path: Path) -> list[Path]:
    """The files that a path stands for.

    Args:
        path: a file; the index of a sharded checkpoint, which stands for itself and its shards; or
            a folder, which stands for the index in it, or else for all its safetensors files.

    Raises:
        FormatError: if an index names files outside its folder, or a folder has nothing to protect.
        MismatchError: if a folder has several indices.
        OSError: if the path does not exist or cannot be read.
    """
    if path.is_dir():
        indices = sorted(path.glob("*.safetensors" + INDEX))
        if len(indices) > 1:
            names = ", ".join(index.name for index in indices)
            raise MismatchError(f"{path} has several indices, {names}: name one of them")
        if indices:
            return targets(indices[0])
        found = sorted(path.glob("*.safetensors"))
        if not found:
            raise FormatError(f"{path} has no safetensors files")
        return found
    if not path.name.endswith(INDEX):
        return [path]
    return [path, *(path.with_name(name) for name in _shards(path))]


def _shards(index: Path) -> list[str]:
    """The names of the shards; of a damaged index, all safetensors files beside it."""
    content = read_regular(index, MAX_INDEX)
    try:
        names = set(json.loads(content)["weight_map"].values())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        # Its sidecar tells whether it is damaged.
        return sorted(file.name for file in index.parent.glob("*.safetensors"))
    for name in names:
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise FormatError(f"{index} names a shard outside its folder: {name!r}")
    return sorted(names)
