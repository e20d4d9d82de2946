"""What a command may write over: one rule for all of them.

A file that has a seal is kept, and so is the seal. Only the same file takes its place, repaired or
damaged on purpose: the one with the same seal. What is written about files (receipts, maps, lists
of faults) takes the place of its own kind, and of nothing else. Pages, pictures and tables are
known by their names, which have to be such. What a command reads it does not write over, and no
file of its own either. Links are followed, as whatever is written follows them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from parimend.errors import MismatchError, ParimendError, SpecError
from parimend.files.beside import Beside, is_of_file
from parimend.files.links import steps
from parimend.files.opening import absent, opened
from parimend.files.seals import Seals, content_digest, is_seal, seals_beside
from parimend.regular import open_regular, require_place

RECEIPT, MAP, FAULTS = b'{"files":[', b'{\n "source": ', b'{"format": "parimend.faults"'
"""How what is written about files begins."""


def require_free(
    out: Path, head: bytes = b"", instead: str = "", seals: Seals | None = None
) -> None:
    """Refuse to write where something lies that is worth keeping.

    Args:
        out: where a command is to write a file.
        head: how files of this kind begin, where it is not known by the name.
        instead: what the user may do else.
        seals: where there are more than beside files.

    Raises:
        MismatchError: says what lies there.
        FormatError: if no file can be there; see `require_place`.
    """
    require_place(out)
    there = next((why for why, _ in _kept(out, seals)), "") or _other_kind(out, head)
    _require_nothing(there, out, instead)


def require_free_for(out: Path, path: Path, seals: Seals | None = None) -> None:
    """Refuse to write where a file with another seal lies, or a seal.

    Args:
        out: where a command is to write a file.
        path: what is written there, repaired or damaged; it may be gone.
        seals: where its seal is; beside it by default.

    Raises:
        MismatchError: says what lies there.
    """
    if kept := [*_kept(out, seals)]:
        ours = _content(path, seals or Beside())
        others = (why for why, content in kept if not content or content != ours)
        _require_nothing(next(others, ""), out)


def require_distinct(
    written: Sequence[Path | None], read: Iterable[Path | None] = (), instead: str = ""
) -> None:
    """Refuse to write two files to one place, or over one that the same command reads.

    Args:
        written: where a command is to write files.
        read: what it reads.
        instead: what the user may do else.

    Raises:
        SpecError: names the file.
    """
    seen = {same for path in read if path is not None for same in _identities(path)}
    taken = set[object]()
    for path in (path for path in written if path is not None):
        here = _identities(path)
        if here & seen:
            raise SpecError(f"{path} is read by this command, too: take another name{instead}")
        if here & taken:
            raise SpecError(f"{path} is where this command writes something else: take two names")
        taken |= here


def _identities(path: Path) -> set[object]:
    """By which a file is known, if it is there or will be."""
    found: set[object] = {os.path.realpath(path)}
    with suppress(OSError):
        state = os.stat(path)
        found.add((state.st_dev, state.st_ino))
    return found


def _require_nothing(there: str, out: Path, instead: str = "") -> None:
    if there:
        remedy = f"take another name, or remove what is there{instead}"
        raise MismatchError(f"{out} {there} and would be replaced: {remedy}")


def _kept(out: Path, apart: Seals | None) -> Iterator[tuple[str, bytes]]:
    """Why a file is to be kept, if it is there or has been, and of each reason a digest of what
    the seal seals; nothing if that cannot be told.

    Args:
        out: the file.
        apart: where there are more seals than beside files.
    """
    for path in steps(out):
        by = "" if path == out else f"leads to {path}, which "
        beside, live = seals_beside(path)
        if is_seal(path):
            yield f"{by}has the name of a seal", b""
        elif os.path.lexists(beside):
            yield f"{by}has the seal {beside}", _content(path, Beside())
        elif live.is_file() and not is_of_file(live):
            yield f"{by}has the seal {live}", _content(path, Beside())
        elif path.exists() and not path.is_symlink() and (inside := _content(path, Beside())):
            yield f"{by}has a seal inside", inside
    if apart is not None and out.exists():
        yield from _kept_apart(out, apart)


def _kept_apart(out: Path, apart: Seals) -> Iterator[tuple[str, bytes]]:
    with suppress(ParimendError, OSError):
        try:
            with opened(out, apart) as found:
                seal, side = found.sealed.seal, found.sealed.path
            if side is not None:
                yield f"has the seal {side}", content_digest(seal)
        except MismatchError:  # it is not known which one
            yield f"may have one of several seals ({apart.option.strip()})", b""


def _content(path: Path, seals: Seals) -> bytes:
    """A digest of what the seal of a file seals, which may be gone; nothing if it has none that
    can be read.
    """
    read = opened if os.path.exists(path) else absent
    with suppress(ParimendError, OSError), read(path, seals) as found:
        return content_digest(found.sealed.seal)
    return b""


def _other_kind(out: Path, head: bytes) -> str:
    with suppress(FileNotFoundError), open_regular(out) as file:
        if file.read(len(head)) not in (head, b""):
            return "is of another kind"
    return ""
