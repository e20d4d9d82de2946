"""Where the blocks of protected words lie in a file, and which of them are damaged."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.summing import joined, reads
from parimend.codes import Code
from parimend.codes.blocks import BLOCK, DIGEST, BlockSums, digest_of
from parimend.outcomes import FileOutcome, Verdict
from parimend.regular import read_at
from parimend.seal import Seal, SealedWord
from parimend.stores.file import FileTensors
from parimend.words.bits import WORD

BLOCK_BYTES = WORD * BLOCK
"""Bytes of a block."""
_SAMPLED = 1 << 13  # blocks, at most, that are compared with seals that may be those of others

Range = tuple[int, int]
"""Bytes of a file: the first one, and the one after the last."""


class Span(NamedTuple):
    """Bytes of a file that lie in one block.

    Attributes:
        begin, end: their places in the file.
        offset: of the first one in the block, whose other bytes are padding, and zero.
    """

    begin: int
    end: int
    offset: int


@dataclass(frozen=True, eq=False)
class Block:
    """A block of a protected word.

    Attributes:
        word: the word.
        number: which of its blocks; 0 if it has no digests and is no longer than a block.
        spans: where its bytes lie in the file, in the order of the word.
    """

    word: SealedWord
    number: int
    spans: tuple[Span, ...]

    def content(self, file: BinaryIO) -> NDArray[np.uint8]:
        """Its bytes as a file has them, (`BLOCK_BYTES`,) uint8."""
        data = np.zeros(BLOCK_BYTES, np.uint8)
        for begin, end, offset in self.spans:
            data[offset : offset + end - begin] = read_at(file, begin, end - begin)
        return data

    @property
    def digest(self) -> bytes:
        """The sealed one; empty if the word has none."""
        return self.word.blocks[DIGEST * self.number : DIGEST * (self.number + 1)]

    def fits(self, content: NDArray[np.uint8]) -> bool:
        """Whether some content is that of the block, by its digest or the SHA-256 of the word."""
        if self.word.blocks:
            return digest_of(self.word.code, content.view(np.uint32)) == self.digest
        digest = hashlib.sha256()
        for begin, end, offset in self.spans:
            digest.update(content[offset : offset + end - begin].data)
        return digest.digest() == self.word.sha256


@dataclass(frozen=True)
class DamagedBlocks:
    """Where a file is damaged beyond its budget.

    Attributes:
        blocks: those that are damaged, in the order of words and blocks.
        is_elsewhere_intact: whether words that are damaged have blocks that are as they were.
        unknown: words that are damaged nobody knows where, as their seal has no digests.
    """

    blocks: tuple[Block, ...]
    is_elsewhere_intact: bool = False
    unknown: tuple[SealedWord, ...] = ()

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The bytes of the blocks; neighbours are one range."""
        return tuple(merged((span.begin, span.end) for b in self.blocks for span in b.spans))


def damaged_blocks(seal: Seal, tensors: FileTensors, outcome: FileOutcome) -> DamagedBlocks:
    """Look for the damaged blocks of the words that cannot be repaired.

    Args:
        seal: of the file.
        tensors: its tensors.
        outcome: what a check found in it.
    """
    damaged, unknown, intact = list[Block](), list[SealedWord](), False
    for word, found in zip(seal.words, outcome.words, strict=True):
        if found.verdict is not Verdict.UNCORRECTABLE:
            continue
        if not word.blocks and (word.word.masked or word.word.padded > BLOCK or not word.sha256):
            unknown.append(word)
            continue
        numbers = _differing(word, tensors).tolist() if word.blocks else [0]
        if tensors.found < tensors.size:
            numbers = sorted({*numbers, *_missing(word, tensors)})
        intact |= DIGEST * len(numbers) < len(word.blocks)
        damaged += _blocks(word, numbers, tensors)
    return DamagedBlocks(tuple(damaged), intact, tuple(unknown))


