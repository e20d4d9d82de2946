"""Taking damaged blocks of a file from other copies, which may be damaged elsewhere.

What was fetched and is as sealed lies in ``.NAME.fetched`` beside the file, at its places, with
holes between; so a process that was killed loses nothing, and whoever goes on trusts nothing: every
block in it is compared with its digest again.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from parimend.atomic import PathLike, hidden, locked
from parimend.carriers.finding import Place
from parimend.codes.blocks import BLOCK, mixed
from parimend.errors import MismatchError, SourceError
from parimend.files.blocks import BLOCK_BYTES, Block, Range, merged, without
from parimend.files.opening import Opened
from parimend.files.sources import Source, open_source
from parimend.formats import Layout
from parimend.regular import read_at, write_at
from parimend.seal import SealedWord
from parimend.showing import counted
from parimend.stores.file import FileTensors, Progress
from parimend.words.layout import Part

_STEP = 1 << 12
"""Bytes that are fetched of a block at a time where damage may end in it."""
_FIRST, _TOGETHER = 16, 256  # blocks that are fetched together: at first, and when some were right
_REQUEST = 1 << 22  # bytes of the largest request
_PRIVATE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

Piece = tuple[int, int]
"""Bytes of a block: the first one, and the one after the last."""


@dataclass(eq=False)
class Wanted:
    """A block that is being fetched.

    Attributes:
        block: the block.
        content: (`BLOCK_BYTES`,) uint8: as it is here, with what was fetched of it.
        pieces: what is still to be fetched of it, one after the other, until it is as sealed.
        is_right: whether it is as sealed.
    """

    block: Block
    content: NDArray[np.uint8]
    pieces: list[Piece]
    is_right: bool = False

    def next_places(self) -> list[tuple[Range, int]]:
        """Where the next piece lies: bytes of the file, and the first of them in the block."""
        first, last = self.pieces[0]
        return [
            ((begin + low - at, begin + high - at), low)
            for begin, end, at in self.block.spans
            if (low := max(first, at)) < (high := min(last, at + end - begin))
        ]


@dataclass
class Fetched:
    """What was fetched of a file.

    Attributes:
        file: what lies at the places of the blocks in it is as sealed.
        blocks: those that were fetched, now or by a process that was killed.
        size: bytes that were fetched now.
        doubts: of words with blocks that are damaged in all copies the places where these differ.
        problems: why copies could not be used, in words.
        notes: what else is the matter with copies, in words.
        is_done: whether what was fetched is where it belongs, or not needed any more.
    """

    file: BinaryIO
    blocks: list[Block] = field(default_factory=list)
    size: int = 0
    doubts: dict[SealedWord, list[Place]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_done: bool = False

    def ranges(self, words: Collection[SealedWord] | None = None) -> list[Range]:
        """The bytes of the blocks, of all words or of some."""
        blocks = (b for b in self.blocks if words is None or b.word in words)
        return merged((span.begin, span.end) for b in blocks for span in b.spans)

    def put_into(self, new: BinaryIO, words: Collection[SealedWord]) -> None:
        """Put the blocks of some words into a copy of the file."""
        for begin, end in self.ranges(words):
            for at in range(begin, end, _REQUEST):
                write_at(new, at, read_at(self.file, at, min(_REQUEST, end - at)))

    def doubt(self, block: Block, differs: NDArray[np.int64]) -> None:
        """Note where a block that is damaged in another copy, too, differs from what is here.

        Args:
            block: the block.
            differs: (k,) its words.
        """
        lines = np.array(block.word.word.lines)
        at = differs[: block.word.code.m] + BLOCK * block.number
        parts = np.searchsorted(lines, at, side="right") - 1
        found = map(Place, parts.tolist(), (at - lines[parts]).tolist())
        self.doubts.setdefault(block.word, []).extend(found)

    def note(self, text: str) -> None:
        """Note something once."""
        if text not in self.notes:
            self.notes.append(text)

    def keep(self, wanted: Wanted) -> None:
        """Take up a block that is as sealed."""
        for begin, end, at in wanted.block.spans:
            write_at(self.file, begin, wanted.content[at : at + end - begin])
        self.blocks.append(wanted.block)


class PatchedTensors(FileTensors):
    """The tensors of a file as they are with the blocks that were fetched.

    Args:
        file, layout, progress: see `FileTensors`.
        fetched: the blocks.
    """

    def __init__(
        self, file: BinaryIO, layout: Layout, progress: Progress, fetched: Fetched
    ) -> None:
        super().__init__(file, layout, progress)
        self._fetched = fetched.file
        self._ranges = fetched.ranges()
        self._ends = [end for _, end in self._ranges]

    def _read(self, part: Part) -> NDArray[np.uint8]:
        data, at = super()._read(part), self.place(part)
        for begin, end in self._within(at, at + data.size):
            data[begin - at : end - at] = read_at(self._fetched, begin, end - begin)
        return data

    def unreadable(self, part: Part) -> list[Range]:
        return self._not_fetched(part, super().unreadable(part))

    def _cut(self, part: Part) -> list[Range]:
        return self._not_fetched(part, super()._cut(part))

    def _not_fetched(self, part: Part, ranges: list[Range]) -> list[Range]:
        """What is left of some bytes of a part."""
        at, left = self.place(part), list[Range]()
        for begin, end in ranges:
            fetched = [(b - at, e - at) for b, e in self._within(begin + at, end + at)]
            left += without([(begin, end)], fetched)
        return left

    def _within(self, begin: int, end: int) -> Iterator[Range]:
        """What was fetched of some bytes."""
        for i in range(bisect_right(self._ends, begin), len(self._ends)):
            first, last = self._ranges[i]
            if first >= end:
                return
            yield max(first, begin), min(last, end)


@contextmanager
def fetching(
    blocks: Sequence[Block],
    found: Opened,
    goal: Path,
    sources: Sequence[PathLike],
    progress: Progress,
    member: str,
) -> Iterator[Fetched]:
    """Fetch damaged blocks, each from the first of the copies that has it.

    Args:
        blocks: the blocks, in the order of words and blocks.
        found: the file as it is.
        goal: where it is to be repaired: what is fetched lies beside it.
        sources: the other copies; see `open_source`.
        progress: called with the number of bytes of every read.
        member: what the file is called in its set, from the folder on; empty if it has none.

    Raises:
        BusyError: if another process repairs this file.
        OSError: if nothing can be written beside the file.
    """
    place = _kept_at(goal)
    with (
        locked(place),
        open(place, "r+b", opener=lambda name, _: os.open(name, _PRIVATE, 0o600)) as store,
    ):
        got = Fetched(store)
        try:
            left = list(_kept(blocks, got))
            for where in sources:
                if left:
                    left = _from_one(where, member, left, found, got, progress)
            yield got
        except MismatchError:  # the file is another one by now, repaired by somebody else, say
            got.is_done = True
            raise
        finally:
            if got.is_done or not got.blocks:
                place.unlink(missing_ok=True)


def forget(goal: Path) -> None:
    """Remove what was fetched for a file that is right: by a process that was killed when it was.

    Args:
        goal: see `fetching`.
    """
    with suppress(OSError):
        _kept_at(goal).unlink()


def _kept_at(goal: Path) -> Path:
    return hidden(Path(os.path.realpath(goal)), "fetched")


def _kept(blocks: Iterable[Block], got: Fetched) -> Iterator[Block]:
    """Take up what was fetched by a process that was killed; the other blocks."""
    is_new = not os.fstat(got.file.fileno()).st_size
    for block in blocks:
        if not is_new and block.fits(block.content(got.file)):
            got.blocks.append(block)
        else:
            yield block


def _from_one(
    where: PathLike,
    member: str,
    blocks: list[Block],
    found: Opened,
    got: Fetched,
    progress: Progress,
) -> list[Block]:
    """Fetch blocks from one copy; those that it does not have."""
    try:
        with closing(open_source(where, member or found.path.name, bool(member))) as source:
            if source.is_same(found.file):
                raise SourceError(f"{source.name} is the file to be repaired: name another copy")
            try:
                _all_from(source, blocks, found.file, got, progress)
            finally:
                if source.unreadable:
                    lost = counted(source.unreadable, "byte")
                    got.note(f"{source.name}: {lost} cannot be read from its disk")
    except SourceError as error:
        got.problems.append(str(error))
    there = set(got.blocks)
    return [block for block in blocks if block not in there]


def _all_from(
    source: Source, blocks: list[Block], file: BinaryIO, got: Fetched, progress: Progress
) -> None:
    """Fetch all blocks that one copy has, unless it seems to be one of something else.

    Raises:
        SourceError: if it is, or cannot be read.
    """
    at, count, before = 0, _FIRST, len(got.blocks)
    while at < len(blocks):
        some = _wanted(blocks, range(at, min(at + count, len(blocks))), file)
        _fetch(some, source, got, progress)
        for each in some:
            _combine(each, file, got)
        at += len(some)
        if len(got.blocks) > before:
            count = _TOGETHER
            continue
        text = (
            f"{source.name}: none of {at} blocks is as it should be: it is another file, or "
            "damaged where this one is"
        )
        if at < len(blocks):
            raise SourceError(text)
        got.note(text)


def _wanted(blocks: Sequence[Block], numbers: range, file: BinaryIO) -> list[Wanted]:
    """Blocks with the pieces in which they are to be fetched.

    Where a run of damaged blocks ends, damage ends somewhere inside a block, and it is fetched from
    the inside of the run outwards until it is as sealed.
    """
    pieces = [(at, at + _STEP) for at in range(0, BLOCK_BYTES, _STEP)]
    wanted = []
    for i in numbers:
        follows = i > 0 and _are_neighbours(blocks[i - 1], blocks[i])
        is_followed = i + 1 < len(blocks) and _are_neighbours(blocks[i], blocks[i + 1])
        parts = [(0, BLOCK_BYTES)]
        if follows != is_followed:
            parts = pieces[:] if follows else pieces[::-1]
        wanted.append(Wanted(blocks[i], blocks[i].content(file), parts))
    return wanted


def _are_neighbours(a: Block, b: Block) -> bool:
    return a.word is b.word and a.number + 1 == b.number


def _combine(wanted: Wanted, file: BinaryIO, got: Fetched) -> None:
    """Make one good block of two damaged ones, or note where they differ."""
    block = wanted.block
    if wanted.is_right or not block.word.blocks:
        return
    here, there = (x.view(np.uint32) for x in (block.content(file), wanted.content))
    good = mixed(block.word.code, here, there, block.digest)
    if good is not None:
        wanted.content = good.view(np.uint8)
        got.keep(wanted)
    elif (here != there).any():
        got.doubt(block, np.flatnonzero(here != there))


def _fetch(wanted: Sequence[Wanted], source: Source, got: Fetched, progress: Progress) -> None:
    """Fetch blocks piece by piece, until each is as sealed or all of it was fetched."""
    todo = list(wanted)
    while todo:
        places = [(each, *place) for each in todo for place in each.next_places()]
        ranges = merged([found for _, found, _ in places], _REQUEST)
        data = source.read(ranges)
        size = sum(map(len, data))
        if size < sum(end - begin for begin, end in ranges):
            got.note(f"{source.name} ends early")
        got.size += size
        progress(size)
        begins = [begin for begin, _ in ranges]
        for each, (begin, end), at in places:
            i = bisect_right(begins, begin) - 1
            piece = data[i][begin - begins[i] : end - begins[i]]
            each.content[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        for each in todo:
            del each.pieces[0]
            if each.block.fits(each.content):
                got.keep(each)
                each.is_right = True
        todo = [each for each in todo if each.pieces and not each.is_right]
