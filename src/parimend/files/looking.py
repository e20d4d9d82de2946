"""What a look at one file of several gives, with what its seal says of the others."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from parimend.carriers import repair_
from parimend.carriers.base import BY_SHA256
from parimend.errors import FormatError, ParimendError
from parimend.files.examining import is_proven
from parimend.files.links import steps
from parimend.files.notes import MEMBERS, NAME, is_inside, noted
from parimend.files.opening import Opened
from parimend.files.places import Origin, origin_of
from parimend.files.seals import Sealed, sidecar_of
from parimend.files.targets import MAX_INDEX, is_index, shards
from parimend.outcomes import FileOutcome
from parimend.regular import state_of
from parimend.stores.file import FileTensors, LoadedTensors


class Looked(NamedTuple):
    """What a look at a member gave.

    Attributes:
        found: what was found.
        notes: of its seal.
        listed: the names that it lists, if it is an index whose seal notes no members.
        is_sure: whether a word shows that this seal is that of the member, and not its name alone.
        origin: where the member was when it was sealed, if it was one of several.
        is_strange: whether it is probably another file than the one of this seal.
    """

    found: Any
    notes: Mapping[str, Any]
    listed: list[str] | None
    is_sure: bool
    origin: Origin | None
    is_strange: bool

    @property
    def name(self) -> str:
        """What the member was called when it was sealed; empty if that is not known."""
        name = self.notes.get(NAME)
        return str(name) if self.is_sure and is_inside(name) else ""


def looked_at(found: Any, opened: Opened, outcome: FileOutcome | None = None) -> Looked:
    """What a look at a member gave, with what its seal says of others.

    Args:
        found: what was found.
        opened: the member.
        outcome: of comparing it with its seal, if it was.
    """
    is_sure = outcome is not None and is_proven(outcome)
    is_strange = outcome is not None and not is_sure and _is_all_other(outcome, opened.sealed)
    _, *led_to = steps(opened.path)
    if opened.sealed.path in [sidecar_of(step) for step in led_to]:
        # What lies beside the file that a link leads to tells of others there, not of those here.
        return Looked(found, {}, None, is_sure, None, is_strange)
    notes = opened.sealed.seal.notes
    listed = None
    # One that was sealed before members were noted.
    if is_index(opened.path) and not noted(notes, MEMBERS, opened.path.name):
        listed = listed_in(_original(opened))
    origin = origin_of(opened.sealed, opened.path)
    return Looked(found, notes, listed, is_sure, origin, is_strange)


def _is_all_other(outcome: FileOutcome, sealed: Sealed) -> bool:
    """Whether hardly anything in a file is what it was, or it was probably saved anew."""
    other = sum(end - begin for begin, end in outcome.ranges)
    return bool(outcome.problem) or 10 * other > 9 * sealed.layout.data_bytes


def settled(found: FileOutcome, opened: Opened) -> FileOutcome:
    """What was found in a file; where it is not right, and the file was written meanwhile, only
    that: what was read is then neither what was there nor what is.
    """
    if found.ok or found.written or state_of(opened.path) == opened.state:
        return found
    problem = "it was written while it was being looked at: check it again when that is done"
    return FileOutcome((), str(opened.path), problem=problem)


def listed_in(content: bytes | None) -> list[str] | None:
    """The names that an index lists, if it can be read; that only ever adds members."""
    with suppress(FormatError):
        return shards(content or b"", "")
    return None


def companions_in(opened: Opened) -> list[str]:
    """The names of the files with the rest of a file's tensors, from its folder on, as the file was
    when it was sealed.

    Raises:
        FormatError: if that is lost.
        OSError: if there is no room for a file of its length, without its tensors.
    """
    layout = opened.sealed.layout
    with TemporaryFile() as file:
        if layout.spans:  # what is around tensors names those that are elsewhere
            for at, data in layout.spans:
                file.seek(at)
                file.write(data)
            file.truncate(layout.size)
        else:
            file.write(_original(opened) or b"")
            file.flush()
        return [name for name in layout.format.others(file, str(opened.path)) if is_inside(name)]


def _original(opened: Opened) -> bytes | None:
    """The content of a file as it was protected, repaired in memory; None if that is lost.

    A damaged index must not say which files there are.
    """
    tensors = FileTensors(opened.file, opened.sealed.layout)
    # No memory for what a seal claims and is not there.
    if tensors.size > min(2 * tensors.found, MAX_INDEX):
        return None
    loaded = LoadedTensors(tensors)
    try:
        if not repair_(opened.sealed.seal, loaded, BY_SHA256).verdict.ok:
            return None
    except ParimendError:
        return None
    content = io.BytesIO()
    tensors.layout.write(content, loaded.data)
    return content.getvalue()
