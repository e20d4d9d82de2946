"""What a command may write over: one rule for all of them.

A file that has a seal is kept, and so is the seal. Only the same file takes its place, repaired or
damaged on purpose: the one with the same seal. What is written about files (receipts, maps, lists
of faults) takes the place of its own kind, and of nothing else. Pages, pictures and tables are
known by their names, which have to be such.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from parimend.errors import MismatchError, ParimendError
from parimend.files.apart import seals_in
from parimend.files.seals import (
    Seals,
    content_digest,
    find_inside,
    is_of_file,
    is_seal,
    load_sidecar,
    seals_beside,
)
from parimend.regular import open_regular, require_place

RECEIPT, MAP, FAULTS = b'{"files":[', b'{\n "source": ', b'{"format": "parimend.faults"'
"""How what is written about files begins."""


def require_free(out: Path, head: bytes = b"", instead: str = "") -> None:
    """Refuse to write where something lies that is worth keeping.

    Args:
        out: where a command is to write a file.
        head: how files of this kind begin, where it is not known by the name.
        instead: what the user may do else.

    Raises:
        MismatchError: says what lies there.
        FormatError: if no file can be there; see `require_place`.
    """
    require_place(out)
    _require_nothing(_kept(out) or _other_kind(out, head), out, instead)


def require_free_for(out: Path, path: Path, seals: Seals | None = None) -> None:
    """Refuse to write where a file with another seal lies, or a seal.

    Args:
        out: where a command is to write a file.
        path: what is written there, repaired or damaged.
        seals: where its seal is; beside it by default.

    Raises:
        MismatchError: says what lies there.
    """
    kept = _kept(out)
    if kept and not is_seal(out):
        with suppress(ParimendError, OSError), open_regular(path) as file:
            sealed = (seals or seals_in(None)).find(file, path)
            if content_digest(sealed.seal) == _digest(out):
                return
    _require_nothing(kept, out)


def _require_nothing(there: str, out: Path, instead: str = "") -> None:
    if there:
        remedy = f"take another name, or remove what is there{instead}"
        raise MismatchError(f"{out} {there} and would be replaced: {remedy}")


def _kept(out: Path) -> str:
    """Why a file is to be kept, if it is there or has been."""
    if is_seal(out):
        return "has the name of a seal"
    beside, live = seals_beside(out)
    if os.path.lexists(beside):
        return f"has the seal {beside}"
    if live.is_file() and not is_of_file(live):
        return f"has the seal {live}"
    return "has a seal inside" if _digest(out) else ""


def _digest(out: Path) -> bytes:
    """Of what the seal of a file seals; nothing if it has none that can be read."""
    beside, _ = seals_beside(out)
    with suppress(ParimendError, OSError):
        if beside.exists():
            return content_digest(load_sidecar(beside).seal)
        with open_regular(out) as file:
            return content_digest(find_inside(file, out).seal)
    return b""


def _other_kind(out: Path, head: bytes) -> str:
    with suppress(FileNotFoundError), open_regular(out) as file:
        if file.read(len(head)) not in (head, b""):
            return "is of another kind"
    return ""
