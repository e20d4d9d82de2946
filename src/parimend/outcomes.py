"""Outcomes, as frozen records: what was found, how sure it is, and what was done.

Whatever looks at something gives a `Report`. It has a `FileOutcome` for every file or model, which
has a `WordOutcome` for every protected word, which has a `Change` for every wrong element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np

from parimend.dtypes import DTYPES
from parimend.record import Record, plain
from parimend.showing import brief, counted, escaped, html_table

Proof = Literal["sha256", "sums"]
"""What proves that weights are those that were sealed: SHA-256, or the sums of a code, which 2^-128
of all other weights, or fewer, have in common with them."""


class Verdict(StrEnum):
    """What is known after looking.

    ``clean``: nothing is wrong. ``correctable``: everything that is wrong is known exactly and can
    be repaired. ``corrected``: it was, and the result is proven. ``uncorrectable``: something is
    wrong and it is not known what; a wrong answer is never called corrected. ``below_floor``: what
    can be seen above the noise was found, and whatever else there may be is smaller than the stated
    floor. ``unknown``: a file of a set could not be looked at; it is missing, unreadable, not
    protected, or its seal cannot be read.
    """

    CLEAN = "clean"
    CORRECTABLE = "correctable"
    CORRECTED = "corrected"
    UNCORRECTABLE = "uncorrectable"
    BELOW_FLOOR = "below_floor"
    UNKNOWN = "unknown"

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do: not `correctable` (yet), `uncorrectable` or `unknown`."""
        return self not in (Verdict.CORRECTABLE, Verdict.UNCORRECTABLE, Verdict.UNKNOWN)


def worst(*verdicts: Verdict) -> Verdict:
    """The one that leaves most to do.

    >>> worst(Verdict.CORRECTED, Verdict.CLEAN).value
    'corrected'
    """
    return min(verdicts, key=_ORDER.index, default=Verdict.CLEAN)


_ORDER = (
    Verdict.UNCORRECTABLE,
    Verdict.UNKNOWN,
    Verdict.CORRECTABLE,
    Verdict.CORRECTED,
    Verdict.BELOW_FLOOR,
    Verdict.CLEAN,
)


_LINES = 20  # of findings, where a report is printed
_NAMED = 3  # protected words of one verdict, where all is said in one line
_WIDEST = 16  # bytes of a number; what has more is a block of several


