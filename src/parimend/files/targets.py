"""Which files a path stands for: one, or all that belong together in a folder.

What is to be protected is what lies there now. What was protected is another question, and the
files cannot answer it: they may be damaged, missing or renamed. So every seal of a set notes the
names of all its members, and `parimend.files.members` asks the seals.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from parimend.errors import FormatError, MismatchError
from parimend.files.notes import LEFT_OUT, MEMBERS, is_inside
from parimend.files.seals import SUFFIX
from parimend.files.walking import refuse, walk
from parimend.formats import FORMATS, of_suffix
from parimend.regular import open_regular, read_regular, state_of

# As transformers and diffusers name them, with and without a variant:
# model.safetensors.index.json, model.safetensors.index.fp16.json, pytorch_model.bin.index.json
_INDEX = re.compile(r".+\.index(\..+)?\.json", re.DOTALL)
# model-00001-of-00003.safetensors, model.fp16-00001-of-00002.safetensors, llama-00001-of-00009.gguf
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[^/]+)", re.DOTALL)
_MOST_SHARDS = 1000  # of which one that is missing is told by the numbers of the others
MAX_INDEX = 1 << 28
"""Bytes of the largest index that is read."""
SAFETENSORS = FORMATS["safetensors"].suffix
"""What the names of safetensors files end in."""
_WEIGHTS = {
    SAFETENSORS,
    *(".bin", ".pt", ".pt2", ".pth", ".pte", ".ptl", ".t7", ".ckpt", ".distcp", ".nemo"),
    *(".gguf", ".ggml", ".onnx", ".onnx_data", ".ort", ".engine", ".plan", ".trt"),
    *(".h5", ".hdf5", ".keras", ".tflite", ".pb", ".msgpack", ".npz", ".npy"),
    *(".pdparams", ".pdopt", ".pdiparams", ".params", ".caffemodel", ".weights"),
    *(".mlmodel", ".dlc", ".mnn", ".rknn"),
}
_PACKED = {".tar", ".zip", ".gz", ".bz2", ".xz", ".zst"}
# Of TensorFlow: variables.data-00000-of-00001
_PIECE = re.compile(r"\.data-\d{5}-of-\d{5}")

# Of torch.distributed.checkpoint: __0_0.distcp, and .metadata, which says what is in them, or
# __0.metadata of every process.
_PIECES = ".distcp"
_PLAN = re.compile(r"(__\d+)?\.metadata")


def is_index(path: Path) -> bool:
    """Whether a file's name is that of the index of a sharded checkpoint.

    >>> is_index(Path("model.safetensors.index.fp16.json")), is_index(Path("config.json"))
    (True, False)
    """
    return _INDEX.fullmatch(path.name) is not None


def is_weights(name: str) -> bool:
    """Whether a name is one of those that files with weights have, packed or not.

    >>> is_weights("unet/model.fp16.safetensors"), is_weights("tokenizer.json")
    (True, False)
    >>> is_weights("MODEL.GGUF"), is_weights("best.pth.tar"), is_weights("pictures.tar")
    (True, True, False)
    """
    path = PurePosixPath(name.lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix in _PACKED else path.suffix
    return suffix in _WEIGHTS or _PIECE.fullmatch(suffix) is not None


def is_shard(name: str) -> bool:
    """Whether a name is numbered as those of shards are.

    >>> is_shard("model-00001-of-00003.safetensors")
    True
    """
    return _SHARD.fullmatch(name) is not None


def index_among(files: Iterable[Path], path: Path) -> Path | None:
    """The index that says which of the files of a folder have the tensors of one model, if there is
    one: that of safetensors, where others list the same tensors once more.

    Args:
        files: of the folder.
        path: what the user named: the folder, or one of its indices, which is meant then.

    Raises:
        MismatchError: if there are several.
    """
    indices = [file for file in files if is_index(file)]
    if is_index(path) and not path.is_dir():
        indices = [file for file in indices if file == path]
    indices = [file for file in indices if SAFETENSORS in file.name.lower()] or indices
    if len(indices) > 1:
        names = ", ".join(file.name for file in indices)
        raise MismatchError(f"{path} has several indices, {names}: name one of them")
    return indices[0] if indices else None


def index_first(path: Path) -> tuple[Path, bool, str]:
    """The order of the files of a set: folder by folder, and indices before what they list."""
    return path.parent, not is_index(path), path.name


def targets(path: Path, everything: bool = False) -> list[Path]:
    """The files that are to be protected together.

    Args:
        path: a file, which stands for itself and those that hold the rest of its tensors; the index
            of a sharded checkpoint, which stands for itself and its shards; or a folder, which
            stands for all files of weights, by their names, in it and below, and their indices.
        everything: of a folder, also all other files: tokenizers, configurations and the like.

    Returns:
        They, the index of a folder first. Of a folder also shards that should be there and are not:
        those that an index lists, and those that are missing in the numbers of others. Of
        checkpoints of ``torch.distributed`` the hidden ``.metadata``, too.

    Raises:
        FormatError: if an index or a file with others cannot be read, or names files that are not
            in its folder, or a folder has nothing to protect.
        OSError: if the path does not exist or cannot be read.
    """
    if path.is_dir():
        return _targets_in(path, everything)
    is_list = is_index(path)
    names = shards(read_regular(path, MAX_INDEX), str(path)) if is_list else others(path)
    return [path, *(path.parent / name for name in names)]


def _targets_in(folder: Path, everything: bool) -> list[Path]:
    names = names_below(folder, refuse)
    listed = _listed(folder, names)
    taken = {name for name in names if is_weights(name) or is_index(Path(name))}
    surplus = _unlisted(taken, listed)
    found = taken - surplus | listed.keys() | _gaps(taken - listed.keys() - surplus)
    found |= _distributed(folder, taken)
    if everything:
        # An empty file has nothing to protect.
        found |= {n for n in names if n not in surplus and not _is_empty(folder / n)}
    if not found:
        hint = ""
        if names and not everything:
            hint = "; --all (in Python: everything=True) protects its other files"
        raise FormatError(f"{folder} has no files known to hold weights, and no index{hint}")
    return sorted((folder / name for name in found), key=index_first)


def _distributed(folder: Path, names: Collection[str]) -> set[str]:
    """The hidden files without which nobody can read checkpoints of ``torch.distributed``; also one
    that is missing.
    """
    found = set()
    for at in {os.path.dirname(name) for name in names if name.lower().endswith(_PIECES)}:
        there = {
            os.path.join(at, name) for name in os.listdir(folder / at) if _PLAN.fullmatch(name)
        }
        found |= there or {os.path.join(at, ".metadata")}
    return found


def _is_empty(path: Path) -> bool:
    state = state_of(path)
    return state is not None and not state[2]


def _listed(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The names that indices list and models have their other weights in; and by whom.

    Of what cannot be read nothing is known here. It is a target, and refused when its turn comes.
    """
    found = dict[str, str]()
    for name in names:
        path = folder / name
        with suppress(FormatError, OSError):
            if is_index(path) or has_others(path):
                beside = targets(path)[1:]
                found |= {other.relative_to(folder).as_posix(): name for other in beside}
    return found


