"""Outcomes, as frozen records: a value, a verdict and what it took to reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


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


@dataclass(frozen=True, eq=False, repr=False)
class Decoding:
    """What a decoder read out of one syndrome.

    Attributes:
        verdict: see `Verdict`.
        positions: (k,) int64, increasing: the wrong words.
        values: (k,), the damage at each position, received minus original: int64 where arithmetic
            is exact, float64 where it is not. Subtract it to repair. Empty if uncorrectable.
        unexplained: number of checks that the damage found so far does not explain.
        floor: errors smaller than this cannot be told from noise; 0 for exact arithmetic.
        steps: how often each stage of the decoder made progress, by its name.
    """

    verdict: Verdict
    positions: NDArray[np.int64]
    values: NDArray[Any]
    unexplained: int = 0
    floor: float = 0.0
    steps: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        found, left = len(self.positions), self.unexplained
        return f"<Decoding: {self.verdict}, {found} wrong words, {left} checks unexplained>"


@dataclass(frozen=True)
class Change:
    """One wrong element of a tensor.

    Attributes:
        tensor: its name.
        index: of the element.
        dtype: as safetensors names it.
        received: the bytes that were found, little-endian.
        original: the bytes that were protected.
    """

    tensor: str
    index: tuple[int, ...]
    dtype: str
    received: bytes
    original: bytes

    def value(self, data: bytes) -> float | int | str:
        """``data`` (one of `received` and `original`) as a number; hexadecimal for exotic dtypes.

        >>> change = Change("w", (0,), "F32", bytes(4), bytes.fromhex("0000803f"))
        >>> change.value(change.received), change.value(change.original)
        (0.0, 1.0)
        """
        if self.dtype == "BF16":
            return float(np.frombuffer(b"\0\0" + data, "<f4")[0])
        if self.dtype not in _NUMBERS:
            return "0x" + data[::-1].hex()
        number: float | int = np.frombuffer(data, _NUMBERS[self.dtype])[0].item()
        return number


_NUMBERS = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "BOOL": "?",
}


@dataclass(frozen=True, repr=False)
class TrainingEvent:
    """Something that was wrong in a training run.

    Attributes:
        kind: ``repaired`` (elements were put back: bit for bit by `parimend.heal_`, to within what
            a step moves by a constraint); ``skipped`` (a gradient was wrong, or may have been, and
            its step was not taken); ``redone`` (so it was computed again, by the closure that
            ``step`` got); ``unexplained`` (a step moved the weights much farther than those before
            it, and no few weights explain it); ``accepted`` (what seemed wrong came again and
            again, so the run has changed); ``unwatched`` (something is not looked after any more).
        step: number of optimizer steps taken before.
        reason: in words.
        changes: every element that was put back.
    """

    kind: Literal["repaired", "skipped", "redone", "unexplained", "accepted", "unwatched"]
    step: int
    reason: str
    changes: tuple[Change, ...] = ()

    def __repr__(self) -> str:
        found = f"{len(self.changes)} elements: {brief(self.reason)}"
        return f"<TrainingEvent: {self.kind} in step {self.step}, {found}>"


@dataclass(frozen=True, repr=False)
class WordOutcome:
    """What was found in one protected word.

    Attributes:
        name: the tensor, or the first and last of several.
        verdict: see `Verdict`.
        elements: number of elements it protects.
        changes: the wrong elements, if all of them are known; empty if uncorrectable.
        unexplained: number of checks that are wrong for an unknown reason.
        reason: why it is uncorrectable.
    """

    name: str
    verdict: Verdict
    elements: int
    changes: Sequence[Change] = ()
    unexplained: int = 0
    reason: str = ""

    def __repr__(self) -> str:
        found = brief(self.reason) if self.reason else f"{len(self.changes)} wrong"
        name = brief(self.name)
        return f"<WordOutcome: {name} {self.verdict}, {self.elements} elements, {found}>"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What a check found; nothing was changed.

    Attributes:
        words: one outcome per protected word.
        seconds: how long it took.
    """

    words: tuple[WordOutcome, ...]
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the words."""
        return worst(*(word.verdict for word in self.words))

    @property
    def changes(self) -> tuple[Change, ...]:
        """All wrong elements that are known."""
        return tuple(change for word in self.words for change in word.changes)

    @property
    def elements(self) -> int:
        """Number of elements that were covered."""
        return sum(word.elements for word in self.words)

    def __repr__(self) -> str:
        name, changes = type(self).__name__, sum(len(word.changes) for word in self.words)
        found = f"{len(self.words)} words of {self.elements} elements, {changes} wrong"
        return f"<{name}: {self.verdict}, {found}>"


@dataclass(frozen=True, repr=False)
class Repair(Diagnosis):
    """What a repair found and did: `Diagnosis.changes` were written where the verdict of their word
    is `corrected`; words that are `uncorrectable` were left as found.
    """


@dataclass(frozen=True, repr=False)
class FileReport:
    """What was found in one file, and what was done about it.

    Attributes:
        path: of the file.
        outcome: of its protected words: a `Diagnosis`, or a `Repair`.
        carrier: where its redundancy lives.
        errors: number of wrong words that it is made to repair.
        elements: number of elements in the file; `Diagnosis.elements` says how many are protected.
        seal: of the seal itself: clean, correctable, or corrected if it was written anew.
        header: of the header: clean, correctable, corrected or uncorrectable.
        frame: of the header and the length; uncorrectable if it is not known where the file ends,
            which is then left as it is.
        missing: bytes that are missing at the end.
        surplus: bytes that follow the end.
        written: path of the repaired file; empty if none was written.
        problem: what is the matter with the file as a whole, in words: why it could not be looked
            at, or that it is probably another file by now; empty if there is nothing to say.
    """

    path: str
    outcome: Diagnosis
    carrier: str
    errors: int
    elements: int
    seal: Verdict = Verdict.CLEAN
    header: Verdict = Verdict.CLEAN
    frame: Verdict = Verdict.CLEAN
    missing: int = 0
    surplus: int = 0
    written: str = ""
    problem: str = ""

    @classmethod
    def unknown(cls, path: str, problem: str) -> FileReport:
        """Of a file that could not be looked at."""
        return cls(path, Diagnosis(()), carrier="", errors=0, elements=0, problem=problem)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the words, the frame and the seal; `unknown` of a problem."""
        problem = Verdict.UNKNOWN if self.problem else Verdict.CLEAN
        return worst(self.outcome.verdict, self.frame, self.seal, problem)

    @property
    def can_be_improved(self) -> bool:
        """Whether something that cannot be repaired as a whole has parts that can be put back."""
        known = {self.header, self.seal, *(word.verdict for word in self.outcome.words)}
        return self.verdict is Verdict.UNCORRECTABLE and Verdict.CORRECTABLE in known

    @property
    def findings(self) -> tuple[str, ...]:
        """What is or was wrong, in words; empty if the file is clean."""
        found = []
        done = {Verdict.CORRECTED: "restored", Verdict.CORRECTABLE: "can be restored"}
        for number, what in ((self.missing, "missing at"), (self.surplus, "too many after")):
            if number:
                lost = ", cannot be restored" if self.frame is Verdict.UNCORRECTABLE else ""
                found.append(f"{number} bytes {what} the end{lost}")
        if self.header is not Verdict.CLEAN:
            found.append(f"header damaged, {done.get(self.header, 'cannot be restored')}")
        if self.seal is not Verdict.CLEAN:
            found.append(f"seal damaged, {done.get(self.seal, 'cannot be restored')}")
        done |= {Verdict.CORRECTED: "corrected", Verdict.CORRECTABLE: "can be corrected"}
        for word in self.outcome.words:
            if word.verdict in done:
                count = len(word.changes)
                text = f"{count} wrong element{'s' * (count != 1)}, {done[word.verdict]}"
            elif word.verdict is Verdict.UNCORRECTABLE:
                text = f"uncorrectable: {word.reason}"
            else:
                continue
            found.append(f"{word.name}: {text}" if len(self.outcome.words) > 1 else text)
        if self.problem:
            found.append(self.problem)
        return tuple(found)

    def __repr__(self) -> str:
        found = brief("; ".join(self.findings))
        return f"<FileReport: {brief(self.path)} {self.verdict}{found and f', {found}'}>"