@dataclass(frozen=True, repr=False)
class Change(Record):
    """One wrong element of a tensor.

    Attributes:
        tensor: its name.
        index: of the element.
        dtype: as safetensors names it.
        received: the bytes that were found, little-endian.
        original: the bytes that were protected.
        mask: which bits of the element that tells of, the others being zero here; 0 for all.
    """

    COLUMNS: ClassVar = ("tensor", "index", "dtype", "found", "original")

    tensor: str
    index: tuple[int, ...]
    dtype: str
    received: bytes
    original: bytes
    mask: int = 0

    def value(self, data: bytes) -> float | int | str:
        """``data`` (one of `received` and `original`) as a number.

        Hexadecimal text, if elements share bytes, are complex, or blocks of several numbers, or if
        this is some of their bits.

        >>> change = Change("w", (0,), "F32", bytes(4), bytes.fromhex("0000803f"))
        >>> change.value(change.received), change.value(change.original)
        (0.0, 1.0)
        """
        dtype = DTYPES.get(self.dtype)
        if self.mask or dtype is None or not dtype.is_number:
            return "0x" + data[::-1].hex()
        number: float | int = np.frombuffer(data, dtype.numpy)[0].item()
        return number

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; with both values as numbers, too, and a mask if there is one."""
        some = {"mask": f"{self.mask:#x}"} if self.mask else {}
        return some | {
            "tensor": self.tensor,
            "index": list(self.index),
            "dtype": self.dtype,
            "received": self.received.hex(),
            "original": self.original.hex(),
            "received_value": plain(self.value(self.received)),
            "original_value": plain(self.value(self.original)),
        }

    @property
    def row(self) -> tuple[str, ...]:
        """The change in a table with `COLUMNS`."""
        index = ", ".join(map(str, self.index))
        values = map(self._shown, (self.received, self.original))
        return self.tensor, index, self._kind, *values

    @property
    def _kind(self) -> str:
        """The dtype, and which bits."""
        return f"{self.dtype}, bits {self.mask:#x}" if self.mask else self.dtype

    def _shown(self, data: bytes) -> str:
        """One of both in a table: a number and its bytes, or what there is room for of a block."""
        value = self.value(data)
        return brief(str(value), most=60) if len(data) > _WIDEST else f"{value} ({data.hex()})"

    def __repr__(self) -> str:
        before, after = (brief(str(self.value(x))) for x in (self.received, self.original))
        where = f"{brief(self.tensor)}{brief(str(list(self.index)))}"
        return f"<Change: {where} {self._kind}, {before} instead of {after}>"


@dataclass(frozen=True, repr=False)
class WordOutcome(Record):
    """What was found in one protected word.

    Attributes:
        name: the tensor, or the first and last of several; with the elements and the bits, if it
            is not all of them: ``fc.weight[3] .. fc.bias[3]``.
        verdict: see `Verdict`.
        elements: number of elements it protects, or of which it protects some bits.
        changes: the wrong elements, if all of them are known; empty if uncorrectable.
        unexplained: number of checks that are wrong for an unknown reason.
        reason: why it is uncorrectable.
        proof: what proves `changes`: the ``sha256`` in the seal, or the ``sums`` of the code; empty
            if there are none.
    """

    COLUMNS: ClassVar = ("word", "verdict", "elements", "finding")

    name: str
    verdict: Verdict
    elements: int
    changes: Sequence[Change] = ()
    unexplained: int = 0
    reason: str = ""
    proof: Proof | Literal[""] = ""

    @property
    def finding(self) -> str:
        """What is or was wrong, in words; empty if nothing is."""
        if self.verdict is Verdict.UNCORRECTABLE:
            return f"uncorrectable: {self.reason}"
        if (done := _REPAIRED.get(self.verdict)) is None:
            return ""
        if not (count := len(self.changes)):
            return f"damaged blocks, {done}"
        return f"{counted(count, 'wrong element')}, {done}"

    @property
    def row(self) -> tuple[str, ...]:
        """The word in a table with `COLUMNS`."""
        return self.name, self.verdict.value, f"{self.elements:,}", self.finding or "-"

    def __repr__(self) -> str:
        found = brief(self.reason) if self.reason else f"{len(self.changes):,} wrong"
        name = brief(self.name)
        return f"<WordOutcome: {name} {self.verdict}, {self.elements} elements, {found}>"


_REPAIRED = {Verdict.CORRECTED: "corrected", Verdict.CORRECTABLE: "can be corrected"}
_RESTORED = {Verdict.CORRECTED: "restored", Verdict.CORRECTABLE: "can be restored"}


@dataclass(frozen=True, repr=False)
class FileOutcome(Record):
    """What was found in one file, and what was done about it; a live model is one without a path.

    Attributes:
        words: one outcome per protected word.
        path: of the file.
        carrier: where its redundancy lives.
        errors: number of wrong words that it is made to repair.
        elements: number of elements in the file. Of a live model those that its seal protects.
        covered: number of elements that are protected.
        seal: of the seal itself: clean, correctable, or corrected if it was written anew.
        header: of the header: clean, correctable, corrected or uncorrectable.
        frame: of the header and the length; uncorrectable if it is not known where the file ends,
            which is then left as it is.
        missing: bytes that are missing at the end.
        surplus: bytes that follow the end.
        unreadable: bytes that the disk did not give, as pairs of the first one and the one after
            the last.
        written: path of the repaired file; empty if none was written.
        ranges: the bytes of the blocks that are damaged beyond the budget, as pairs of the first
            one and the one after the last; what there is to be fetched from another copy.
        fetched: bytes that were fetched from other copies.
        problem: what is the matter with the file as a whole, in words: why it could not be looked
            at, or that it is probably another file by now; empty if there is nothing to say.
        note: what else there is to know, in words, and is no finding; or empty.
    """

    COLUMNS: ClassVar = ("file", "verdict", "elements covered", "findings")

    words: tuple[WordOutcome, ...]
    path: str = ""
    carrier: str = ""
    errors: int = 0
    elements: int = 0
    covered: int = 0
    seal: Verdict = Verdict.CLEAN
    header: Verdict = Verdict.CLEAN
    frame: Verdict = Verdict.CLEAN
    missing: int = 0
    surplus: int = 0
    unreadable: Sequence[tuple[int, int]] = ()
    written: str = ""
    ranges: Sequence[tuple[int, int]] = ()
    fetched: int = 0
    problem: str = ""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the words, the frame and the seal; `unknown` of a problem."""
        problem = Verdict.UNKNOWN if self.problem else Verdict.CLEAN
        return worst(*(word.verdict for word in self.words), self.frame, self.seal, problem)

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do; see `Verdict.ok`."""
        return self.verdict.ok

    @property
    def changes(self) -> tuple[Change, ...]:
        """All wrong elements that are known."""
        return tuple(_changes(self.words))

    @property
    def can_be_improved(self) -> bool:
        """Whether something that cannot be repaired as a whole has parts that can be put back."""
        known = {self.header, self.seal, *(word.verdict for word in self.words)}
        return self.verdict is Verdict.UNCORRECTABLE and Verdict.CORRECTABLE in known

    @property
    def findings(self) -> tuple[str, ...]:
        """What is or was wrong, in words; empty if the file is clean."""
        words = (self._of_word(word) for word in self.words if word.finding)
        found = (*self._of_the_file, *words, *self._of_other_copies, self.problem)
        return tuple(filter(None, found))

    @property
    def said(self) -> str:
        """`findings` and `note` in one line; of many words the first of each verdict, worst first,
        and how many more there are.

        >>> words = [WordOutcome(name, Verdict.UNCORRECTABLE, 5, reason="lost") for name in "abcde"]
        >>> FileOutcome((*words,)).said[24:]
        'b: uncorrectable: lost; c: uncorrectable: lost; 2 more protected words: uncorrectable'
        """
        found = list(self._of_the_file)
        for verdict in _ORDER:
            wrong = [word for word in self.words if word.finding and word.verdict is verdict]
            found += map(self._of_word, wrong[:_NAMED])
            if left := wrong[_NAMED:]:
                found.append(f"{counted(len(left), 'more protected word')}: {verdict}")
        return "; ".join(filter(None, (*found, *self._of_other_copies, self.problem, self.note)))

    @property
    def _of_the_file(self) -> list[str]:
        """What is or was wrong with its frame and its seal."""
        found = []
        for number, what in ((self.missing, "missing at"), (self.surplus, "too many after")):
            if number:
                lost = ", cannot be restored" if self.frame is Verdict.UNCORRECTABLE else ""
                found.append(f"{counted(number, 'byte')} {what} the end{lost}")
        if self.unreadable:
            size, where = _extent(self.unreadable)
            found.append(f"{size} in {where} cannot be read from the disk")
        for what, verdict in (("header", self.header), ("seal", self.seal)):
            if verdict is not Verdict.CLEAN:
                found.append(f"{what} damaged, {_RESTORED.get(verdict, 'cannot be restored')}")
        return found

    def _of_word(self, word: WordOutcome) -> str:
        return f"{word.name}: {word.finding}" if len(self.words) > 1 else word.finding

    @property
    def _of_other_copies(self) -> list[str]:
        """What has to come from other copies, and what came."""
        found = []
        if self.ranges:
            size, where = _extent(self.ranges)
            found.append(f"{size} in {where} can only come from another copy")
        if self.fetched:
            found.append(f"{counted(self.fetched, 'byte')} fetched from another copy")
        return found

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; `docs/reference.md` describes the keys."""
        record = super().as_dict()
        for which in ("missing", "surplus"):
            record[f"{which}_bytes"] = record.pop(which)
        words = record.pop("words")
        first = {"path": record.pop("path"), "verdict": self.verdict.value}
        return first | record | {"words": words}  # read by people, too: what may be long comes last

    @property
    def row(self) -> tuple[str, ...]:
        """The file in a table with `COLUMNS`."""
        covered = f"{self.covered:,} of {self.elements:,}" if self.carrier else "-"
        return self.path or "-", self.verdict.value, covered, self.said or "-"

    def __repr__(self) -> str:
        found = brief(self.said)
        return (
            f"<FileOutcome: {brief(self.path or 'model')} {self.verdict}{found and f', {found}'}>"
        )


