"""What all carriers share: tensors wherever they live, diagnosis and repair of sealed words."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from parimend.errors import MismatchError
from parimend.records import Change, Diagnosis, Repair, Verdict, WordOutcome
from parimend.seal import Seal, SealedWord
from parimend.words.bits import item_size
from parimend.words.layout import Part

CHUNK = 1 << 22
"""Bytes that are looked at together, a multiple of 64."""


class Tensors(Protocol):
    """Named tensors, wherever they live: in a model, a state dict or a file."""

    def whole(self) -> Sequence[Part]:
        """Every tensor as one part, in a stable order."""

    def read(self, part: Part) -> NDArray[np.uint8]:
        """The bytes of a part, row-major, little-endian: (count * item size,)."""

    def write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        """Set elements of a part: (k,) offsets in the part (None: all), (k, item size) bytes."""


@runtime_checkable
class Live(Tensors, Protocol):
    """Tensors that several threads of this process read and write at the same time."""

    lock: Any
    """Re-entrant; held by whoever puts weights back, from locating them to proving the result."""


class Finding(NamedTuple):
    """What a carrier read out of one word: the verdict, and the right bytes of wrong elements.

    ``elements`` holds (part number, offset in the part, received, original).
    """

    verdict: Verdict
    elements: Sequence[tuple[int, int, bytes, bytes]] = ()
    unexplained: int = 0
    reason: str = ""


def subparts(part: Part, step: int | None = None) -> Iterator[Part]:
    """Cut a part into pieces of at most ``step`` elements, by default `CHUNK` bytes."""
    step = CHUNK // item_size(part.dtype) if step is None else step
    for start in range(0, part.count, step):
        yield replace(part, start=part.start + start, count=min(step, part.count - start))


def require_match(seal: Seal, tensors: Tensors) -> None:
    """Check that every sealed tensor is there with its shape and dtype.

    Raises:
        MismatchError: names the first tensor that is not, and both shapes.
    """
    present = {part.name: part for part in tensors.whole()}
    for word in seal.words:
        for part in word.parts:
            found = present.get(part.name)
            if found is None:
                raise MismatchError(
                    f"the seal protects {part.name}, which is not there: use the seal that was "
                    "made for this model"
                )
            if (found.shape, found.dtype) != (part.shape, part.dtype):
                raise MismatchError(
                    f"{part.name} is {found.dtype} {list(found.shape)}, but the seal was made for "
                    f"{part.dtype} {list(part.shape)}: use the seal that belongs to this model"
                )


def sha256_of(word: SealedWord, tensors: Tensors, finding: Finding | None = None) -> bytes:
    """SHA-256 of the word's bytes, with the elements of ``finding`` replaced by the originals."""
    digest = hashlib.sha256()
    replaced: dict[int, list[tuple[int, bytes]]] = {}
    for number, offset, _, original in finding.elements if finding else ():
        replaced.setdefault(number, []).append((offset, original))
    for number, part in enumerate(word.parts):
        fixes = sorted(replaced.get(number, []))
        size = item_size(part.dtype)
        at = 0
        for piece in subparts(part):
            data = tensors.read(piece)
            end = at + piece.count
            inside = [(offset - at, value) for offset, value in fixes if at <= offset < end]
            if inside:
                data = data.copy()
                for offset, value in inside:
                    data[offset * size : (offset + 1) * size] = np.frombuffer(value, np.uint8)
            digest.update(data.data)
            at = end
    return digest.digest()


LOOKS = 4
"""How often a word is looked at whose bytes change while they are being decoded."""


def find(word: SealedWord, tensors: Tensors) -> Finding:
    """Decode one word. What can be corrected is proven by the SHA-256 of the result.

    What cannot be is looked at again where it may just have been changing.
    """
    from parimend.carriers import lowbits, real, sidecar

    carriers: dict[str, Find]
    carriers = {"sparse": real.find, "lowbits": lowbits.find, "modular": sidecar.find}
    carrier = carriers[word.code.family]
    finding = proven(carrier(word, tensors), word, tensors)
    if isinstance(tensors, Live) and finding.verdict is Verdict.UNCORRECTABLE:
        with tensors.lock:
            for _ in range(LOOKS - 1):
                before, finding = finding, proven(carrier(word, tensors), word, tensors)
                if finding == before or finding.verdict is not Verdict.UNCORRECTABLE:
                    break
    return finding


def proven(finding: Finding, word: SealedWord, tensors: Tensors) -> Finding:
    """The finding, if correcting it leads to the sealed SHA-256."""
    if finding.verdict is Verdict.CORRECTABLE and sha256_of(word, tensors, finding) != word.sha256:
        return Finding(Verdict.UNCORRECTABLE, reason="the SHA-256 of the result is not as sealed")
    return finding


