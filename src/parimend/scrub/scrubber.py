"""Scrubbing: a running model looks after its own weights in the background.

A thread walks over the sealed words piece by piece, in a bounded share of its time. What it finds
is repaired between two forward passes and proven by the SHA-256, or, on a GPU, by the sums. Only
`Scrubber.stop` ends it: what goes wrong is told, and tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TypeVar

import torch

from parimend.atomic import PathLike
from parimend.carriers import carrier_of
from parimend.carriers.base import find, is_in_place, outcome_of, proof_of, write_finding
from parimend.carriers.finding import Element, Finding, places_of
from parimend.errors import SpecError
from parimend.events import Event, ScrubKind
from parimend.outcomes import Proof, Verdict
from parimend.risk import Events
from parimend.risk.pace import Pace
from parimend.scrub.counters import Counters
from parimend.scrub.gate import Gate
from parimend.scrub.lanes import timed, wait_for
from parimend.scrub.memory import Memory
from parimend.scrub.repairs import repaired
from parimend.scrub.schedule import Rate, Schedule, pace_for
from parimend.scrub.telling import Teller
from parimend.scrub.weights import Weights
from parimend.seal import Seal, SealedWord

ATTEMPTS = 3
"""Times that damage is looked for in a word in one sweep, while it changes."""
PATIENCE = 10.0
"""Seconds that a repair waits for forward passes to end, and others for it."""
REST = 1.0
"""Seconds between sweeps in which something failed, and between looks whether one is due."""

Result = TypeVar("Result")


class Scrubber:
    """Keeps the weights of a running model as they were sealed.

    Use it as a context manager, or call `start` and `stop`; `sweep` makes one round at once. While
    it is started, forward passes of the model, from any number of threads, and repairs exclude
    each other; reading goes on beside them.

    Args:
        model: a module, or a state dict (then nothing keeps forward passes apart from repairs).
        seal: from `protect_`.
        share: of one core's time that the thread may use, 0 to 1; for weights on a GPU, of the time
            of its memory.
        on_event: called with every `Event`, in the scrubbing thread.
        log: file to which every event is appended as a line of JSON.
        target: probability of an unrepaired event in a year. Sweeps then come as often as that
            takes after what was repaired before, see `parimend.risk.pace`; without a target they
            follow each other.
        worst_rate: the most events per bit and day that there ever are, for the target; or an
            `Environment` or the name of one, whose rate and events these are.
        events: how many words of 32 bits an event strikes: ``{1: 0.9, 2: 0.1}``; one by default.
        proof: what proves a repair, ``"sha256"`` or ``"sums"``; as for `repair_`, words that are on
            a GPU are proven by sums if nothing is said.

    Raises:
        MismatchError: if the seal does not fit the model.
        SpecError: if a word cannot be proven so, if share is not in (0, 1], if a target comes
            without a worst rate or a worst rate without a target, if they are no probabilities, or
            if the target is missed however often the weights are checked.

    Example:
        >>> from parimend import protect_
        >>> model = torch.nn.Linear(100, 10)
        >>> scrubber = Scrubber(model, protect_(model, errors=5))
        >>> with torch.no_grad():
        ...     _ = model.weight[2, 3:5].fill_(float("nan"))
        >>> [event.kind for event in scrubber.sweep()]
        ['repaired']
        >>> bool(model.weight.isnan().any())
        False
    """

    def __init__(
        self,
        model: torch.nn.Module | Mapping[str, torch.Tensor],
        seal: Seal,
        *,
        share: float = 0.01,
        on_event: Callable[[Event], None] = lambda event: None,
        log: PathLike | None = None,
        target: float | None = None,
        worst_rate: Rate | None = None,
        events: Events | Mapping[int, float] | str | None = None,
        proof: Proof | None = None,
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise SpecError(f"share must be above 0 and at most 1, not {share}")
        self._model = model
        self._weights = Weights(model, seal, proof)
        self._share = share
        self._teller = Teller(on_event, log)
        self._memory = Memory(seal.words)
        pace = pace_for(seal, target, worst_rate, events)
        self._schedule = Schedule(pace, time.monotonic())
        self._gate = Gate()
        self._sweeping = threading.RLock()  # callbacks may sweep
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._unwatched: frozenset[str] = frozenset()
        self._last_sweep = 0.0

    @property
    def seal(self) -> Seal:
        """The seal in force."""
        return self._weights.seal

    @property
    def counters(self) -> Counters:
        """Totals since the scrubber was made."""
        return self._teller.counters

    @property
    def pace(self) -> Pace | None:
        """What is known of the rate of events, and the interval that follows; without target None.

        Its times are in days.
        """
        return self._schedule.pace

    @property
    def stuck(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Words of 32 bits that fail again and again: tensor, and index of the first element."""
        found = []
        for word, places in self._memory.stuck.copy().items():
            for place in places:
                part = word.parts[place.part]
                found.append((part.name, part.index(place.elements(part)[0])))
        return tuple(found)

    @property
    def alive(self) -> bool:
        """Whether the scrubbing thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def unwatched(self) -> frozenset[str]:
        """Names of the words that the last sweep could not look at, and of tensors that had the
        memory of sealed ones and have their own now.
        """
        return self._unwatched

    @property
    def last_sweep(self) -> float:
        """When a sweep ended that saw every word, in seconds since the epoch; 0.0 if none did."""
        return self._last_sweep

    def start(self) -> None:
        """Start scrubbing in the background.

        In a forked process, which has no threads of the old one, it is called again.

        Raises:
            SpecError: if it runs already.
        """
        if self.alive:
            raise SpecError("this scrubber runs already")
        self._sweeping, self._stopped = threading.RLock(), threading.Event()
        self._gate.remove()
        self._gate = Gate()
        if isinstance(self._model, torch.nn.Module):
            self._gate.attach(self._model)
        self._thread = threading.Thread(target=self._run, name="parimend-scrubber", daemon=True)
        self._teller.thread = self._thread
        self._thread.start()

    def stop(self) -> None:
        """Stop, and take the hooks off the model."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None
        self._gate.remove()

    def __enter__(self) -> Scrubber:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def sweep(self) -> list[Event]:
        """Look at every word once, now and without pauses; returns what was noticed."""
        return self._sweep(pause=False)

    @contextmanager
    def update(self) -> Iterator[None]:
        """Change weights on purpose: forward passes wait, and the seal is renewed afterwards.

        The tensors themselves may be replaced too (``load_state_dict(..., assign=True)``, another
        module in place of one) by others of the same shape and dtype.

        Sidecar seals only: the other carriers live in the weights and are renewed by training with
        `constrain_`.

        Raises:
            SpecError: for another carrier; nothing was changed then.
            MismatchError: if the seal does not fit the weights any more; they are not watched then.
        """
        if self._gate.mine:  # an update within an update
            yield
            return
        self._weights.require_renewable()
        with self._gate.exclusive():
            try:
                with self._weights.changed_on_purpose():
                    yield
            finally:
                self._memory = Memory(self.seal.words)
        self._teller.tell(Event("sealed", self.counters.sweeps))

    def _run(self) -> None:
        while not self._stopped.is_set():
            failures = self.counters.failures
            with suppress(BaseException):  # not even too little memory to tell of it ends this
                try:
                    self._sweep(pause=True)
                    self._tell_if_late()
                except BaseException as error:
                    self._teller.fail("failed", "a sweep was cut short", error)
            if self.counters.failures > failures:
                self._stopped.wait(REST)
                continue
            while (left := self._schedule.seconds_left(time.monotonic())) > 0.0:
                if self._stopped.wait(min(left, REST)):  # another sweep may shorten it
                    break

    def _tell_if_late(self) -> None:
        """Tell if the next sweep should have begun before this one ended."""
        if self._stopped.is_set():
            return
        now = time.monotonic()
        newly, late = self._schedule.is_newly_late(now), -self._schedule.seconds_left(now)
        if self._schedule.late:
            self._teller.count(late=1)
        if newly:
            reason = (
                f"the next sweep should have begun {late:.3g} s before this one ended: raise "
                f"share, which is {self._share:g}"
            )
            self._teller.tell(Event("late", self.counters.sweeps, reason))

    def _sweep(self, pause: bool) -> list[Event]:
        with self._sweeping:
            events: list[Event] = []
            unwatched = set()
            self._schedule.began(time.monotonic())
            self._paused(self._look_up, pause)
            for number, word in enumerate(self.seal.words):
                if pause and self._stopped.is_set():
                    return events
                try:
                    found = self._look(number, pause)
                except Exception as error:
                    what = f"{word.name} is not watched"
                    found = [self._teller.fail("unwatched", what, error)]
                    unwatched.add(word.name)
                events += found
            self._unwatched = frozenset(unwatched | self._weights.untied)
            if not unwatched:
                self._last_sweep = time.time()
            lost = any(event.kind == "uncorrectable" for event in events)
            self._schedule.ended(complete=not unwatched, lost=lost)
            self._teller.count(sweeps=1)
            return events

    def _look_up(self) -> None:
        """Find the tensors that the model has now: they may have been replaced."""
        if replaced := self._weights.look_up():
            self._memory.forget(replaced)
        for name, other in self._weights.come_untied().items():
            what = f"{name} was the memory of {other}, and is not any more: protect it"
            self._teller.fail("unwatched", what, then="")

    def _look(self, number: int, pause: bool) -> list[Event]:
        """Look at a word until nothing changes any more; tells what was noticed."""
        events: list[Event] = []
        for _ in range(ATTEMPTS):
            # An update seals words anew: what follows is held against the seal of no other time.
            word, since = self._weights.word(number)
            if self._is_clean(word, pause) or not self._weights.is_valid(word, since):
                break
            began = time.perf_counter()
            told = self._treat(word, since, pause)
            events += told
            self._rest(time.perf_counter() - began, pause)
            if not any(event.kind in ("repaired", "changed") for event in told):
                break
        return events

    def _treat(self, word: SealedWord, since: int, pause: bool) -> list[Event]:
        """Locate damage, repair it, and tell of it."""
        weights = self._weights
        before = proof_of(word, weights.tensors)
        stuck = self._memory.stuck_in(word)
        finding = find(word, weights.tensors, looks=1, erased=stuck)
        if finding.verdict is Verdict.CLEAN or not weights.is_valid(word, since):
            return []
        if finding.verdict is Verdict.CORRECTABLE:
            return self._repair(word, finding, since, pause)
        if proof_of(word, weights.tensors) != before:
            return [self._found("changed", word, finding)]
        return [self._found("uncorrectable", word, weights.explained(word, finding))]

    def _found(self, kind: ScrubKind, word: SealedWord, finding: Finding) -> Event:
        """Tell of damage that was not repaired."""
        self._teller.count(**{kind: 1})
        outcome = outcome_of(word, finding)
        event = Event(kind, self.counters.sweeps, outcome.reason, outcome.changes, outcome)
        self._teller.tell(event)
        return event

    def _repair(self, word: SealedWord, finding: Finding, since: int, pause: bool) -> list[Event]:
        """Put back what was found, if it still is so once no forward pass runs, and tell of it."""
        weights = self._weights
        stuck = set(self._memory.stuck_in(word))

        def abandon() -> bool:
            return pause and self._stopped.is_set()

        def still(element: Element) -> bool:
            at_once = is_in_place(word, element, weights.tensors, received=True)
            return at_once or stuck.issuperset(places_of(word.parts, [element]))

        holds: list[bool] = []
        with self._gate.exclusive(abandon, PATIENCE) as entered:
            if entered and not weights.is_valid(word, since):
                return []
            if entered:
                wait_for(weights.devices(word))
            if entered and all(map(still, finding.elements)):
                write_finding(word, finding, weights.tensors)
                holds = [
                    is_in_place(word, element, weights.tensors) for element in finding.elements
                ]
        if not entered:
            what = f"{word.name} waits for forward passes to end to be repaired"
            return [] if abandon() else [self._teller.fail("failed", what)]
        if not holds:
            return [self._found("changed", word, finding)]
        done = repaired(word, finding, holds, self._memory, self.counters.sweeps)
        self._schedule.found += done.struck
        if done.elements:
            self._teller.count(repairs=1, elements_repaired=done.elements)
        for event in done.events:
            self._teller.tell(event)
        return done.events

    def _is_clean(self, word: SealedWord, pause: bool) -> bool:
        """Compare the checks of a word with its seal, with pauses."""
        looking = carrier_of(word.code).look(word, self._weights.tensors)
        devices = self._weights.devices(word)
        while True:
            try:
                read = self._paused(lambda: next(looking), pause, devices)
                self._teller.count(bytes_read=read)
            except StopIteration as done:
                return bool(done.value)
            if pause and self._stopped.is_set():
                return True

    def _paused(
        self, work: Callable[[], Result], pause: bool, devices: Collection[torch.device] = ()
    ) -> Result:
        """Do a piece of work, then rest so that the share is kept."""
        result, seconds = timed(work, devices)
        self._rest(seconds, pause)
        return result

    def _rest(self, seconds: float, pause: bool) -> None:
        self._teller.count(busy_seconds=seconds)
        if pause:
            self._stopped.wait(seconds * (1.0 / self._share - 1.0))
