"""Loading files and folders from what was verified in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parimend.arguments import path_of
from parimend.atomic import PathLike
from parimend.errors import FormatError, MismatchError, SealError, SpecError
from parimend.files.apart import seals_in
from parimend.files.looking import Looked, looked_at
from parimend.files.members import Members, visit_all
from parimend.files.opening import opened
from parimend.files.targets import index_among, is_index, shards
from parimend.loading.content import Content, content_of, unverified
from parimend.loading.libraries import built
from parimend.loading.policy import OnDamage, require_device, require_policy, tell, tell_repaired
from parimend.outcomes import FileOutcome
from parimend.warning import warn

if TYPE_CHECKING:
    import torch


def load_file(
    path: PathLike,
    on_damage: OnDamage = "raise",
    device: str | torch.device = "cpu",
    *,
    seal_dir: PathLike | None = None,
) -> Any:
    """Load a protected file and verify what was loaded.

    It is read once; what is returned is made of the bytes that were verified, and repaired if that
    is asked for. They are a copy in memory: nothing is mapped, so that nothing that happens to the
    file afterwards reaches what was loaded. The file itself is not changed: `verify` does that.

    Args:
        path: a file that `save_file` or `parimend.protect_file` protected.
        on_damage: see `OnDamage`.
        device: where tensors of torch go.
        seal_dir: where the seals are, see `parimend.check_file`.

    Returns:
        What the format's own library gives. Of safetensors files named tensors; of archives of
        torch, and of files of no known format, what ``torch.load`` makes of them, with
        ``weights_only=True``; of .npy and .npz files what ``numpy.load`` gives; of GGUF files a
        ``gguf.GGUFReader``, whose quantized tensors are blocks with a name (``Q4_0``); of ONNX
        files an ``onnx.ModelProto`` that holds all of its tensors, also those whose data are in
        other files, which are verified, too.

    Raises:
        DamageError: if the file is damaged, or for ``repair`` beyond repair.
        SealError, MismatchError, FormatError, OSError: as `parimend.check_file` does.
        FormatError: also if the format's library is not installed, or does not load the file.
        SpecError: also for a ``device`` that cannot be used, or where the library knows none, and
            for the index of a sharded checkpoint.

    Example:
        >>> import tempfile, torch, warnings, parimend as pm
        >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as w:
        ...     warnings.simplefilter("always")
        ...     path = Path(folder, "model.safetensors")
        ...     pm.save_file({"w": torch.arange(5.0)}, path, errors=2)
        ...     content = bytearray(path.read_bytes())
        ...     content[-1] ^= 1
        ...     _ = path.write_bytes(content)
        ...     load_file(path, on_damage="repair")["w"]
        tensor([0., 1., 2., 3., 4.])
        >>> "is damaged, what is loaded is not: 1 wrong element, corrected" in str(w[0].message)
        True
    """
    require_policy(on_damage)
    require_device(device)
    path, seals = path_of(path), seals_in(seal_dir)
    if path.is_dir():
        raise FormatError(f"{path} is a folder: name a regular file, or take load_folder")
    if is_index(path):
        path.stat()  # raises, if there is none
        raise SpecError(f"{path} is an index, and has no tensors: load_folder loads those it lists")

    def verified_content(file: Path) -> Content:
        with opened(file, seals, salvage=on_damage == "repair") as found:
            content = content_of(found, on_damage)
        if not content.is_right:
            tell([content.outcome], on_damage, seal_dir)
        elif on_damage == "repair":
            tell_repaired([content.outcome], seal_dir)
        return content

    def companion(file: Path) -> Content:
        try:
            return verified_content(file)
        except (SealError, MismatchError) as error:
            if on_damage != "warn":
                raise
            tell([FileOutcome((), str(file), problem=str(error))], on_damage)
            return unverified(file)

    return built(verified_content(path), device, companion)


def load_folder(
    path: PathLike,
    on_damage: OnDamage = "raise",
    device: str | torch.device = "cpu",
    *,
    seal_dir: PathLike | None = None,
) -> dict[str, torch.Tensor]:
    """Load the tensors of a protected folder and verify what was loaded; see `load_file`.

    Args:
        path: a folder; or the index of a sharded checkpoint, if there are several. Everything that
            was protected in it and below is verified; what lies below is only loaded if the index
            lists it.
        on_damage: see `OnDamage`.
        device: where the tensors go.
        seal_dir: where the seals are, see `parimend.check_file`.

    Returns:
        Named tensors: those that the index lists; without an index all of the safetensors files, or
        where there are none, those of the only archive of torch. For ``warn`` also those in files
        that could not be verified, as without a seal, if they can be read.

    Raises:
        DamageError: if a file is damaged, missing or cannot be looked at, or for ``repair`` beyond
            repair. Names all of them.
        FormatError: if there is nothing that has named tensors, or the index names a tensor that is
            not in its shard, of which ``warn`` warns.
        MismatchError: if there are several indices, or archives without an index, or two files
            have a tensor of the same name.
        SealError, SpecError, OSError: as `parimend.check_file` does.

    Example:
        >>> import tempfile, torch, parimend as pm
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pm.save_file({"w": torch.ones(2)}, Path(folder, "a.safetensors"), errors=2)
        ...     pm.save_file({"b": torch.ones(1)}, Path(folder, "b.safetensors"), errors=2)
        ...     sorted(load_folder(folder))
        ['b', 'w']
    """
    folder = path_of(path)
    require_policy(on_damage)
    require_device(device)
    members = Members(folder, seals_in(seal_dir))
    if not (folder.is_dir() or is_index(folder)):
        folder.stat()  # raises, if there is nothing at all
        raise SpecError(f"{folder} is a file: load_folder takes folders and indices; use load_file")

    def look(file: Path) -> Looked:
        with opened(file, members.seals, salvage=on_damage == "repair") as found:
            content = content_of(found, on_damage)
            return looked_at(content, found, content.outcome)

    visit_all(members, look)
    contents, problems = members.outcome()
    wrong = [found.outcome for found in contents.values() if not found.is_right]
    if on_damage == "warn":
        contents, problems = _with_unverified(contents, problems)
    unknown = [FileOutcome((), str(file), problem=text) for file, text in problems.items()]
    tell([*wrong, *unknown], on_damage, seal_dir)
    if on_damage == "repair":
        tell_repaired((found.outcome for found in contents.values()), seal_dir)
    tensors: dict[str, torch.Tensor] = {}
    first: dict[str, Path] = {}
    for file, names in _wanted(contents, folder).items():
        found = built(contents.pop(file), device, contents.__getitem__)
        if not isinstance(found, Mapping):
            raise FormatError(f"{file} holds no tensors with names: load it with load_file")
        there = [name for name in found if names is None or name in names]
        if lost := (names or set()).difference(there):
            text = f"{file} has no {min(lost)}, which the index says is in it"
            if on_damage != "warn":
                raise FormatError(text)
            warn(text)
        if twice := first.keys() & there:
            name = min(twice)
            raise MismatchError(
                f"{first[name]} and {file} both have a tensor {name}: use load_file for each"
            )
        first |= dict.fromkeys(there, file)
        tensors |= {name: found[name] for name in there}
    return tensors


def _with_unverified(
    contents: Mapping[Path, Content], problems: Mapping[Path, str]
) -> tuple[dict[Path, Content], dict[Path, str]]:
    """Both, with what lies in files that could not be verified; what cannot be read is told."""
    found, told = dict(contents), dict(problems)
    for file in problems:
        try:
            found[file] = unverified(file)
        except (FormatError, OSError):
            told[file] += "; nothing of it is loaded"
    return found, told


def _wanted(contents: Mapping[Path, Content], path: Path) -> dict[Path, set[str] | None]:
    """The files of a folder to load, and the names of the tensors in each; None for all."""
    own = path if path.is_dir() else path.parent
    there = {file: content for file, content in contents.items() if file.parent == own}
    if index := index_among(there, path):
        return _listed(contents, index)
    named = [file for file, found in there.items() if found.layout.format.loads == "tensors"]
    if not named:
        named = [file for file, found in there.items() if found.layout.format.name == "torch"]
        if len(named) > 1:
            names = ", ".join(file.name for file in named)
            raise MismatchError(f"{path} has several archives, {names}: use load_file for each")
    if not named:
        raise FormatError(f"{path} has no files of named tensors: use load_file for each")
    return dict.fromkeys(named)


def _listed(contents: Mapping[Path, Content], index: Path) -> dict[Path, set[str] | None]:
    """What an index lists, as far as it is there."""
    text = contents[index].file().read()
    names: dict[str, set[str]] = {name: set() for name in shards(text, str(index))}
    for tensor, shard in json.loads(text)["weight_map"].items():
        names[shard].add(tensor)
    wanted = {index.parent / name: tensors for name, tensors in names.items()}
    return {file: tensors for file, tensors in wanted.items() if file in contents}