@dataclass(frozen=True, repr=False)
class Report:
    """What was found in the files of a model.

    Attributes:
        files: one report per file.
        seconds: how long it took.
    """

    files: tuple[FileReport, ...]
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the files."""
        return worst(*(file.verdict for file in self.files))

    @property
    def changes(self) -> tuple[Change, ...]:
        """All wrong elements that are known."""
        return tuple(change for file in self.files for change in file.outcome.changes)

    def __repr__(self) -> str:
        wrong = sum(not file.verdict.ok for file in self.files)
        return f"<Report: {self.verdict}, {len(self.files)} files, {wrong} with open findings>"


def worst(*verdicts: Verdict) -> Verdict:
    """The one that leaves most to do.

    >>> worst(Verdict.CORRECTED, Verdict.CLEAN).value
    'corrected'
    """
    order = (
        Verdict.UNCORRECTABLE,
        Verdict.UNKNOWN,
        Verdict.CORRECTABLE,
        Verdict.CORRECTED,
        Verdict.BELOW_FLOOR,
    )
    return next((verdict for verdict in order if verdict in verdicts), Verdict.CLEAN)


def brief(text: str, most: int = 100) -> str:
    """A text for a `repr`, on one line, its middle left out where it is long.

    >>> brief("a" * 1000, most=9)
    'aaa...aaa'
    """
    shown = text if text.isprintable() else ascii(text)[1:-1]
    half = (most - 3) // 2
    return shown if len(shown) <= most else f"{shown[:half]}...{shown[-half:]}"
