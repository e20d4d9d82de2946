"""Verifying files that something else is going to load."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from parimend.arguments import flag, path_of
from parimend.atomic import PathLike, in_turn
from parimend.errors import ParimendError, SpecError
from parimend.files.checking import check_file
from parimend.files.members import known_members, seals_of
from parimend.files.repairing import repair_file
from parimend.files.seals import (
    is_led_elsewhere,
    is_seal,
    seals_below,
    seals_beside,
    sidecar_for,
    sidecar_of,
)
from parimend.files.targets import is_index
from parimend.files.walking import refuse
from parimend.loading.policy import OnDamage, require_policy, tell, tell_repaired
from parimend.loading.unchanged import Files, unchanged
from parimend.outcomes import Report
from parimend.regular import copy_bytes, open_regular


def verify(
    path: PathLike, on_damage: OnDamage = "raise", *, seal_dir: PathLike | None = None
) -> Report:
    """Verify protected files before something else loads them.

    Processes that repair the same path do so one after the other.

    What happens to the files between this and the loading is not seen: `verified` looks after that.

    Args:
        path: a file; the index of a sharded checkpoint; or a folder.
        on_damage: see `OnDamage`. ``repair`` repairs the files in place.
        seal_dir: where the seals are, see `parimend.check_file`.

    Returns:
        What was found and done.

    Raises:
        DamageError: if a file is damaged, or for ``repair`` beyond repair; also if one of several
            is missing, or cannot be looked at. Names all of them.
        SealError, MismatchError, FormatError, SpecError, OSError: as `parimend.check_file` does.

    Example:
        >>> import tempfile, torch, parimend as pm
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     pm.save_file({"w": torch.arange(5.0)}, path, errors=2)
        ...     verify(path).verdict.value
        'clean'
    """
    require_policy(on_damage)
    report = _looked_at(path_of(path), on_damage, seal_dir)
    _tell(report, on_damage, seal_dir)
    return report


@contextmanager
def verified(
    path: PathLike,
    on_damage: OnDamage = "raise",
    *,
    copy_to: PathLike | None = None,
    at_once: bool = False,
    seal_dir: PathLike | None = None,
) -> Iterator[Path]:
    """Verify protected files for a loader of any library, which is called inside the block.

    At the end of the block the files have to be the ones that were verified, and not written since:
    so what was loaded is what was verified. What the loader mapped into memory, to be read later,
    is read from the file then: map a private copy, or keep the file from being written.

    Args:
        path: a file; the index of a sharded checkpoint; or a folder.
        on_damage: see `OnDamage`. ``repair`` repairs the files in place, or in the copy.
        copy_to: a folder, such as ``/dev/shm`` for memory, in which a private copy of what is
            protected is made, verified and given to the loader; what is not protected is linked.
            It is removed at the end of the block; what is mapped stays. The files themselves and
            their seals are only read: so a read-only cache is repaired, too.
        at_once: let the loader begin at once, while other threads look at the files, which takes
            less time where there are processors to spare. Damage is raised at the end of the block
            then, also where the loader fails on it: put nothing but the loading into the block.
        seal_dir: where the seals are, see `parimend.check_file`.

    Yields:
        The path to load from.

    Raises:
        MismatchError: at the end, if a file was written or replaced while it was being loaded.
        DamageError, SealError, FormatError, OSError: as `verify` does, at the beginning.
        SpecError: also if ``at_once`` is to go with a repair or a copy, which come before loading.

    Example:
        >>> import tempfile, torch, parimend as pm
        >>> from safetensors.torch import load_file as load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     pm.save_file({"w": torch.arange(5.0)}, path, errors=2)
        ...     with verified(path) as safe:
        ...         load(safe)["w"]
        tensor([0., 1., 2., 3., 4.])
    """
    require_policy(on_damage)
    path, at_once = path_of(path), flag(at_once, "at_once")
    if at_once and (on_damage == "repair" or copy_to is not None):
        raise SpecError("at_once cannot go with a repair or a copy: both come before loading")
    if at_once:
        way = _meanwhile(path, on_damage, seal_dir)
    elif copy_to is None:
        way = _before(path, on_damage, seal_dir)
    else:
        way = _in_copy(path, on_damage, path_of(copy_to, "copy_to"), seal_dir)
    with way as place:
        yield place


@contextmanager
def _before(path: Path, on_damage: OnDamage, seal_dir: PathLike | None) -> Iterator[Path]:
    files = Files(path, seal_dir)
    report = check_file(path, seal_dir=seal_dir)
    # Another process may have put them right while they were looked at.
    if on_damage == "repair" and (not report.ok or files.changed()):
        tell_repaired(verify(path, "repair", seal_dir=seal_dir).files, in_place=True)
        # What took the place of what was damaged is looked at as it lies there now.
        with _before(path, "raise", seal_dir):
            yield path
        return
    _tell(report, on_damage, seal_dir)
    yield path
    files.require_unchanged("loaded")


@contextmanager
def _meanwhile(path: Path, on_damage: OnDamage, seal_dir: PathLike | None) -> Iterator[Path]:
    with unchanged(path, "loaded", seal_dir) as files, ThreadPoolExecutor(1) as pool:
        looking = pool.submit(check_file, files.path, seal_dir=files.seal_dir)
        try:
            yield path
        finally:  # damage says why a loader failed
            _tell(looking.result(), on_damage, seal_dir)


@contextmanager
def _in_copy(
    path: Path, on_damage: OnDamage, place: Path, seal_dir: PathLike | None
) -> Iterator[Path]:
    if not place.is_dir():
        raise SpecError(f"copy_to must be an existing folder: there is no folder {place}")
    with TemporaryDirectory(prefix="parimend-", dir=place) as private:
        copy = _copied(path, Path(private), seal_dir)
        known = {copy: path} if path.is_dir() else {copy.parent: path.parent}
        seals = None
        if seal_dir is not None:
            theirs = path_of(seal_dir, "seal_dir")
            seals = _seals_copied(theirs, Path(mkdtemp(dir=private)))
            known[seals] = theirs
        try:
            report = _renamed(_looked_at(copy, on_damage, seals), known)
        except (ParimendError, OSError):
            check_file(path, seal_dir=seal_dir)  # which names what is known outside
            raise
        _tell(report, on_damage, seal_dir)
        if on_damage == "repair":
            tell_repaired(report.files, seal_dir)
        yield copy


def _looked_at(path: Path, on_damage: OnDamage, seal_dir: PathLike | None) -> Report:
    report = check_file(path, seal_dir=seal_dir)
    if on_damage == "repair" and not report.ok:
        with in_turn(path):  # who waited finds them repaired
            return repair_file(path, seal_dir=seal_dir)
    return report


def _tell(report: Report, on_damage: OnDamage, seal_dir: PathLike | None) -> None:
    tell([file for file in report.files if not file.ok], on_damage, seal_dir)


def _copied(path: Path, place: Path, seal_dir: PathLike | None) -> Path:
    """A private copy of what is protected, under the same names; in a folder, links to the rest."""
    sealed, _ = seals_of(path, seal_dir)
    for file, each in sealed.items():
        if is_led_elsewhere(each, file):  # which a copy would no longer tell
            check_file(file, seal_dir=seal_dir)
    files = known_members(path, seal_dir)
    own = {member.absolute(): member for file in files for member in (file, *seals_beside(file))}
    own |= {sidecar_of(file).absolute(): sidecar_for(file) for file in files}
    is_folder = path.is_dir()
    folder = (path if is_folder else path.parent).absolute()
    name = folder.resolve().name if folder.name in ("", os.pardir) else folder.name
    copy = place / (name or "root")
    _mirror(folder, copy, own, links=is_folder or is_index(path))
    return copy if is_folder else copy / path.name


def _seals_copied(seals: Path, place: Path) -> Path:
    """A private copy of a folder of seals, or of one seal."""
    if not seals.is_dir():
        _copy(seals, place / seals.name)
        return place / seals.name
    for name, _ in [*seals_below(seals, refuse)]:  # before there are more, if this is in there
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # whoever reads the seal will know
            _copy(seals / name, place / name)
    return place


def _mirror(folder: Path, copy: Path, own: Mapping[Path, Path], *, links: bool) -> None:
    copy.mkdir()
    for entry in {*folder.iterdir(), *(each for each in own if each.parent == folder)}:
        new = copy / entry.name
        if entry in own and own[entry].exists():
            _copy(own[entry], new)
        elif entry.is_dir() and any(entry in file.parents for file in own):
            _mirror(entry, new, own, links=links)
        elif links and os.path.lexists(entry):
            new.symlink_to(entry)


def _copy(file: Path, new: Path) -> None:
    """Copy a file; what the disk does not give of a seal is damage there, as any other."""
    with new.open("xb") as copy, open_regular(file, salvage=is_seal(file)) as source:
        try:
            copy_bytes(source, copy)
        except OSError as error:
            error.filename = error.filename or str(new)
            raise


def _renamed(report: Report, known: Mapping[Path, Path]) -> Report:
    """A report on a copy as one on what was copied; ``known`` are the folders of both."""

    def real(text: str) -> str:
        for copy, folder in known.items():
            text = text.replace(str(copy), str(folder))
        return text

    files = [
        replace(file, path=str(Path(real(file.path))), problem=real(file.problem))
        for file in report.files
    ]
    return replace(report, files=tuple(files))
