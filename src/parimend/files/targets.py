"""Which files a path stands for: one, or all that belong together in a folder.

What is to be protected is what lies there now. What was protected is another question, and the
files cannot answer it: they may be damaged, missing or renamed. So every seal of a set notes the
names of all its members, and `parimend.files.members` asks the seals.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from parimend.errors import FormatError, MismatchError
from parimend.formats import FORMATS, promised
from parimend.regular import open_regular, read_regular

MEMBERS = "members"
"""The note of a seal that names all files of its set, its own one included."""
LEFT_OUT = "left_out"
"""The note of a seal that names weights that lay beside the set and do not belong to it."""

# As transformers and diffusers name them, with and without a variant:
# model.safetensors.index.json, model.safetensors.index.fp16.json, pytorch_model.bin.index.json
_INDEX = re.compile(r".+\.index(\..+)?\.json", re.DOTALL)
MAX_INDEX = 1 << 28
"""Bytes of the largest index that is read."""
SAFETENSORS = FORMATS["safetensors"].suffix
"""What the names of safetensors files end in."""
_WEIGHTS = {
    SAFETENSORS,
    *(".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".onnx", ".onnx_data"),
    *(".h5", ".msgpack", ".npz", ".tflite", ".pb", ".mlmodel"),
}


def is_index(path: Path) -> bool:
    """Whether a file's name is that of the index of a sharded checkpoint.

    >>> is_index(Path("model.safetensors.index.fp16.json")), is_index(Path("config.json"))
    (True, False)
    """
    return _INDEX.fullmatch(path.name) is not None


def index_first(path: Path) -> tuple[bool, str]:
    """The order of the files of a set."""
    return not is_index(path), path.name


def targets(path: Path) -> list[Path]:
    """The files that are to be protected together.

    Args:
        path: a file, which stands for itself and those that hold the rest of its tensors; the index
            of a sharded checkpoint, which stands for itself and its shards; or a folder, which
            stands for the index in it, or else for all its safetensors files.

    Raises:
        FormatError: if an index or a file with others cannot be read, or names files that are not
            in its folder, or a folder has nothing to protect.
        MismatchError: if a folder has several indices.
        OSError: if the path does not exist or cannot be read.
    """
    if path.is_dir():
        return _targets_in(path)
    is_list = is_index(path)
    names = shards(read_regular(path, MAX_INDEX), str(path)) if is_list else others(path)
    return [path, *(path.with_name(name) for name in names)]


def _targets_in(folder: Path) -> list[Path]:
    names = names_in(folder)
    indices = [name for name in names if is_index(Path(name))]
    preferred = [name for name in indices if SAFETENSORS in name]
    found = [name for name in names if name.endswith(SAFETENSORS)]
    # What loads checkpoints takes safetensors where there are any.
    if preferred or not found:
        indices = preferred or indices
        if len(indices) > 1:
            raise MismatchError(
                f"{folder} has several indices, {', '.join(indices)}: name one of them"
            )
        if indices:
            return targets(folder / indices[0])
    if not found:
        below = [name for name in left_out([], folder) if name.endswith("/")]
        hint = f"; there are weights in {', '.join(below)}" if below else ""
        raise FormatError(f"{folder} has no safetensors files and no index{hint}")
    return [folder / name for name in found]


def shards(content: bytes, index: str) -> list[str]:
    """The names of the shards that an index lists.

    Args:
        content: of the index.
        index: its path, for messages.

    Raises:
        FormatError: if it is no index, or names files outside its folder.
    """
    try:
        names = set(json.loads(content)["weight_map"].values())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise FormatError(
            f"{index} is named like the index of a sharded checkpoint and has no readable "
            "weight_map: fetch it again, or name it otherwise if it is something else"
        ) from None
    for name in names:
        if not _is_plain(name):
            raise FormatError(f"{index} names a shard outside its folder: {name!r}")
    return sorted(names)


def has_others(path: Path) -> bool:
    """Whether the name of a file promises a format of which other files may hold the rest."""
    format = promised(path)
    return format is not None and format.has_others


def others(path: Path) -> list[str]:
    """The names of the files that hold the rest of a file's tensors, as far as its name tells.

    Raises:
        FormatError: if it is not what its name promises, or they are not in its folder.
        OSError: if it cannot be read.
    """
    format = promised(path)
    if format is None or not format.has_others:
        return []
    with open_regular(path) as file:
        names = format.others(file, str(path))
    for name in names:
        if not _is_plain(name):
            raise FormatError(
                f"{path} has tensors in another folder, in {name}: save it with all of its data "
                "beside it, to protect them together"
            )
    return names


def left_out(files: Collection[Path], folder: Path) -> list[str]:
    """Weights in and below a folder that are not among some files.

    Args:
        files: in that folder.
        folder: looked through two levels deep.

    Returns:
        Names of files in the folder; folders below it with weights in them as ``name/``.
    """
    taken = {file.name for file in files}
    beside = [name for name in names_in(folder) if _is_weights(name) and name not in taken]
    below = {
        found.relative_to(folder).parts[0]
        for pattern in ("*/*", "*/*/*")
        for found in folder.glob(pattern)
        if _is_weights(found.name) and not found.relative_to(folder).parts[0].startswith(".")
    }
    return beside + [f"{name}/" for name in sorted(below)]


def notes_of(files: Sequence[Path]) -> dict[str, list[str]]:
    """What a seal notes of the files that are protected together, all in one folder."""
    others = [name for name in left_out(files, files[0].parent) if not name.endswith("/")]
    return {MEMBERS: sorted(file.name for file in files), LEFT_OUT: others}


def noted(notes: Mapping[str, Any], note: str) -> set[str]:
    """The names in a note of a seal, without what cannot be a name."""
    names = notes.get(note)
    return {name for name in names if _is_plain(name)} if isinstance(names, list) else set()


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder, without hidden ones and what is no regular file."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()
        )


def _is_weights(name: str) -> bool:
    return Path(name).suffix in _WEIGHTS and not name.startswith(".")


def _is_plain(name: object) -> bool:
    """Whether something is the name of a file in the same folder, and no way out of it."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
