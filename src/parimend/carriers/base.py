"""Sealed words compared with tensors: diagnosed, repaired, proven by their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby, islice
from operator import itemgetter

import numpy as np

from parimend.carriers.carrier import Progress, carrier_of
from parimend.carriers.finding import Changes, Finding
from parimend.errors import MismatchError
from parimend.outcomes import FileOutcome, Verdict, WordOutcome
from parimend.seal import CheckedWord, Seal, SealedWord
from parimend.stores.base import Tensors, subparts
from parimend.words.layout import Word

LOOKS = 4
"""How often a word is looked at whose bytes change while they are being decoded."""

_NOT_HELD = "the memory does not hold what is written to it"
_CHANGING = "it changes while it is being repaired"
_WRITTEN = 1 << 14  # elements that are put back together


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


def sha256_of(word: Word, tensors: Tensors, finding: Finding | None = None) -> bytes:
    """SHA-256 of the word's bytes, with the elements of ``finding`` replaced by the originals."""
    digest = hashlib.sha256()
    fixes = iter(finding.elements if finding else ())
    fix = next(fixes, None)
    for number, part in enumerate(word):
        size = part.itemsize
        for piece in subparts(part):
            data = tensors.read(piece)
            first = piece.start - part.start
            if fix and (number, first) <= fix[:2] < (number, first + piece.count):
                data = data.copy()
            while fix and fix[:2] < (number, first + piece.count):
                at = (fix[1] - first) * size
                data[at : at + size] = np.frombuffer(fix[3], np.uint8)
                fix = next(fixes, None)
            digest.update(data.data)
    return digest.digest()


def find(word: SealedWord, tensors: Tensors, looks: int = LOOKS) -> Finding:
    """Decode one word. What can be corrected is proven by the SHA-256 of the result.

    What cannot be is looked at again where it may just have been changing, ``looks`` times in all.
    """
    carrier = carrier_of(word.code)
    finding = proven(carrier.find(word, tensors), word, tensors)
    if tensors.live and finding.verdict is Verdict.UNCORRECTABLE:
        with tensors.lock:
            for _ in range(looks - 1):
                before, finding = finding, proven(carrier.find(word, tensors), word, tensors)
                if finding == before or finding.verdict is not Verdict.UNCORRECTABLE:
                    break
    return finding


Find = Callable[[SealedWord, Tensors], Finding]


def proven(finding: Finding, word: SealedWord, tensors: Tensors) -> Finding:
    """The finding, if correcting it leads to the sealed SHA-256."""
    if (
        finding.verdict is Verdict.CORRECTABLE
        and sha256_of(word.word, tensors, finding) != word.sha256
    ):
        return Finding(Verdict.UNCORRECTABLE, reason="the SHA-256 of the result is not as sealed")
    return finding


def outcome_of(word: CheckedWord, finding: Finding, verdict: Verdict | None = None) -> WordOutcome:
    """A finding as a record; ``verdict`` is what is true after a repair."""
    return WordOutcome(
        name=word.name,
        verdict=verdict or finding.verdict,
        elements=word.word.elements,
        changes=Changes(word.parts, finding.elements) if finding.elements else (),
        unexplained=finding.unexplained,
        reason=finding.reason,
    )


def diagnose(
    seal: Seal,
    tensors: Tensors,
    progress: Progress = lambda elements: None,
    find: Find = find,
) -> FileOutcome:
    """Check every sealed word; nothing is changed.

    Args:
        seal: what was protected, and how.
        tensors: where they are now.
        progress: called with the number of elements of every word that is done.
        find: decodes a word, where that has been done already.

    Raises:
        MismatchError: if the seal does not fit the tensors.
    """
    return _each(seal, tensors, lambda word: outcome_of(word, find(word, tensors)), progress)


def repair_(
    seal: Seal,
    tensors: Tensors,
    progress: Progress = lambda elements: None,
    find: Find = find,
) -> FileOutcome:
    """Check every sealed word and put back what is wrong and known; see `diagnose`.

    A word is written only after the SHA-256 of the result was found to be the sealed one, and is
    read again afterwards. What cannot be repaired is left as it was found.
    """
    return _each(
        seal, tensors, lambda word: outcome_of(word, *repair_word_(word, tensors, find)), progress
    )


def _each(
    seal: Seal,
    tensors: Tensors,
    look: Callable[[SealedWord], WordOutcome],
    progress: Progress,
) -> FileOutcome:
    """What ``look`` says of every word."""
    require_match(seal, tensors)
    words = []
    for word in seal.words:
        words.append(look(word))
        progress(words[-1].elements)
    return FileOutcome(
        tuple(words),
        carrier=seal.carrier,
        errors=seal.errors,
        elements=seal.covered,
        covered=seal.covered,
    )


def repair_word_(word: SealedWord, tensors: Tensors, find: Find = find) -> tuple[Finding, Verdict]:
    """Put one word right, or leave it as it was found.

    Where something else in the word changes meanwhile, it is looked at again.

    Returns:
        What was found, and what is true now.
    """
    written: list[Finding] = []
    with tensors.lock:
        for _ in range(LOOKS):
            finding = find(word, tensors)
            if finding.verdict is Verdict.CORRECTABLE:
                write_finding(word, finding, tensors)
                written.append(finding)
            elif finding.verdict is not Verdict.CLEAN or not written:
                break
            if sha256_of(word.word, tensors) == word.sha256:
                return _merged(written), Verdict.CORRECTED
            if not holds(word, written[-1], tensors):
                finding = Finding(Verdict.UNCORRECTABLE, reason=_NOT_HELD)
                break
            finding = Finding(Verdict.UNCORRECTABLE, reason=_CHANGING)
        for each in reversed(written):
            write_finding(word, each, tensors, back=True)
    return finding, finding.verdict


def _merged(findings: Sequence[Finding]) -> Finding:
    """Several repairs of a word as one: what was found first, and what is there now."""
    if len(findings) == 1:
        return findings[0]
    first = dict[tuple[int, int], bytes]()
    last = dict[tuple[int, int], bytes]()
    for number, offset, received, original in (e for f in findings for e in f.elements):
        first.setdefault((number, offset), received)
        last[number, offset] = original
    return Finding(Verdict.CORRECTABLE, [(*at, first[at], last[at]) for at in sorted(first)])


def holds(word: CheckedWord, finding: Finding, tensors: Tensors) -> bool:
    """Whether the right bytes of a finding are in their places."""
    for number, offset, _, original in finding.elements:
        part = word.parts[number]
        now = tensors.read(replace(part, start=part.start + offset, count=1))
        if now.tobytes() != original:
            return False
    return True


def write_finding(
    word: CheckedWord, finding: Finding, tensors: Tensors, *, back: bool = False
) -> None:
    """Put the right bytes of a finding into their places, or ``back`` those that were found."""
    which = itemgetter(2 if back else 3)
    for number, mine in groupby(finding.elements, key=itemgetter(0)):
        while some := list(islice(mine, _WRITTEN)):
            offsets = np.array([offset for _, offset, _, _ in some], np.int64)
            values = np.frombuffer(b"".join(map(which, some)), np.uint8)
            tensors.write(word.parts[number], offsets, values.reshape(len(some), -1))
