"""What is not there of a file, as its disk does not give it or its end is missing: parts of words,
and bytes that nobody knows.

Zeros stand for it, see `parimend.regular.Salvaged`, and may even be what was there: a file with
unreadable bytes is never clean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from parimend.carriers.base import Search, find, proven
from parimend.carriers.finding import Finding, Place
from parimend.carriers.together import Clean
from parimend.files.blocks import Range, without
from parimend.outcomes import Verdict
from parimend.seal import SealedWord
from parimend.stores.base import Tensors
from parimend.stores.file import FileTensors
from parimend.words.bits import WORD


def places(word: SealedWord, tensors: FileTensors) -> Iterator[Place]:
    """Where a word is not there."""
    for number, part in enumerate(word.parts):
        for begin, end in tensors.absent(part):
            yield from (Place(number, at) for at in range(begin // WORD, -(-end // WORD)))


def erasures(word: SealedWord, places: Iterable[Place]) -> list[Place]:
    """Places that are few enough to be erasures, which cost half of what other errors do."""
    few = set[Place]()
    for place in places if word.code.erasures else ():
        few.add(place)
        if len(few) == word.code.m:
            return []
    return sorted(few)


def confirmed(finding: Finding, word: SealedWord, tensors: Tensors) -> Finding:
    """What was found in a word of which something was lost: that it is clean has to be proven, as
    what is there now (zeros, or what another copy has) may be what was there.
    """
    if finding.verdict is Verdict.CLEAN:
        return proven(Finding(Verdict.CORRECTABLE), word, tensors)
    return finding


def salvaging(search: Search, file: FileTensors) -> Search:
    """A search in the tensors of a file, or what was read of them, that may not be there
    everywhere.
    """

    def is_lost(word: SealedWord) -> bool:
        return bool(file.unreadable_bytes) and any(map(file.unreadable, word.parts))

    def find_all(word: SealedWord, tensors: Tensors) -> Finding:
        finding = search.find(word, tensors)
        if finding.verdict is Verdict.UNCORRECTABLE:
            absent = erasures(word, places(word, file))
            finding = find(word, tensors, erased=absent) if absent else finding
        return confirmed(finding, word, tensors) if is_lost(word) else finding

    def clean(words: Sequence[SealedWord], tensors: Tensors) -> Iterator[Clean]:
        for seen in search.clean(words, tensors):
            yield {at: good and not is_lost(words[at]) for at, good in seen.items()}

    return Search(find_all, clean)


def unknown(words: Iterable[SealedWord], tensors: FileTensors, size: int) -> list[Range]:
    """Unreadable bytes that neither the frame of a file nor words tell, in order.

    Args:
        words: those that are known; of elements of which they mask some bits, together all of them.
        tensors: of the file.
        size: bytes that the file is to have: what follows is cut off.
    """
    left = without(tensors.unreadable_bytes, [(size, max(size, tensors.found))])
    if not left:
        return []
    known = [(at, at + len(data)) for at, data in tensors.layout.spans]
    unmasked = dict[Range, int]()  # the bits of elements that no word knows
    for part in (part for word in words for part in word.parts):
        every = (1 << 8 * part.itemsize) - 1
        at = tensors.place(part)
        where = at, at + part.nbytes
        unmasked[where] = unmasked.get(where, every) & ~(part.mask or every)
    known += [where for where, bits in unmasked.items() if not bits]
    return without(left, known)


def said_of(left: Sequence[Range]) -> str:
    """In words that bytes are unknown, and what to do."""
    begin, end = left[0]
    others = " and others" if len(left) > 1 else ""
    return (
        f"bytes {begin} to {end - 1}{others} cannot be read, and nothing says what they were: "
        "fetch the whole file again"
    )