def _unlisted(names: Collection[str], listed: Mapping[str, str]) -> set[str]:
    """Shards, by their names, that no index lists, where there are some that one lists."""
    kinds = {_kind(name) for name in listed if is_shard(name)}
    return {n for n in names if is_shard(n) and n not in listed and _kind(n) in kinds}


def _kind(name: str) -> tuple[str, str]:
    return os.path.dirname(name), PurePosixPath(name).suffix


def _gaps(names: Collection[str]) -> set[str]:
    """Shards that are missing, as the numbers of others tell.

    >>> _gaps({"a-00001-of-00003.gguf", "a-00003-of-00003.gguf", "b.gguf"})
    {'a-00002-of-00003.gguf'}
    """
    there = defaultdict[tuple[str, str, str], set[int]](set)
    for name in names:
        if match := _SHARD.fullmatch(name):
            before, number, count, after = match.groups()
            there[before, count, after].add(int(number))
    return {
        f"{before}-{number:05}-of-{count}{after}"
        for (before, count, after), numbers in there.items()
        if int(count) <= _MOST_SHARDS
        # Some count from 0.
        for number in range(min(1, *numbers), int(count) + min(1, *numbers))
        if number not in numbers
    }


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
        if not is_inside(name):
            raise FormatError(f"{index} names a shard outside its folder: {name!r}")
    return sorted(names)


def has_others(path: Path) -> bool:
    """Whether the name of a file promises a format of which other files may hold the rest."""
    format = of_suffix(path)
    return format is not None and format.has_others


def others(path: Path) -> list[str]:
    """The names of the files that hold the rest of a file's tensors, as far as its name tells.

    Raises:
        FormatError: if it is not what its name promises, or they are not in its folder or below.
        OSError: if it cannot be read.
    """
    format = of_suffix(path)
    if format is None or not format.has_others:
        return []
    with open_regular(path) as file:
        names = format.others(file, str(path))
    for name in names:
        if not is_inside(name) or _is_led_away(path.parent, name):
            raise FormatError(
                f"{path} has tensors outside of its folder, in {name}: save it with all of its "
                "data beside it, to protect them together"
            )
    return names


def _is_led_away(folder: Path, name: str) -> bool:
    """Whether a folder on the way to a file is a link; files may be, in caches all of them are."""
    return any((folder / part).is_symlink() for part in [*PurePosixPath(name).parents][:-1])


def left_out(files: Collection[Path], folder: Path) -> list[str]:
    """What is in and below a folder and not among some files.

    Args:
        files: in that folder or below.
        folder: looked through.

    Returns:
        Names of files, from the folder on; folders that are links, which are not followed, as
        ``name/``.
    """
    taken = {file.relative_to(folder).as_posix() for file in files}
    return [name for name in walk(folder) if name not in taken and not name.endswith(SUFFIX)]


def notes_of(files: Sequence[Path], folder: Path) -> dict[str, list[str]]:
    """What a seal notes of the files that are protected together, all in or below one folder."""
    members = sorted(file.relative_to(folder).as_posix() for file in files)
    rest = [name for name in left_out(files, folder) if is_weights(name)]
    return {MEMBERS: members, LEFT_OUT: rest}


def names_below(folder: Path, onerror: Callable[[OSError], object] | None = None) -> list[str]:
    """Names of the files in and below a folder, from it on, without seals; see `walk`."""
    return [name for name in walk(folder, onerror) if not name.endswith(("/", SUFFIX))]