@dataclass(frozen=True, repr=False)
class Report(Record):
    """What was found in a model or in files, and what was done.

    A check changes nothing. A repair has written the changes of every word whose verdict is
    `corrected`; words that are `uncorrectable` were left as found.

    Attributes:
        files: one outcome per file; of a live model just one, without a path.
        seconds: how long it took.
    """

    files: tuple[FileOutcome, ...]
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the files."""
        return worst(*(file.verdict for file in self.files))

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do; see `Verdict.ok`."""
        return self.verdict.ok

    @property
    def words(self) -> tuple[WordOutcome, ...]:
        """The protected words of all files."""
        return tuple(word for file in self.files for word in file.words)

    @property
    def changes(self) -> tuple[Change, ...]:
        """All wrong elements that are known."""
        return tuple(_changes(self.words))

    @property
    def elements(self) -> int:
        """Number of elements in all files."""
        return sum(file.elements for file in self.files)

    @property
    def covered(self) -> int:
        """Number of elements that are protected."""
        return sum(file.covered for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; `docs/reference.md` describes the keys."""
        seconds = round(self.seconds, 6)
        return {"verdict": self.verdict.value, **super().as_dict(), "seconds": seconds}

    def __repr__(self) -> str:
        has_files = any(file.path for file in self.files)
        files = f"{counted(len(self.files), 'file')}, " if has_files else ""
        what = f"{counted(len(self.words), 'protected word')} of {counted(self.covered, 'element')}"
        known = sum(len(word.changes) for word in self.words)
        wrong = f"{known:,} wrong"
        if any(word.verdict is Verdict.UNCORRECTABLE for word in self.words):
            wrong = f"more than {wrong}" if known else "unknown how many are wrong"
        bytes_ = sum(file.fetched for file in self.files)
        fetched = f", {counted(bytes_, 'byte')} fetched" if bytes_ else ""
        return f"<Report: {self.verdict}, {files}{what}, {wrong}{fetched}>"

    def __str__(self) -> str:
        """What was found, and a line for every finding; the worst first.

        >>> word = WordOutcome("fc.weight", Verdict.UNCORRECTABLE, 50, reason="too much damage")
        >>> print(Report((FileOutcome((word,), "a.bin"),)))
        <Report: uncorrectable, 1 file, 1 protected word of 0 elements, unknown how many are wrong>
        a.bin: uncorrectable: too much damage
        """
        lines = [
            f"{file.path}: {said}" if file.path else said
            for file in sorted(self.files, key=_severity)
            for said in (*file.findings, file.note)
            if said
        ]
        more = [f"... and {len(lines) - _LINES:,} more"] if len(lines) > _LINES else []
        return "\n".join([repr(self), *map(escaped, lines[:_LINES]), *more])

    def _repr_html_(self) -> str:
        """Tables of files, words and wrong elements for a notebook; the worst first."""
        files = sorted(self.files, key=_severity) if any(file.path for file in self.files) else []
        words = sorted(self.words, key=_severity)
        count = sum(len(word.changes) for word in words)
        tables = [
            html_table(kind.COLUMNS, (each.row for each in some), total)
            for kind, some, total in (
                (FileOutcome, files, len(files)),
                (WordOutcome, words, len(words)),
                (Change, _changes(words), count),
            )
            if total
        ]
        return f"<p>{self.verdict.value} ({self.seconds:.2f} s)</p>" + "".join(tables)


def _extent(ranges: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """How many bytes some ranges have, and how many ranges they are."""
    size, count = sum(end - begin for begin, end in ranges), len(ranges)
    return counted(size, "byte"), f"{count:,} ranges" if count > 1 else "one range"


def _severity(outcome: FileOutcome | WordOutcome) -> int:
    return _ORDER.index(outcome.verdict)


def _changes(words: Iterable[WordOutcome]) -> Iterable[Change]:
    return chain.from_iterable(word.changes for word in words)
