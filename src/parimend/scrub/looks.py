"""Looking at the words of a running model: compared, located, repaired, told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeVar

import torch

from parimend.carriers import carrier_of
from parimend.carriers.base import clean, find, is_in_place, outcome_of, proof_of, write_finding
from parimend.carriers.finding import Element, Finding, places_of
from parimend.carriers.together import Clean
from parimend.errors import WordError
from parimend.events import Event, ScrubKind
from parimend.outcomes import Verdict
from parimend.scrub.gate import LOOK_AGAIN, Gate
from parimend.scrub.lanes import Stopwatch, timed, wait_for
from parimend.scrub.memory import Memory
from parimend.scrub.repairs import Repaired, repaired
from parimend.scrub.schedule import Schedule
from parimend.scrub.telling import Teller
from parimend.scrub.weights import Since, Weights
from parimend.seal import SealedWord

ATTEMPTS = 3
"""Times that damage is looked for in a word in one sweep, while it changes."""
PATIENCE = 10.0
"""Seconds that a repair waits for forward passes to end, and others for it."""

_MADE_ANEW = (
    "its tensors are others whenever they are looked for: give the scrubber a model, or a state "
    "dict, that holds them"
)
_WORTH = 1e-3
"""Seconds of work after which there is a rest."""

Result = TypeVar("Result")


class Looked(NamedTuple):
    """What came of looking at a word.

    Attributes:
        events: that were told.
        seen: whether all of it was looked at and is known now: right, put right, or beyond repair.
    """

    events: list[Event]
    seen: bool


class Looks:
    """Looks at words and puts right what is wrong, from any thread.

    Nothing is told while forward passes wait: whoever is told may wait for one.

    Args:
        weights: that are sealed.
        teller: is told what is noticed.
        schedule: is told what was struck.
        share: of the time that looks with pauses may use.

    Attributes:
        gate: keeps forward passes apart from repairs.
        stopped: when set, looks with pauses end as soon as they can.
        waiting: threads that wait for looks with pauses to end; these do not rest then.
        memory: what is known of memory that fails.
    """

    def __init__(self, weights: Weights, teller: Teller, schedule: Schedule, share: float) -> None:
        self._weights, self._teller, self._schedule = weights, teller, schedule
        self._share = share
        self.gate, self.stopped = Gate(), threading.Event()
        self.waiting = set[int]()
        self._owed = 0.0  # seconds that the thread was busy since it last rested
        self.forget()

    def arrive(self, *, quietly: bool) -> None:
        """In a forked process, nobody will release the locks of the old one, or end its updates.

        Args:
            quietly: see `Gate.arrive`.
        """
        self.gate.arrive(quietly=quietly)
        self.stopped, self._teller.lock = threading.Event(), threading.RLock()
        self.waiting.clear()
        self._weights.arrive(changing=self.gate.mine)

    def forget(self) -> None:
        """The words were sealed anew: what is known of them is known no more."""
        self.memory = Memory(self._weights.seal.words)
        self._lost: dict[int, bytes] = {}  # what was told of and not put right, as it was then

    def stops(self, pause: bool) -> bool:
        """Whether looks with pauses, or those without, are to end."""
        return pause and self.stopped.is_set()

    def look_up(self, pause: bool) -> None:
        """Find the tensors that the model has now: they may have been replaced."""
        self._paused(self._look_up, pause)

    def _look_up(self) -> None:
        if replaced := self._weights.look_up():
            with self._teller.lock:
                self.memory.forget(replaced)
        for name, other in self._weights.come_untied().items():
            what = f"{name} was the memory of {other}, and is not any more: protect it"
            self._teller.fail("unwatched", what, then="")

    def each(self, pause: bool) -> Iterator[tuple[int, bool]]:
        """The number of every word, and whether it is seen to be right; see `together`."""
        seen = set[int]()
        for some in self.together(pause):
            yield from some.items()
            seen |= some.keys()
        for number in range(len(self._weights.seal.words)):
            if number not in seen:
                yield number, False

    def together(self, pause: bool) -> Iterator[Clean]:
        """Look at the small words, many at a time: which of them are right. Others may be so, too:
        `look` says what they are.
        """
        if pause and self._weights.why_unwatched:
            return  # `look` tells of it
        try:
            words, since = self._paused(self._weights.words, pause)
            looking = iter(clean(words, since.tensors))
            while seen := self._paused(lambda: self._next(looking, since), pause):
                mine = [words[number] for number in seen]
                self._teller.count(bytes_read=sum(p.nbytes for word in mine for p in word.parts))
                is_valid = partial(self._weights.is_valid, mine, since)
                yield seen if self._paused(is_valid, pause) else dict.fromkeys(seen, False)
        except Exception:  # `look` tells of it
            return

    def look(self, number: int, pause: bool) -> Looked:
        """Look at a word until nothing changes any more; tells what was noticed."""
        if pause and (why := self._weights.why_unwatched):
            return Looked([self._teller.fail("unwatched", why)], False)
        since = self._weights.now
        try:
            return self._look(number, pause)
        except Exception as error:
            if self._weights.is_changed(since):
                return Looked([], False)  # it fits nothing, perhaps, until the change is done
            self._lost[number] = self._as_it_is(number)
            what = f"{self._weights.seal.words[number].word.tensors} is not watched"
            return Looked([self._teller.fail("unwatched", what, error)], False)

    @contextmanager
    def all_right(self) -> Iterator[list[int]]:
        """Let no forward pass begin, once all words are right or were told to be beyond repair.

        Yields:
            Numbers of the words that are not right.
        """
        for left in reversed(range(ATTEMPTS)):
            with suppress(Exception):  # it is told below, word for word
                self.look_up(pause=False)
            with self.gate.exclusive():
                wait_for(self._weights.devices())
                looks = self.each(pause=False)
                wrong = [n for n, is_right in looks if not (is_right or self._is_right(n))]
                new = [n for n in wrong if self._lost.get(n) != self._as_it_is(n)]
                if not (new and left):
                    yield wrong
                    return
            for number in new:
                self.look(number, pause=False)

    def _is_right(self, number: int) -> bool:
        try:
            word, since = self._weights.word(number)
            right = self._is_clean(word, since, pause=False)
            return right and self._weights.is_valid([word], since)
        except Exception:  # `look` tells of it
            return False

    def _as_it_is(self, number: int) -> bytes:
        """What tells a word from what it is at other times; nothing if it cannot be read."""
        try:
            word, since = self._weights.word(number)
            with self._weights.reading(since) as may:
                return proof_of(word, since.tensors) if may else b""
        except Exception:
            return b""

    def _look(self, number: int, pause: bool) -> Looked:
        events: list[Event] = []
        seen = False

        def valid() -> bool:
            return self._paused(lambda: self._weights.is_valid([word], since), pause)

        for _ in range(ATTEMPTS):
            seen = False
            # An update seals words anew: what follows is held against the seal of no other time.
            word, since = self._paused(lambda: self._weights.word(number), pause)
            if not valid():
                if self._weights.made_anew(word, since):
                    raise WordError(_MADE_ANEW)
                break
            clean = self._is_clean(word, since, pause)
            if self.stops(pause):
                break
            if not valid():
                continue
            if clean:
                return Looked(events, True)
            watch = Stopwatch()
            told, seen = self._treat(number, word, since, pause, watch)
            events += told
            self._rest(watch.seconds, pause)
            kinds = {event.kind for event in told}
            if (kinds or seen) and kinds.isdisjoint(("repaired", "changed")):
                break
        return Looked(events, seen)

    def _treat(
        self, number: int, word: SealedWord, since: Since, pause: bool, watch: Stopwatch
    ) -> Looked:
        """Locate damage, repair it, and tell of it."""
        weights, tensors = self._weights, since.tensors
        with weights.reading(since) as may:
            if not may:
                return Looked([], False)
            before = proof_of(word, tensors)
            finding = find(word, tensors, looks=1, erased=self.memory.stuck_in(word))
            lost = finding.verdict is Verdict.UNCORRECTABLE
            changed = lost and proof_of(word, tensors) != before
        if not weights.is_valid([word], since):
            return Looked([], False)
        if finding.verdict is Verdict.CLEAN:
            return Looked([], True)
        if not lost:
            return self._repair(word, finding, since, pause, watch)
        if changed:
            return Looked([self._found("changed", word, finding, watch)], False)
        self._lost[number] = before
        self._schedule.lost = True
        finding = weights.explained(word, finding)
        return Looked([self._found("uncorrectable", word, finding, watch)], True)

    def _found(
        self, kind: ScrubKind, word: SealedWord, finding: Finding, watch: Stopwatch
    ) -> Event:
        """Tell of damage that was not repaired."""
        self._teller.count(**{kind: 1})
        outcome = outcome_of(word, finding)
        event = Event(kind, self._teller.counters.sweeps, outcome.reason, outcome.changes, outcome)
        with watch.aside():
            self._teller.tell(event)
        return event

    def _repair(
        self, word: SealedWord, finding: Finding, since: Since, pause: bool, watch: Stopwatch
    ) -> Looked:
        """Put back what was found, if it still is so once no forward pass runs, and tell of it."""
        done: Repaired | None = None

        def abandon() -> bool:
            return self.stops(pause) or not self._weights.is_valid([word], since)

        with ExitStack() as stack:
            with watch.aside():
                entered = stack.enter_context(self.gate.exclusive(abandon, PATIENCE))
                if entered:
                    wait_for(self._weights.devices(word))
            if valid := entered and self._weights.is_valid([word], since):
                done = self._put_back(word, finding, since)
        if done:
            with watch.aside():
                for event in done.events:
                    self._teller.tell(event)
            return Looked(done.events, True)
        if valid:
            return Looked([self._found("changed", word, finding, watch)], False)
        if entered or abandon():
            return Looked([], False)
        what = f"{word.name} waits for forward passes to end to be repaired"
        with watch.aside():
            return Looked([self._teller.fail("failed", what)], False)

    def _put_back(self, word: SealedWord, finding: Finding, since: Since) -> Repaired | None:
        """Write what was found, while no forward pass runs; None if it is not so any more."""
        tensors, stuck = since.tensors, set(self.memory.stuck_in(word))

        def still(element: Element) -> bool:
            at_once = is_in_place(word, element, tensors, received=True)
            return at_once or stuck.issuperset(places_of(word.parts, [element]))

        if not all(map(still, finding.elements)):
            return None
        write_finding(word, finding, tensors)
        holds = [is_in_place(word, element, tensors) for element in finding.elements]
        with self._teller.lock:
            done = repaired(word, finding, holds, self.memory, self._teller.counters.sweeps)
            self._schedule.found += done.struck
            if done.elements:
                self._teller.count(repairs=1, elements_repaired=done.elements)
        return done

    def _is_clean(self, word: SealedWord, since: Since, pause: bool) -> bool:
        """Compare the checks of a word with its seal, with pauses; stopped, or where the weights
        change on purpose, it says False.
        """
        looking = carrier_of(word.code).look(word, since.tensors)
        devices = self._weights.devices(word)
        while True:
            try:
                read = self._paused(lambda: self._next(looking, since), pause, devices)
            except StopIteration as done:
                return bool(done.value)
            if read is None:
                return False
            self._teller.count(bytes_read=read)
            if self.stops(pause):
                return False

    def _next(self, looking: Iterator[Result], since: Since) -> Result | None:
        """What the next piece of a look gives; None if the weights change on purpose."""
        with self._weights.reading(since) as may:
            return next(looking) if may else None

    def _paused(
        self, work: Callable[[], Result], pause: bool, devices: Collection[torch.device] = ()
    ) -> Result:
        """Do a piece of work, then rest so that the share is kept."""
        result, seconds = timed(work, devices)
        self._rest(seconds, pause)
        return result

    def _rest(self, seconds: float, pause: bool) -> None:
        """What was busy for so long rests, once it is worth it: resting takes time, too."""
        if not pause:
            self._teller.count(busy_seconds=seconds)
            return
        self._owed += seconds
        if self._owed >= _WORTH:
            busy, self._owed = self._owed, 0.0
            self._teller.count(busy_seconds=busy)
            until = time.monotonic() + busy * (1.0 / self._share - 1.0)
            while not (self.waiting or self.stopped.is_set()):
                if (left := until - time.monotonic()) <= 0.0:
                    break
                self.stopped.wait(min(left, LOOK_AGAIN))
