"""How long protecting and checking take here, measured on a sample."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from parimend.carriers import Request
from parimend.carriers.carrier import Sealing
from parimend.errors import ParimendError
from parimend.planner.source import Source
from parimend.record import Record
from parimend.stores.base import Tensors
from parimend.stores.file import LoadedTensors
from parimend.words.layout import Part, Word, split

T = TypeVar("T")

SAMPLE = 1 << 25
"""Bytes that are read to tell how fast it is."""
_WEIGHTS = 1 << 18  # of a sample that has to be moved into a code
_PER_ERROR = 256  # weights of such a sample: with fewer, checks own fewer of them in half of it
_WORDS = 256  # of a sample
_ROUNDS = 4
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
    sample = list(_first(words, SAMPLE))
    budget = _fitting(sample, source.tensors, source.asked(errors))
    if not budget:
        return None
    taken = _measured(sample, source.tensors, source.asked(budget))
    scale = _nbytes(words) / taken.sample
    return Seconds(scale * taken.protect, scale * taken.check, taken.sample)


def _imposed(source: Source, words: Sequence[Word], errors: int) -> Seconds | None:
    """Bringing a word into its code takes a time for its weights, and one for its checks: these
    are as many in half of a sample.
    """
    largest = max(words, key=lambda word: word.elements)
    [first] = _first([largest], _WEIGHTS * largest.parts[0].itemsize)
    tensors = LoadedTensors(source.tensors, first.parts)  # what is written reaches no weights
    sample = [Word(tuple(tensors.whole()))]
    is_all = len(words) == 1 and _nbytes(words) == _nbytes(sample)
    few = errors if is_all else min(errors, max(1, first.elements // _PER_ERROR))
    budget = _fitting(sample, tensors, source.asked(few))
    if not budget:
        return None
    request = source.asked(budget)
    taken = _measured(sample, tensors, request)
    if is_all:
        return taken
    half = list(_first(sample, taken.sample // 2))
    checks = 0.0  # where half cannot have as many, all of it is taken in proportion
    if _fitting(half, tensors, request) == budget:
        less = _measured(half, tensors, request).protect
        checks = min(max(2 * less - taken.protect, 0.0), taken.protect)
    scale = _nbytes(words) / taken.sample
    protect = len(words) * errors / budget * checks + scale * (taken.protect - checks)
    return Seconds(protect, scale * taken.check, taken.sample)


def _fitting(words: Sequence[Word], tensors: Tensors, request: Request) -> int:
    """The budget asked for, or the largest half of it, or half of that, that a sample can have; 0
    if it can have none.
    """
    errors = request.errors
    while errors:
        try:
            if request.carrier.choose(words, tensors, errors, request.seed):
                break
        except ParimendError:
            pass
        errors //= 2
    return errors


def _measured(words: Sequence[Word], tensors: Tensors, request: Request) -> Seconds:
    """How long a sample takes."""
    carrier = request.carrier

    def protected() -> Sealing:
        chosen = carrier.choose(words, tensors, request.errors, request.seed)
        return carrier.seal_(chosen, tensors)

    protect, sealed = _fastest(protected)
    check, _ = _fastest(lambda: [carrier.find(word, tensors) for word in sealed.words])
    return Seconds(protect, check, _nbytes(words))


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


def _fastest(work: Callable[[], T]) -> tuple[float, T]:
    """The least of the times that something takes, in the first of which loops may be compiled,
    and what it gives.
    """
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < _ROUNDS and sum(taken) < _ENOUGH):
        began = time.perf_counter()
        made = work()
        taken.append(time.perf_counter() - began)
    return min(taken), made


def _without_data(tensors: Tensors, part: Part) -> bool:
    """Whether there is nothing to read, as on the meta device."""
    held = getattr(tensors, "held", {}).get(part.name)
    return held is not None and held.device.type == "meta"
