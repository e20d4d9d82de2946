"""How long protecting and checking take here, measured on a sample."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from parimend.carriers import Request
from parimend.carriers.carrier import Chosen
from parimend.errors import ParimendError
from parimend.planner.source import Source
from parimend.record import Record
from parimend.stores.base import Tensors
from parimend.stores.file import LoadedTensors
from parimend.words.layout import Part, Word, split

SAMPLE = 1 << 25
"""Bytes that are read to tell how fast it is."""
_WEIGHTS = 1 << 18  # of a sample that has to be moved into a code
_PER_ERROR = 256  # weights of such a sample: with fewer, checks own fewer of them in half of it
_WORDS = 256  # of a sample
_ROUNDS = 3
_ENOUGH = 0.2  # seconds after which nothing is done for the third time


@dataclass(frozen=True, repr=False)
class Seconds(Record):
    """How long something takes on this machine, from a sample.

    Attributes:
        protect: all of it.
        check: all of it, when nothing is wrong.
        sample: bytes that were measured; what the rest takes follows from them.
    """

    protect: float
    check: float
    sample: int


def seconds(sources: Sequence[Source], errors: int) -> Seconds | None:
    """Protect and check a sample of everything; None if there is nothing that could be read."""
    total = Seconds(0.0, 0.0, 0)
    for source in sources:
        words = split(source.tensors.whole(), source.request.per)
        if not words or _without_data(source.tensors, words[0].parts[0]):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that were moved far: it is a copy
            taken = (_imposed if source.request.carrier.moves else _summed)(source, words, errors)
        if taken is None:
            return None
        total = Seconds(
            total.protect + taken.protect, total.check + taken.check, total.sample + taken.sample
        )
    return total if total.sample else None


def _summed(source: Source, words: Sequence[Word], errors: int) -> Seconds | None:
    """All of it in proportion: weights are read and added up."""
    taken = _measured(list(_first(words, SAMPLE)), source.tensors, source.asked(errors))
    if taken is None:
        return None
    seconds, _ = taken
    scale = _nbytes(words) / seconds.sample
    return Seconds(scale * seconds.protect, scale * seconds.check, seconds.sample)


def _imposed(source: Source, words: Sequence[Word], errors: int) -> Seconds | None:
    """Bringing a word into its code takes a time for its weights, and one for its checks: these
    are as many in half of a sample.
    """
    largest = max(words, key=lambda word: word.elements)
    [sample] = _first([largest], _WEIGHTS * largest.parts[0].itemsize)
    tensors = LoadedTensors(source.tensors, sample.parts)  # what is written reaches no weights
    [sample] = whole = [Word(tuple(tensors.whole()))]
    is_all = len(words) == 1 and _nbytes(words) == _nbytes(whole)
    few = errors if is_all else min(errors, max(1, sample.elements // _PER_ERROR))
    taken = _measured(whole, tensors, source.asked(few))
    if taken is None:
        return None
    more, budget = taken
    if is_all:
        return more
    scale = _nbytes(words) / more.sample
    half = _measured(list(_first(whole, _nbytes(whole) // 2)), tensors, source.asked(budget))
    checks = 0.0  # where half cannot have as many, all of it is taken in proportion
    if half and half[1] == budget:
        checks = min(max(2 * half[0].protect - more.protect, 0.0), more.protect)
    protect = len(words) * errors / budget * checks + scale * (more.protect - checks)
    return Seconds(protect, scale * more.check, more.sample)


def _measured(
    words: Sequence[Word], tensors: Tensors, request: Request
) -> tuple[Seconds, int] | None:
    """How long a sample takes with the budget asked for, or with the largest half of it, or half of
    that, that fits what is left; and that budget.
    """
    carrier, errors = request.carrier, request.errors
    chosen: Sequence[Chosen] = []
    while errors and not chosen:
        try:
            chosen = carrier.choose(words, tensors, errors, request.seed)
        except ParimendError:
            errors //= 2
    if not chosen:
        return None
    sealed = carrier.seal_(chosen, tensors).words  # compiles, and fills caches

    def protected() -> None:
        carrier.seal_(carrier.choose(words, tensors, errors, request.seed), tensors)

    protect = _fastest(protected)
    check = _fastest(lambda: [carrier.find(word, tensors) for word in sealed])
    return Seconds(protect, check, _nbytes(words)), errors


def _first(words: Sequence[Word], room: int) -> Iterator[Word]:
    """The first words, cut where so many bytes are full."""
    for word in words[:_WORDS]:
        parts = []
        for part in word:
            count = min(part.count, room // part.itemsize)
            if count:
                parts.append(replace(part, count=count))
            room -= count * part.itemsize
        if not parts:
            return
        yield Word(tuple(parts))


def _nbytes(words: Sequence[Word]) -> int:
    return sum(part.nbytes for word in words for part in word)


def _fastest(work: Callable[[], object]) -> float:
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < _ROUNDS and sum(taken) < _ENOUGH):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _without_data(tensors: Tensors, part: Part) -> bool:
    """Whether there is nothing to read, as on the meta device."""
    held = getattr(tensors, "held", {}).get(part.name)
    return held is not None and held.device.type == "meta"
