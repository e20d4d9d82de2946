"""The sidecar carrier: weights stay as they are, sums of their bit patterns are kept beside them.

The bytes of every part are cut into 32-bit words, padded with zeros to a multiple of 16 words, and
follow each other. A part's sums do not depend on how it is read, so a file and the model that was
loaded from it fit the same seal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.base import sha256_of
from parimend.carriers.carrier import Carrier, Chosen, Sealing
from parimend.carriers.finding import Elements, Finding, Place
from parimend.codes import SumsCode, restore, sums_for
from parimend.codes.beside import Beside
from parimend.codes.blocks import BlockSums, has_blocks
from parimend.codes.budget import MOST_POWER
from parimend.codes.power import MAX_WORDS
from parimend.cores import cores
from parimend.errors import SpecError
from parimend.outcomes import Verdict
from parimend.seal import CheckedWord, SealedWord
from parimend.stores.base import CHUNK, Tensors, subparts
from parimend.words.bits import WORD, words_of
from parimend.words.layout import Part, Word, padded_words

if TYPE_CHECKING:
    from parimend.decoders import Prepared

JOINED = 1 << 20
"""Bytes of small pieces that are copied together: few enough for the cache."""
_THERE = 1 << 30
"""Bytes on another device that are looked at together: it waits for every result."""
_COPIED = 1 << 25  # bytes of a piece on another device that has to be copied
_TOGETHER = 1 << 14  # wrong words that are restored together


@dataclass(frozen=True)
class Sidecar(Carrier):
    """Sums of the bit patterns, kept beside the weights; these may be of any dtype.

    Args:
        digest: whether the SHA-256 of the weights is sealed, too. Weights on a GPU have to go to
            the host for it; without it their sums alone prove a repair, for up to 1,000 errors.

    Example:
        >>> import torch, parimend as pm
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = pm.protect_(model, 5, pm.Sidecar(digest=False))
        >>> with torch.no_grad():
        ...     _ = model.weight[3, :5].zero_()
        >>> [word] = pm.repair_(model, seal).files[0].words
        >>> word.verdict.value, word.proof
        ('corrected', 'sums')
    """

    digest: bool = True

    name: ClassVar[str] = "sidecar"
    families: ClassVar[tuple[str, ...]] = ("modular", "power", "screened", "hashed")
    moves: ClassVar[bool] = False

    def choose(
        self, words: Sequence[Word], tensors: Tensors, errors: int, seed: int
    ) -> list[Chosen]:
        pieces = [piece for word in words for piece in cut(word)]
        chosen = [Chosen(sums_for(word.padded, errors, seed), word) for word in pieces]
        if not self.digest and not all(each.code.proves for each in chosen):
            raise SpecError(
                f"sums for {errors} errors are no proof of a repair: leave digest as it is, or ask "
                f"for at most {MOST_POWER}"
            )
        return chosen

    def guarantee(self, chosen: Sequence[Chosen], errors: int, guaranteed: int) -> list[Chosen]:
        for each in chosen:
            if (proven := each.promise(errors).guaranteed) < guaranteed:
                raise SpecError(
                    f"{each.word.name}: sums for {errors:,} errors guarantee {proven}, not "
                    f"{guaranteed:,}: ask for at most {MOST_POWER:,} errors, all of which are "
                    "guaranteed then; with per='tensor' every tensor has so many of its own"
                )
        return list(chosen)

    def seal_(self, chosen: Sequence[Chosen], tensors: Tensors) -> Sealing:
        return Sealing(tuple(_seal(each.code, each.word, tensors, self.digest) for each in chosen))

    def find(self, sealed: CheckedWord, tensors: Tensors, erased: Sequence[Place] = ()) -> Finding:
        if self.intact(sealed, tensors):
            return Finding(Verdict.CLEAN)
        code = sealed.code
        assert isinstance(code, SumsCode)
        changed = code.subtract(sums(code, sealed.word, tensors), sealed.target)
        if not changed.any():
            return Finding(Verdict.CLEAN)
        starts = np.array(sealed.word.lines)
        erasures = np.array([starts[place.part] + place.word for place in erased], np.int64)
        decoding = _prepared(code).decode(changed, erasures)
        if decoding.verdict is not Verdict.CORRECTED:
            return Finding(
                Verdict.UNCORRECTABLE,
                unexplained=decoding.unexplained,
                reason="more damage than the code can repair",
            )
        found = Elements()
        numbers = np.searchsorted(starts, decoding.positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            first, last = np.searchsorted(numbers, [number, number + 1]).tolist()
            positions = decoding.positions[first:last] - starts[number]
            damage = decoding.values[first:last]
            part = sealed.parts[number]
            if not _restore(number, part, tensors, positions, damage, code.prime, found):
                return Finding(
                    Verdict.UNCORRECTABLE, reason="the damage found is not that of these words"
                )
        return Finding(Verdict.CORRECTABLE, found)

    def look(self, sealed: SealedWord, tensors: Tensors) -> Generator[int, None, bool]:
        code = sealed.code
        assert isinstance(code, SumsCode)
        total = code.zeros(few=True)
        for pieces, start in _looks(sealed.word, tensors):
            add_sums(code, total, tensors, pieces, start)
            yield sum(piece.nbytes for piece in pieces)
        return np.array_equal(total, code.few(sealed.target))

    def note(self, chosen: Chosen, tensors: Tensors) -> CheckedWord:
        """A word as it is now, for a while: with its checks, and nothing else to prove it by."""
        return CheckedWord(chosen.code, chosen.word, sums(chosen.code, chosen.word, tensors))

    def intact(self, sealed: CheckedWord, tensors: Tensors) -> bool:
        """Whether a word is as it was, as far as a few of its sums tell; see `SumsCode.few`."""
        code = sealed.code
        assert isinstance(code, SumsCode)
        few = sums(code, sealed.word, tensors, few=True)
        return np.array_equal(few, code.few(sealed.target))

    def renew(self, sealed: SealedWord, tensors: Tensors) -> SealedWord:
        assert isinstance(sealed.code, SumsCode)
        return _seal(sealed.code, sealed.word, tensors, bool(sealed.sha256))


@lru_cache(maxsize=32)
def _prepared(code: SumsCode) -> Prepared:
    from parimend.decoders import decoder_for  # what is clean needs none

    return decoder_for(code).prepare(code)


def _starts(parts: Iterable[Part], at: int = 0) -> Iterator[tuple[Part, int]]:
    """Every part with the index of its first word; the first one's is ``at``."""
    for part in parts:
        yield part, at
        at += padded_words(part)


