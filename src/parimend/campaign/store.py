"""The folder of a campaign: what it is, and a row for every task that is done.

``campaign.json`` says what is done, with a checksum; ``rows.jsonl`` grows by a line for each
finished task, each with a checksum, and is never written anew. Whatever kills a campaign, at any
moment: the lines that are there count, a torn one does not, and what is missing is done when it
goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from parimend.arguments import path_of
from parimend.atomic import PathLike, atomic, is_locked, locked
from parimend.campaign.facts import Prepared
from parimend.campaign.spec import Spec
from parimend.campaign.stats import Row, Statistics
from parimend.campaign.task import RULES, canonical
from parimend.errors import FormatError, MismatchError

FORMAT, VERSION = "parimend.campaign", 1
_SYNC_SECONDS = 1.0


class Store:
    """A campaign's folder.

    Args:
        path: of the folder.

    Attributes:
        spec: of the campaign.
        prepared: what is known of its networks; None until they were loaded for the first time.
        damaged: lines of the rows that do not count, since they are torn or damaged.

    Raises:
        FormatError: if it holds no campaign, a damaged one, or one of another version.
        MismatchError: if its results follow other rules than those of this version.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = path_of(path, "out")
        self._head = self.path / "campaign.json"
        self._rows = self.path / "rows.jsonl"
        self._statistics = self.path / "statistics.jsonl"
        self.damaged = 0
        head = _read_head(self._head)
        self.spec = Spec.of(head["spec"], head["base"])
        self.prepared = Prepared.read(head["prepared"]) if head["prepared"] else None

    @classmethod
    def make(cls, path: PathLike, spec: Spec) -> Store:
        """The folder of a new campaign, or of the same one that was begun before.

        One that failed before there was any result makes way for another one.

        Raises:
            MismatchError: if there are results of another campaign.
            BusyError: if another process is about to begin another one there.
            OSError: if it cannot be written.
        """
        folder = path_of(path, "out")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "campaign.json").exists():
            _write_head(folder / "campaign.json", spec, None)
        store = cls(folder)
        if store.spec.key != spec.key and store._is_blank:
            with locked(store._rows):
                if cls(folder)._is_blank:
                    _write_head(store._head, spec, None)
            store = cls(folder)
        store._require(spec.key)
        store.spec = spec  # what was moved is found where it is now
        return store

    def note(self, prepared: Prepared) -> None:
        """Keep what networks and protections are, the first time; later they must be the same.

        Raises:
            MismatchError: if a network is not what it was; names it.
        """
        for fact in prepared.facts:
            known = self.prepared.of(fact.network) if self.prepared else {}
            before = known.get(fact.protection, fact)
            if before.weights != fact.weights:
                raise MismatchError(
                    f"{self.path}: the network {fact.network} is not the one that the campaign "
                    "began with: load its weights from a file, or begin anew in another folder"
                )
            where = f"{self.path}: {fact.network} under {fact.protection}"
            if before.score != fact.score:
                raise MismatchError(
                    f"{where} scores {fact.score}, and {before.score} when the campaign began: "
                    "metric, data or machine have changed"
                )
            if before.nbytes != fact.nbytes:
                raise MismatchError(
                    f"{where} keeps {fact.nbytes:,} bytes, and {before.nbytes:,} when the campaign "
                    "began: the protection has changed; begin anew in another folder"
                )
        self.prepared = self.prepared or prepared
        _write_head(self._head, self.spec, self.prepared)

    def statistics(self) -> Statistics:
        """All rows that are whole.

        Raises:
            OSError: if they cannot be read.
        """
        rows, self.damaged = [], 0
        with suppress(FileNotFoundError), open(self._rows, "rb") as file:
            for line in file:
                row = _row_of(line)
                self.damaged += row is None and line != b"\n"
                rows += [row] if row else []
        return Statistics(rows)

    def finish(self, statistics: Statistics) -> None:
        """Write the statistics file, all or nothing."""
        with atomic(self._statistics) as file:
            file.write(statistics.to_bytes())

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Be the only one to add rows.

        Raises:
            BusyError: if another process is running this campaign.
            MismatchError: if another one was begun in the folder meanwhile.
            OSError: if nothing can be written there.
        """
        with locked(self._rows):
            # Another process may have begun the campaign, or another one, since it was opened here.
            now = Store(self.path)
            now._require(self.spec.key)
            self.prepared = now.prepared
            writer = Writer(self._rows)
            try:
                yield writer
            finally:
                writer.close()

    @property
    def has_statistics(self) -> bool:
        """Whether the statistics file was written."""
        return self._statistics.exists()

    @property
    def running(self) -> bool:
        """Whether a process is probably at work here."""
        return is_locked(self._rows)

    def _require(self, key: str) -> None:
        """Refuse the folder of another campaign."""
        if self.spec.key != key:
            raise MismatchError(
                f"{self.path} holds the results of another spec: take a new folder, or the spec "
                f"that it was begun with ({self._head})"
            )

    @property
    def _is_blank(self) -> bool:
        """Whether nothing was found yet: no network was loaded, and no row written."""
        return self.prepared is None and not (self._rows.exists() and self._rows.stat().st_size)


class Writer:
    """Adds rows to a file: each is there as a whole as soon as `add` returns, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.synced = time.monotonic()
        size = os.fstat(self.file).st_size
        if size and os.pread(self.file, 1, size - 1) != b"\n":
            self._write(b"\n")  # after a line that was torn

    def add(self, row: Row) -> None:
        """Add a row.

        Raises:
            OSError: if it cannot be written, as on a full disk; the file stays readable.
        """
        content = canonical(row.as_dict())
        self._write(b'{"check":"%s","row":%s}\n' % (_check(content).encode(), content))
        if time.monotonic() - self.synced > _SYNC_SECONDS:
            os.fsync(self.file)
            self.synced = time.monotonic()

    def close(self) -> None:
        """Let the rows last also if the power fails."""
        try:
            os.fsync(self.file)
        finally:
            os.close(self.file)

    def _write(self, data: bytes) -> None:
        try:
            if os.write(self.file, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            error.filename = str(self.path)
            raise


def _check(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _row_of(line: bytes) -> Row | None:
    """The row of a line; None if it is torn or damaged."""
    try:
        given = json.loads(line)
        return Row.read(given["row"]) if given["check"] == _check(canonical(given["row"])) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _read_head(path: Path) -> dict[str, Any]:
    try:
        head = json.loads(path.read_bytes())
        kind, version, rules = head["format"], head["version"], head["rules"]
    except FileNotFoundError:
        raise FormatError(f"{path.parent} holds no campaign: there is no {path.name}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{path} does not describe a campaign: {error}") from None
    if kind != FORMAT or version != VERSION:
        raise FormatError(
            f"{path} is {kind} {version}, and this version of parimend reads {FORMAT} {VERSION}"
        )
    if rules != RULES:
        raise MismatchError(
            f"{path.parent} holds results by the rules {rules}, and this version of parimend has "
            f"the rules {RULES}, whose trials are others: begin anew in another folder"
        )
    check = head.pop("check", None)
    if check != _check(canonical(head)):
        raise FormatError(
            f"{path} is damaged, or was changed: put it back from a copy, or begin anew in another "
            "folder"
        )
    return dict(head)


def _write_head(path: Path, spec: Spec, prepared: Prepared | None) -> None:
    head = {
        "format": FORMAT,
        "version": VERSION,
        "rules": RULES,
        "key": spec.key,
        "base": str(spec.base),
        "spec": spec.as_dict(),
        "prepared": prepared and prepared.as_dict(),
    }
    head["check"] = _check(canonical(head))
    with atomic(path) as file:
        file.write(json.dumps(head, indent=1).encode() + b"\n")
