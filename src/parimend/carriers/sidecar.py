"""The sidecar carrier: weights stay as they are, sums of their bit patterns are kept beside them.

A part's sums do not depend on how it is read, so a file and the model that was loaded from it fit
the same seal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import flag
from parimend.carriers.base import SEAL_DAMAGED, sha256_of
from parimend.carriers.carrier import Carrier, Chosen, Sealing
from parimend.carriers.finding import Finding, Place, WrongElements
from parimend.carriers.summing import JOINED, add_sums, cut, joined, looks, reads, sums
from parimend.carriers.together import Clean, together
from parimend.codes import SumsCode, restore, sums_for
from parimend.codes.beside import Beside
from parimend.codes.blocks import BlockSums, has_blocks
from parimend.codes.budget import MOST_POWER
from parimend.codes.power import MAX_ERRORS
from parimend.errors import SpecError
from parimend.outcomes import Verdict
from parimend.seal import CheckedWord, SealedWord
from parimend.stores.base import Tensors
from parimend.words.bits import WORD
from parimend.words.layout import Part, Word

if TYPE_CHECKING:
    from parimend.decoders.decoding import Decoding

_TOGETHER = 1 << 14  # wrong words that are restored together
_PROVEN = (
    f"at most {MOST_POWER:,} errors ({MAX_ERRORS // WORD} where weights of 8 bits have other "
    "strides, as channels last)"
)


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", flag(self.digest, "digest"))

    def choose(
        self, words: Sequence[Word], tensors: Tensors, errors: int, seed: int
    ) -> list[Chosen]:
        pieces = [piece for word in words for piece in cut(word)]
        chosen = []
        for word in pieces:
            each = max(word.words_within(1), *map(tensors.apart, word))
            chosen.append(Chosen(sums_for(word.padded, errors, seed, each=each), word))
        if not self.digest and not all(each.code.proves for each in chosen):
            raise SpecError(
                f"sums for {errors} errors are no proof of a repair: leave digest as it is, or ask "
                f"for {_PROVEN}"
            )
        return chosen

    def guarantee(
        self, chosen: Sequence[Chosen], errors: int, guaranteed: int, prove: bool = True
    ) -> list[Chosen]:
        for each in chosen:
            if (proven := each.promise(errors).guaranteed) < guaranteed:
                raise SpecError(
                    f"{each.word.name}: sums for {errors:,} errors guarantee {proven}, not "
                    f"{guaranteed:,}: ask for {_PROVEN}, all of which are guaranteed then; with "
                    "per='tensor' every tensor has so many of its own"
                )
        return list(chosen)

    def seal_(self, chosen: Sequence[Chosen], tensors: Tensors) -> Sealing:
        todo = [(each.code, each.word, self.digest) for each in chosen]
        return Sealing(tuple(_seal_all(todo, tensors)))

    def find(self, sealed: CheckedWord, tensors: Tensors, erased: Sequence[Place] = ()) -> Finding:
        code = sealed.code
        assert isinstance(code, SumsCode)
        few = sums(code, sealed.word, tensors, few=True)
        if np.array_equal(few, code.few(sealed.target)):
            return Finding(Verdict.CLEAN)
        if (sealed.target >= code.prime).any():
            return Finding(Verdict.UNCORRECTABLE, reason=SEAL_DAMAGED)
        changed = code.subtract(sums(code, sealed.word, tensors), sealed.target)
        if not changed.any():
            return Finding(Verdict.CLEAN)
        from parimend.decoders import prepared  # what is clean needs none

        lines = sealed.word.lines
        erasures = np.array([lines[place.part] + place.word for place in erased], np.int64)
        decoding = prepared(code).decode(changed, erasures)
        if decoding.verdict is not Verdict.CORRECTED:
            return Finding(
                Verdict.UNCORRECTABLE,
                unexplained=decoding.unexplained,
                reason="more damage than the code can repair",
            )
        found = _restored(sealed, tensors, decoding)
        if found is None:
            return Finding(
                Verdict.UNCORRECTABLE, reason="the damage found is not that of these words"
            )
        return Finding(Verdict.CORRECTABLE, found)

    def explains(self, found: Finding, sealed: CheckedWord, tensors: Tensors) -> bool:
        code = sealed.code
        assert isinstance(code, SumsCode)
        few = sums(code, sealed.word, tensors, few=True)
        put_back = code.few(code.sums_of(*_put_back(found, sealed)))
        return np.array_equal(code.add(few, put_back), code.few(sealed.target))

    def clean(self, words: Sequence[SealedWord], tensors: Tensors) -> Iterator[Clean]:
        """As far as a few of their sums tell; see `SumsCode.few`."""
        codes: list[Any] = [word.code for word in words]
        for read in together([word.word for word in words], tensors):
            few = zip(read.numbers, read.sums(codes, few=True), strict=True)
            yield {
                number: sums.tobytes() == codes[number].few(words[number].target).tobytes()
                for number, sums in few
            }

    def look(self, sealed: SealedWord, tensors: Tensors) -> Generator[int, None, bool]:
        code = sealed.code
        assert isinstance(code, SumsCode)
        total = code.zeros(few=True)
        for pieces, start in looks(sealed.word, tensors):
            add_sums(code, tensors, pieces, start, total)
            yield sum(piece.nbytes for piece in pieces)
        return np.array_equal(total, code.few(sealed.target))

    def renew(self, sealed: Sequence[SealedWord], tensors: Tensors) -> list[SealedWord]:
        return _seal_all([(each.code, each.word, bool(each.sha256)) for each in sealed], tensors)


def _seal_all(chosen: Sequence[tuple[Any, Word, bool]], tensors: Tensors) -> list[SealedWord]:
    """Seal words in their codes, with or without SHA-256. Nothing is changed."""
    codes, words, digests = zip(*chosen, strict=True) if chosen else ((), (), ())
    sealed = dict[int, SealedWord]()
    for read in together(words, tensors):
        for at, (number, target) in enumerate(zip(read.numbers, read.sums(codes), strict=True)):
            code, digest = codes[number], read.sha256(at) if digests[number] else b""
            target = target.reshape(code.syndrome_shape)
            sealed[number] = SealedWord(code, words[number], target, digest)
    return [sealed.get(n) or _seal(*each, tensors) for n, each in enumerate(chosen)]


def _seal(code: SumsCode, word: Word, digest: bool, tensors: Tensors) -> SealedWord:
    """Seal a word by itself."""
    if not digest:
        return SealedWord(code, word, sums(code, word, tensors), b"")
    if all(map(tensors.is_elsewhere, word)):
        return SealedWord(code, word, sums(code, word, tensors), sha256_of(word, tensors))
    return _sealed_and_hashed(code, word, tensors)


def _sealed_and_hashed(code: SumsCode, word: Word, tensors: Tensors) -> SealedWord:
    """Seal a word in memory, read once: one thread hashes what this one sums up."""
    total, digest = code.zeros(), hashlib.sha256()
    # Blocks of what is in files have other copies. Their sums are the first ones of the word.
    in_blocks = has_blocks(code) and not (tensors.live or word.masked)
    blocks = BlockSums(code) if in_blocks else None

    def add_hash(data: list[NDArray[np.uint8]]) -> None:
        for piece in data:
            digest.update(piece.data)

    alone = WORD * word.padded <= JOINED  # a thread takes more time to start than to do its work
    with ThreadPoolExecutor(1) as hasher:
        hashed = None
        for pieces, start in reads(word):
            data = [tensors.read(piece) for piece in pieces]
            if hashed:
                hashed.result()
            if alone:
                add_hash(data)
            else:
                hashed = hasher.submit(add_hash, data)
            words = joined(pieces, data)
            if blocks is None:
                code.accumulate(total, words, start)
            else:
                assert isinstance(code, Beside)
                blocks.add(words, start)
                code.parts[1].accumulate(code.split(total)[1], words, start)
    if blocks is None:
        return SealedWord(code, word, total, digest.digest())
    code.few(total)[...] = blocks.total()
    return SealedWord(code, word, total, digest.digest(), blocks=blocks.digests.tobytes())


def _put_back(found: Finding, sealed: CheckedWord) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What putting back adds to words: their positions, one for every byte, and by how much."""
    lines, positions, values = sealed.word.lines, list[int](), list[int]()
    for number, offset, received, original in found.elements:
        first = offset * len(original)
        for at, (old, new) in enumerate(zip(received, original, strict=True), first):
            positions.append(lines[number] + at // WORD)
            values.append((new - old) << 8 * (at % WORD))
    return np.array(positions, np.int64), np.array(values, np.int64)


def _restored(sealed: CheckedWord, tensors: Tensors, decoding: Decoding) -> WrongElements | None:
    """The elements in wrong words, as they are and were; None if they cannot have been so."""
    assert isinstance(sealed.code, SumsCode)
    found, starts = WrongElements(), np.array(sealed.word.lines)
    numbers = np.searchsorted(starts, decoding.positions, side="right") - 1
    for number in np.unique(numbers).tolist():
        first, last = np.searchsorted(numbers, [number, number + 1]).tolist()
        for some in range(first, last, _TOGETHER):
            mine = slice(some, min(some + _TOGETHER, last))
            at, damage = decoding.positions[mine] - starts[number], decoding.values[mine]
            restored = _restored_in(sealed.parts[number], tensors, at, damage, sealed.code.prime)
            if restored is None:
                return None
            for offset, old, new in restored:
                found.add(number, offset, old, new)
    return found


def _restored_in(
    part: Part, tensors: Tensors, at: NDArray[np.int64], damage: NDArray[np.int64], prime: int
) -> list[tuple[int, bytes, bytes]] | None:
    """Offset, received and original bytes of the elements of a part in its words ``at``."""
    size = part.itemsize
    # The elements that a word overlaps: several small ones, or half of a large one.
    first = WORD * at // size
    last = np.minimum(-(-WORD * (at + 1) // size), part.count)
    if (first >= last).any():
        return None  # a word of padding
    received = [
        tensors.read(replace(part, start=part.start + a, count=b - a))
        for a, b in zip(first.tolist(), last.tolist(), strict=True)
    ]
    skipped = (WORD * at - first * size).tolist()
    words = np.zeros((at.size, WORD), np.uint8)
    for word, data, skip in zip(words, received, skipped, strict=True):
        word[: data.size - skip] = data[skip : skip + WORD]
    originals = restore(words.view("<u4")[:, 0], damage, prime)
    if originals is None:
        return None
    found = []
    right = originals.view(np.uint8).reshape(-1, WORD)
    for offset, data, skip, word in zip(first.tolist(), received, skipped, right, strict=True):
        within = min(data.size - skip, WORD)
        if word[within:].any():
            return None
        repaired = data.copy()
        repaired[skip : skip + within] = word[:within]
        for k in range(data.size // size):
            old, new = (x[k * size : (k + 1) * size].tobytes() for x in (data, repaired))
            if old != new:
                found.append((offset + k, old, new))
    return found
