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
_WORDS = 256  # of a sample
_ROUNDS = 3
_ENOUGH = 0.2  # seconds after which nothing is repeated


@dataclass(frozen=True, repr=False)
class Seconds(Record):
    """How long something takes on this machine, from a sample.

    Attributes:
        protect: all of it.
        check: all of it, when nothing is wrong.
        sample: bytes that were measured; the rest is taken in proportion.
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
            taken = _measured(source, words, errors)
        if taken is None:
            return None
        scale = sum(part.nbytes for word in words for part in word) / taken.sample
        total = Seconds(
            total.protect + scale * taken.protect,
            total.check + scale * taken.check,
            total.sample + taken.sample,
        )
    return total if total.sample else None


def _measured(source: Source, words: Sequence[Word], errors: int) -> Seconds | None:
    request, tensors = source.asked(errors), source.tensors
    if request.carrier.moves:  # a copy of one word: what is written must not reach the weights
        [word] = _first(words[:1], _WEIGHTS * words[0].parts[0].itemsize)
        tensors = LoadedTensors(tensors, word.parts)
        words = [Word(tuple(tensors.whole()))]
    chosen = _chosen(list(_first(words, SAMPLE)), tensors, request)
    if not chosen:
        return None
    sample = sum(part.nbytes for each in chosen for part in each.word)
    sealed = request.carrier.seal_(chosen, tensors).words  # compiles, and fills caches
    protect = _fastest(lambda: request.carrier.seal_(chosen, tensors))
    check = _fastest(lambda: [request.carrier.find(word, tensors) for word in sealed])
    return Seconds(protect, check, sample)


def _chosen(words: Sequence[Word], tensors: Tensors, request: Request) -> list[Chosen]:
    """Codes for a sample: of the budget asked for, or of the largest that fits what is left."""
    errors = request.errors
    while errors:
        try:
            return request.carrier.choose(words, tensors, errors, request.seed)
        except ParimendError:
            errors //= 2
    return []


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


def _fastest(work: Callable[[], object]) -> float:
    taken: list[float] = []
    while len(taken) < _ROUNDS and sum(taken) < _ENOUGH:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _without_data(tensors: Tensors, part: Part) -> bool:
    """Whether there is nothing to read, as on the meta device."""
    held = getattr(tensors, "held", {}).get(part.name)
    return held is not None and held.device.type == "meta"