def cut(word: Word, limit: int = MAX_WORDS) -> list[Word]:
    """Cut a word that is too long for a code into several, each with a full budget of its own.

    >>> from parimend.words.layout import whole
    >>> [[(p.name, p.start, p.count) for p in word] for word in
    ...     cut(Word((whole("a", "F32", (40,)), whole("b", "U8", (64,)))), limit=32)]
    [[('a', 0, 32)], [('a', 32, 8), ('b', 0, 64)]]
    """
    size = WORD * limit
    pieces = (p for part in word for p in subparts(part, size // part.itemsize))
    return [Word(tuple(group)) for group in _together(pieces, limit)]


def _together(pieces: Iterable[Part], limit: int) -> Iterator[list[Part]]:
    """Neighbours in groups of at most ``limit`` words; a piece that is longer is one of its own."""
    group: list[Part] = []
    room = limit
    for piece in pieces:
        size = padded_words(piece)
        if group and size > room:
            yield group
            group, room = [], limit
        group.append(piece)
        room -= size
    if group:
        yield group


def reads(word: Word, at: int = 0) -> Generator[tuple[list[Part], int], None, None]:
    """The parts in pieces, as many of them together as are read at a time, and their first word;
    that of the first piece is ``at``.

    A call costs about as much as summing up 30,000 words, and many tensors are smaller than that.
    """
    for pieces in _together((piece for part in word for piece in subparts(part)), JOINED // WORD):
        yield pieces, at
        at += padded_words(*pieces)


def _looks(word: Word, tensors: Tensors) -> Iterator[tuple[list[Part], int]]:
    """`reads`, with larger pieces where parts are on another device and are not copied."""
    for is_large, run in groupby(
        zip(word, word.lines, strict=True),
        lambda each: tensors.is_elsewhere(each[0]) and not tensors.copies(each[0]),
    ):
        parts, starts = zip(*run, strict=True)
        if not is_large:
            yield from reads(Word(parts), starts[0])
            continue
        at = starts[0]
        pieces = (piece for part in parts for piece in subparts(part, _THERE // part.itemsize))
        for group in _together(pieces, _THERE // WORD):
            yield group, at
            at += padded_words(*group)


def joined(pieces: Sequence[Part], data: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint32]:
    """The words of pieces that follow each other, from the bytes of each; one is not copied.

    >>> from parimend.words.layout import whole
    >>> data = [np.ones(4, np.uint8), np.ones(68, np.uint8)]
    >>> words = joined([whole("a", "U8", (4,)), whole("b", "U8", (68,))], data)
    >>> words.size, words.nonzero()[0].tolist() == [0, *range(16, 33)]
    (48, True)
    """
    if len(data) == 1:
        return words_of(data[0])
    padded = np.zeros(WORD * padded_words(*pieces), np.uint8)
    for (_, at), piece in zip(_starts(pieces), data, strict=True):
        padded[WORD * at : WORD * at + piece.size] = piece
    return padded.view(np.uint32)


def sums(code: SumsCode, word: Word, tensors: Tensors, few: bool = False) -> NDArray[np.uint64]:
    """The sums of a word, all or `SumsCode.few`, read once.

    Those of parts on other devices are computed there; threads share the work if there are none.
    """
    total, here, copied = code.zeros(few), list[tuple[Part, int]](), list[tuple[Part, int]]()

    def views() -> Iterator[tuple[Any, int]]:
        for part, at in zip(word, word.lines, strict=True):
            if tensors.copies(part):
                copied.append((part, at))
            elif (elements := tensors.resident(part)) is None:
                here.append((part, at))
            else:
                yield elements, at

    code.accumulate_resident(total, views())
    if len(here) == len(word):
        return _sums_here(code, word, tensors, few)
    for part, at in copied:
        for piece, start in _starts(subparts(part, _COPIED // part.itemsize), at):
            code.accumulate_resident(total, [(tensors.resident(piece), start)])
    for part, at in here:
        for pieces, start in reads(Word((part,)), at):
            add_sums(code, total, tensors, pieces, start)
    return total


def _sums_here(
    code: SumsCode, word: Word, tensors: Tensors, few: bool = False
) -> NDArray[np.uint64]:
    """The sums of a word in memory; threads share the work."""
    todo, lock = reads(word), Lock()

    def work() -> NDArray[np.uint64]:
        total = code.zeros(few)
        while True:
            with lock:
                pieces, start = next(todo, ([], 0))
            if not pieces:
                return total
            add_sums(code, total, tensors, pieces, start)

    threads = min(tensors.threads or cores(), -(-word.padded // (CHUNK // WORD)))
    if threads == 1 or tensors.spread.several:  # all processes must read in the same order
        return work()
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(work) for _ in range(threads)]
        try:
            done, _ = wait(parts, return_when=FIRST_EXCEPTION)
            for part in done:
                part.result()  # raises, whichever failed
            return reduce(code.add, [part.result() for part in parts])
        finally:  # after an interrupt, or if a piece cannot be read, the rest is not waited for
            with lock:
                todo.close()


def add_sums(
    code: SumsCode, total: NDArray[np.uint64], tensors: Tensors, pieces: list[Part], start: int
) -> None:
    """Add the sums of pieces that follow each other into ``total``.

    Those of pieces on other devices are computed there, together.
    """
    elsewhere = [tensors.resident(piece) for piece in pieces]
    if all(elements is None for elements in elsewhere):
        code.accumulate(total, joined(pieces, [tensors.read(piece) for piece in pieces]), start)
        return
    there = []
    for (piece, at), elements in zip(_starts(pieces, start), elsewhere, strict=True):
        if elements is None:
            code.accumulate(total, words_of(tensors.read(piece)), at)
        else:
            there.append((elements, at))
    code.accumulate_resident(total, there)


def _seal(code: SumsCode, word: Word, tensors: Tensors, digest: bool) -> SealedWord:
    """Seal a word, with or without SHA-256. Nothing is changed."""
    if not digest:
        return SealedWord(code, word, sums(code, word, tensors), b"")
    if all(map(tensors.is_elsewhere, word)):
        return SealedWord(code, word, sums(code, word, tensors), sha256_of(word, tensors))
    return _sealed_and_hashed(code, word, tensors)


def _sealed_and_hashed(code: SumsCode, word: Word, tensors: Tensors) -> SealedWord:
    """Seal a word in memory, read once: one thread hashes what this one sums up."""
    sums, digest = _Sums(code, has_digests(word, code, tensors)), hashlib.sha256()

    def add_hash(data: list[NDArray[np.uint8]]) -> None:
        for piece in data:
            digest.update(piece.data)

    with ThreadPoolExecutor(1) as hasher:
        hashed = None
        for pieces, start in reads(word):
            data = [tensors.read(piece) for piece in pieces]
            if hashed:
                hashed.result()
            hashed = hasher.submit(add_hash, data)
            sums.add(joined(pieces, data), start)
    return SealedWord(code, word, sums.total, digest.digest(), blocks=sums.digests)


def has_digests(word: Word, code: SumsCode, tensors: Tensors) -> bool:
    """Whether the digests of a word's blocks are sealed: what is in files has other copies."""
    return has_blocks(code) and not (tensors.live or word.masked)


class _Sums:
    """All sums of a word, added up in parts; with the digests of its blocks, if they are wanted."""

    def __init__(self, code: SumsCode, with_digests: bool) -> None:
        self._code = code
        self._total = code.zeros()
        self._blocks = BlockSums(code) if with_digests else None

    def add(self, words: NDArray[np.uint32], start: int) -> None:
        """Add a part of the words; see `SumsCode.accumulate`."""
        if self._blocks is None:
            self._code.accumulate(self._total, words, start)
            return
        assert isinstance(self._code, Beside)
        self._blocks.add(words, start)
        self._code.parts[1].accumulate(self._code.split(self._total)[1], words, start)

    @property
    def total(self) -> NDArray[np.uint64]:
        """All sums."""
        if self._blocks is not None:
            self._code.few(self._total)[...] = self._blocks.total()
        return self._total

    @property
    def digests(self) -> bytes:
        """Those of all blocks, or nothing."""
        return b"" if self._blocks is None else self._blocks.digests.tobytes()


def _restore(
    number: int,
    part: Part,
    tensors: Tensors,
    positions: NDArray[np.int64],
    damage: NDArray[np.int64],
    prime: int,
    found: Elements,
) -> bool:
    """Add the elements of a part in its wrong words to those found; False if they cannot be so."""
    size = part.itemsize
    for some in range(0, positions.size, _TOGETHER):
        at = positions[some : some + _TOGETHER]
        # The elements that a word overlaps: several small ones, or half of a large one.
        first = WORD * at // size
        last = np.minimum(-(-WORD * (at + 1) // size), part.count)
        if (first >= last).any():
            return False  # a word of padding
        received = [
            tensors.read(replace(part, start=part.start + a, count=b - a))
            for a, b in zip(first.tolist(), last.tolist(), strict=True)
        ]
        skipped = (WORD * at - first * size).tolist()
        words = np.zeros((at.size, WORD), np.uint8)
        for word, data, skip in zip(words, received, skipped, strict=True):
            word[: data.size - skip] = data[skip : skip + WORD]
        originals = restore(words.view("<u4")[:, 0], damage[some : some + _TOGETHER], prime)
        if originals is None:
            return False
        right = originals.view(np.uint8).reshape(-1, WORD)
        for offset, data, skip, word in zip(first.tolist(), received, skipped, right, strict=True):
            within = min(data.size - skip, WORD)
            if word[within:].any():
                return False
            repaired = data.copy()
            repaired[skip : skip + within] = word[:within]
            for k in range(data.size // size):
                old, new = (x[k * size : (k + 1) * size].tobytes() for x in (data, repaired))
                if old != new:
                    found.add(number, offset + k, old, new)
    return True