class Samples:
    """Some of the blocks of a file, to be compared with seals that may be those of others.

    The digest of each is computed once for all seals of one code, as those of models of one
    architecture are.

    Args:
        file: open for reading.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._digests: dict[tuple[Code, tuple[Span, ...]], bytes] = {}

    def show_other(self, word: SealedWord, tensors: FileTensors) -> bool:
        """Whether more of them are wrong than a word has checks, so that nothing of it can be
        repaired, whatever the others are.
        """
        count, most = len(word.blocks) // DIGEST, word.code.m
        some = min(count, 2 * most + 2, _SAMPLED)
        asked = np.linspace(0, count - 1, some, dtype=np.int64).tolist()
        wrong = 0
        for done, block in enumerate(_blocks(word, asked, tensors)):
            if wrong > most or wrong + len(asked) - done <= most:
                break
            wrong += self._digest(block) != block.digest
        return wrong > most

    def _digest(self, block: Block) -> bytes:
        key = block.word.code, block.spans
        if key not in self._digests:
            self._digests[key] = digest_of(key[0], block.content(self.file).view(np.uint32))
        return self._digests[key]


def _differing(word: SealedWord, tensors: FileTensors) -> NDArray[np.int64]:
    """The numbers of the blocks whose digests are not as sealed, read once.

    What is missing at the end of the file counts as zeros, and takes no time.
    """
    blocks = BlockSums(word.code)
    for pieces, start in reads(word.word):
        if all(tensors.missing(piece) == piece.nbytes for piece in pieces):
            continue
        blocks.add(joined(pieces, [tensors.read(piece) for piece in pieces]), start)
    sealed = np.frombuffer(word.blocks, np.uint8).reshape(-1, DIGEST)
    return np.flatnonzero((blocks.digests != sealed).any(axis=1))


def _missing(word: SealedWord, tensors: FileTensors) -> Iterator[int]:
    """The blocks of which something lies behind the end of the file."""
    for block in _blocks(word, range(len(word.blocks) // DIGEST), tensors):
        if any(span.end > tensors.found for span in block.spans):
            yield block.number


def _blocks(word: SealedWord, numbers: Iterable[int], tensors: FileTensors) -> Iterator[Block]:
    """Blocks of a word by their numbers."""
    starts = [WORD * line for line in word.word.lines]
    begins = [tensors.place(part) for part in word.parts]
    for number in numbers:
        first, last = BLOCK_BYTES * number, BLOCK_BYTES * (number + 1)
        spans = []
        for i in range(bisect_right(starts, first) - 1, len(starts)):
            if starts[i] >= last:
                break
            begin = max(first - starts[i], 0)
            end = min(last - starts[i], word.parts[i].nbytes)
            if begin < end:
                at = begins[i]
                spans.append(Span(at + begin, at + end, starts[i] + begin - first))
        yield Block(word, number, tuple(spans))


def merged(ranges: Iterable[Range], limit: int | None = None) -> list[Range]:
    """Ranges in order, neighbours joined, to at most ``limit`` bytes if there is one.

    >>> merged([(10, 20), (0, 5), (20, 30)])
    [(0, 5), (10, 30)]
    >>> merged([(0, 5), (5, 8), (8, 9)], limit=8)
    [(0, 8), (8, 9)]
    """
    joined = list[Range]()
    for begin, end in sorted(ranges):
        if joined and joined[-1][1] == begin and (not limit or end - joined[-1][0] <= limit):
            joined[-1] = joined[-1][0], end
        else:
            joined.append((begin, end))
    return joined


def without(ranges: Sequence[Range], others: Iterable[Range]) -> list[Range]:
    """Ranges, in order, without what lies in others.

    >>> without([(0, 10), (20, 30)], [(5, 22), (25, 26)])
    [(0, 5), (22, 25), (26, 30)]
    """
    left = list(ranges)
    for begin, end in others:
        halves = [
            half
            for first, last in left
            for half in ((first, min(last, begin)), (max(first, end), last))
        ]
        left = [(first, last) for first, last in halves if first < last]
    return left


def ranges_text(ranges: Sequence[Range]) -> str:
    """Ranges as HTTP, and so ``curl -r``, has them.

    >>> ranges_text([(0, 100), (500, 501)])
    '0-99,500-500'
    """
    return ",".join(f"{begin}-{end - 1}" for begin, end in ranges)
