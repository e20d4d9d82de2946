"""What all carriers share: tensors wherever they live, diagnosis and repair of sealed words."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from operator import eq, itemgetter
from typing import NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from parimend.errors import MismatchError
from parimend.records import Change, Diagnosis, Repair, Verdict, WordOutcome
from parimend.seal import Seal, SealedWord
from parimend.words.bits import item_size
from parimend.words.layout import Part

CHUNK = 1 << 22
"""Bytes that are looked at together, a multiple of 64."""


_WRITTEN = 1 << 14  # elements that are put back together


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


Element = tuple[int, int, bytes, bytes]
"""A wrong element: (part number, offset in the part, received, original)."""


class Elements(Sequence[Element]):
    """Many wrong elements, in little memory; added in the order of parts and offsets."""

    def __init__(self) -> None:
        self._places = array("q")  # part numbers, offsets and ends in turn
        self._received, self._original = bytearray(), bytearray()

    def add(self, number: int, offset: int, received: bytes, original: bytes) -> None:
        """Add an element; the other half of the last one, if it is the same."""
        if len(self) and (number, offset) == (self._places[-3], self._places[-2]):
            *_, before = self[-1]
            pairs = zip(original, received, before, strict=True)
            self._original[-len(before) :] = bytes(n if n != o else b for n, o, b in pairs)
            return
        self._received += received
        self._original += original
        self._places.extend((number, offset, len(self._received)))

    def __len__(self) -> int:
        return len(self._places) // 3

    @overload
    def __getitem__(self, i: int) -> Element: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Element]: ...
    def __getitem__(self, i: int | slice) -> Element | Sequence[Element]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        i = range(len(self))[i]
        number, offset, end = self._places[3 * i : 3 * i + 3]
        begin = self._places[3 * i - 1] if i else 0
        return number, offset, bytes(self._received[begin:end]), bytes(self._original[begin:end])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


class Finding(NamedTuple):
    """What a carrier read out of one word: the verdict, and the right bytes of wrong elements.

    ``elements`` are in the order of parts and offsets.
    """

    verdict: Verdict
    elements: Sequence[Element] = ()
    unexplained: int = 0
    reason: str = ""


def subparts(part: Part, step: int | None = None) -> Iterator[Part]:
    """Cut a part into pieces of at most ``step`` elements, by default `CHUNK` bytes."""
    step = CHUNK // item_size(part.dtype) if step is None else step
    if part.count <= step:
        yield part  # the usual case, and much faster
        return
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
    fixes = iter(finding.elements if finding else ())
    fix = next(fixes, None)
    for number, part in enumerate(word.parts):
        size = item_size(part.dtype)
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


def find(word: SealedWord, tensors: Tensors) -> Finding:
    """Decode one word. What can be corrected is proven by the SHA-256 of the result."""
    from parimend.carriers import lowbits, real, sidecar

    carriers: dict[str, Find]
    carriers = {"sparse": real.find, "lowbits": lowbits.find, "modular": sidecar.find}
    return proven(carriers[word.code.family](word, tensors), word, tensors)


def proven(finding: Finding, word: SealedWord, tensors: Tensors) -> Finding:
    """The finding, if correcting it leads to the sealed SHA-256."""
    if finding.verdict is Verdict.CORRECTABLE and sha256_of(word, tensors, finding) != word.sha256:
        return Finding(Verdict.UNCORRECTABLE, reason="the SHA-256 of the result is not as sealed")
    return finding


Find = Callable[[SealedWord, Tensors], Finding]


class Changes(Sequence[Change]):
    """Wrong elements as records, each of which is made when it is asked for: they may be many."""

    def __init__(self, parts: Sequence[Part], elements: Sequence[Element]) -> None:
        self._parts, self._elements = parts, elements

    def __len__(self) -> int:
        return len(self._elements)

    @overload
    def __getitem__(self, i: int) -> Change: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Change]: ...
    def __getitem__(self, i: int | slice) -> Change | Sequence[Change]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        number, offset, received, original = self._elements[i]
        part = self._parts[number]
        return Change(part.name, part.index(offset), part.dtype, received, original)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))


def outcome_of(word: SealedWord, finding: Finding, verdict: Verdict | None = None) -> WordOutcome:
    """A finding as a record."""
    return WordOutcome(
        name=word.name,
        verdict=verdict or finding.verdict,
        elements=sum(part.count for part in word.parts),
        changes=Changes(word.parts, finding.elements) if finding.elements else (),
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
    read again afterwards. What cannot be repaired is left as it is.
    """
    began = time.perf_counter()
    require_match(seal, tensors)
    outcomes = []
    for word in seal.words:
        finding = find(word, tensors)
        verdict = finding.verdict
        if verdict is Verdict.CORRECTABLE:
            write_finding(word, finding, tensors)
            verdict = Verdict.CORRECTED
            if sha256_of(word, tensors) != word.sha256:
                verdict = Verdict.UNCORRECTABLE
                finding = Finding(verdict, reason="the memory does not hold what is written to it")
        outcomes.append(outcome_of(word, finding, verdict))
        progress(outcomes[-1].elements)
    return Repair(tuple(outcomes), time.perf_counter() - began)


def write_finding(word: SealedWord, finding: Finding, tensors: Tensors) -> None:
    """Put the right bytes of a finding into their places."""
    for number, mine in groupby(finding.elements, key=itemgetter(0)):
        while some := list(islice(mine, _WRITTEN)):
            offsets = np.array([offset for _, offset, _, _ in some], np.int64)
            values = np.frombuffer(b"".join(original for *_, original in some), np.uint8)
            tensors.write(word.parts[number], offsets, values.reshape(len(some), -1))
