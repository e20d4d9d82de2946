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
    floor.
    """

    CLEAN = "clean"
    CORRECTABLE = "correctable"
    CORRECTED = "corrected"
    UNCORRECTABLE = "uncorrectable"
    BELOW_FLOOR = "below_floor"

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do: not `correctable` (yet) and not `uncorrectable`."""
        return self not in (Verdict.CORRECTABLE, Verdict.UNCORRECTABLE)


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True)
class TrainingEvent:
    """Something that was wrong in a training run.

    Attributes:
        kind: ``repaired`` (elements were put back: bit for bit by `parimend.heal_`, to within what
            a step moves by a constraint); ``skipped`` (a gradient was wrong, or may have been, and
            its step was not taken); ``redone`` (so it was computed again, by the closure that
            ``step`` got); ``unexplained`` (a step moved the weights much farther than those before
            it, and no few weights explain it).
        step: number of optimizer steps taken before.
        reason: in words.
        changes: every element that was put back.
    """

    kind: Literal["repaired", "skipped", "redone", "unexplained"]
    step: int
    reason: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Repair(Diagnosis):
    """What a repair found and did: `Diagnosis.changes` were written where the verdict of their word
    is `corrected`; words that are `uncorrectable` were left as found.
    """


@dataclass(frozen=True)
class FileReport:
    """What was found in one file, and what was done about it.

    Attributes:
        path: of the file.
        outcome: of its protected words: a `Diagnosis`, or a `Repair`.
        carrier: where its redundancy lives.
        errors: number of wrong words that it is made to repair.
        elements: number of elements in the file; `Diagnosis.elements` says how many are protected.
        seal: of the seal itself: clean, correctable, or corrected if it was written anew.
        frame: of the header and the length: clean, correctable, corrected or uncorrectable.
        missing: bytes that are missing at the end.
        surplus: bytes that follow the end.
        written: path of the repaired file; empty if none was written.
    """

    path: str
    outcome: Diagnosis
    carrier: str
    errors: int
    elements: int
    seal: Verdict = Verdict.CLEAN
    frame: Verdict = Verdict.CLEAN
    missing: int = 0
    surplus: int = 0
    written: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the words, the frame and the seal."""
        return worst(self.outcome.verdict, self.frame, self.seal)

    @property
    def findings(self) -> tuple[str, ...]:
        """What is or was wrong, in words; empty if the file is clean."""
        found = []
        done = {Verdict.CORRECTED: "restored", Verdict.CORRECTABLE: "can be restored"}
        for number, what in ((self.missing, "missing at"), (self.surplus, "too many after")):
            if number:
                lost = ", cannot be restored" if self.frame is Verdict.UNCORRECTABLE else ""
                found.append(f"{number} bytes {what} the end{lost}")
        if self.frame is not Verdict.CLEAN and not found:
            found.append(f"header damaged, {done.get(self.frame, 'cannot be restored')}")
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
        return tuple(found)


@dataclass(frozen=True)
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


def worst(*verdicts: Verdict) -> Verdict:
    """The one that leaves most to do.

    >>> worst(Verdict.CORRECTED, Verdict.CLEAN).value
    'corrected'
    """
    order = (Verdict.UNCORRECTABLE, Verdict.CORRECTABLE, Verdict.CORRECTED, Verdict.BELOW_FLOOR)
    return next((verdict for verdict in order if verdict in verdicts), Verdict.CLEAN)