Find = Callable[[SealedWord, Tensors], Finding]


def outcome_of(word: SealedWord, finding: Finding, verdict: Verdict | None = None) -> WordOutcome:
    """A finding as a record."""
    changes = tuple(
        Change(part.name, part.index(offset), part.dtype, received, original)
        for number, offset, received, original in finding.elements
        for part in (word.parts[number],)
    )
    return WordOutcome(
        name=word.name,
        verdict=verdict or finding.verdict,
        elements=sum(part.count for part in word.parts),
        changes=changes,
        unexplained=finding.unexplained,
        reason=finding.reason,
    )


def diagnose(
    seal: Seal,
    tensors: Tensors,
    progress: Callable[[int], None] = lambda elements: None,
    find: Find = find,
) -> Diagnosis:
    """Check every sealed word; nothing is changed.

    Args:
        seal: what was protected, and how.
        tensors: where they are now.
        progress: called with the number of elements of every word that is done.
        find: decodes a word, where that takes more than reading it.

    Raises:
        MismatchError: if the seal does not fit the tensors.
    """
    began = time.perf_counter()
    require_match(seal, tensors)
    outcomes = []
    for word in seal.words:
        outcomes.append(outcome_of(word, find(word, tensors)))
        progress(outcomes[-1].elements)
    return Diagnosis(tuple(outcomes), time.perf_counter() - began)


def repair_(
    seal: Seal,
    tensors: Tensors,
    progress: Callable[[int], None] = lambda elements: None,
    find: Find = find,
) -> Repair:
    """Check every sealed word and put back what is wrong and known; see `diagnose`.

    A word is written only after the SHA-256 of the result was found to be the sealed one, and is
    read again afterwards. What cannot be repaired is left as it was found.
    """
    began = time.perf_counter()
    require_match(seal, tensors)
    outcomes = []
    for word in seal.words:
        outcomes.append(outcome_of(word, *repair_word_(word, tensors, find)))
        progress(outcomes[-1].elements)
    return Repair(tuple(outcomes), time.perf_counter() - began)


def repair_word_(word: SealedWord, tensors: Tensors, find: Find = find) -> tuple[Finding, Verdict]:
    """Put one word right, or leave it as it was found.

    Where something else in the word changes meanwhile, it is looked at again.

    Returns:
        What was found, and what is true now.
    """
    written: list[Finding] = []
    with _alone(tensors):
        for _ in range(LOOKS):
            finding = find(word, tensors)
            if finding.verdict is Verdict.CORRECTABLE:
                write_finding(word, finding, tensors)
                written.append(finding)
            elif finding.verdict is not Verdict.CLEAN or not written:
                break
            if sha256_of(word, tensors) == word.sha256:
                return _merged(written), Verdict.CORRECTED
            if not holds(word, written[-1], tensors):
                finding = Finding(Verdict.UNCORRECTABLE, reason=_NOT_HELD)
                break
            finding = Finding(Verdict.UNCORRECTABLE, reason=_CHANGING)
        for each in reversed(written):
            write_finding(word, each, tensors, back=True)
    return finding, finding.verdict


_NOT_HELD = "the memory does not hold what is written to it"
_CHANGING = "it changes while it is being repaired"


def _alone(tensors: Tensors) -> AbstractContextManager[Any]:
    """Keeps other threads from repairing."""
    return tensors.lock if isinstance(tensors, Live) else nullcontext()


def _merged(findings: Sequence[Finding]) -> Finding:
    """Several repairs of a word as one: what was found first, and what is there now."""
    first = dict[tuple[int, int], bytes]()
    last = dict[tuple[int, int], bytes]()
    for number, offset, received, original in (e for f in findings for e in f.elements):
        first.setdefault((number, offset), received)
        last[number, offset] = original
    return Finding(Verdict.CORRECTABLE, [(*at, first[at], last[at]) for at in sorted(first)])


def holds(word: SealedWord, finding: Finding, tensors: Tensors) -> bool:
    """Whether the right bytes of a finding are in their places."""
    for number, offset, _, original in finding.elements:
        part = word.parts[number]
        now = tensors.read(replace(part, start=part.start + offset, count=1))
        if now.tobytes() != original:
            return False
    return True


def write_finding(
    word: SealedWord, finding: Finding, tensors: Tensors, *, back: bool = False
) -> None:
    """Put the right bytes of a finding into their places, or ``back`` those that were found."""
    for number, part in enumerate(word.parts):
        mine = [(e[1], e[2] if back else e[3]) for e in finding.elements if e[0] == number]
        if mine:
            offsets = np.array([offset for offset, _ in mine], np.int64)
            values = np.frombuffer(b"".join(value for _, value in mine), np.uint8)
            tensors.write(part, offsets, values.reshape(len(mine), -1))
