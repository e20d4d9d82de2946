"""Scrubbing: a running model looks after its own weights in the background.

A thread walks over the sealed words piece by piece, in a bounded share of its time. What it finds
is repaired between two forward passes and proven by the SHA-256. Only `Scrubber.stop` ends it: what
goes wrong is told, and tried again.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from parimend.carriers import carrier_of, refresh
from parimend.carriers.base import (
    find,
    outcome_of,
    require_match,
    sha256_of,
    write_finding,
)
from parimend.carriers.finding import Finding
from parimend.errors import SpecError
from parimend.events import Event, ScrubKind
from parimend.model import sealed_tensors
from parimend.outcomes import Verdict
from parimend.scrub.counters import Counters
from parimend.scrub.gate import Gate
from parimend.seal import Seal, SealedWord

ATTEMPTS = 3
"""Times that damage is looked for in a word in one sweep, while it changes."""
PATIENCE = 10.0
"""Seconds that a repair waits for forward passes to end, and others for it."""
REST = 1.0
"""Seconds between sweeps in which something failed."""

Result = TypeVar("Result")


class Scrubber:
    """Keeps the weights of a running model as they were sealed.

    Use it as a context manager, or call `start` and `stop`; `sweep` makes one round at once. While
    it is started, forward passes of the model, from any number of threads, and repairs exclude
    each other; reading goes on beside them.

    Args:
        model: a module, or a state dict (then nothing keeps forward passes apart from repairs).
        seal: from `protect_`.
        share: of one core's time that the thread may use, 0 to 1.
        on_event: called with every `Event`, in the scrubbing thread.
        log: file to which every event is appended as a line of JSON.

    Raises:
        MismatchError: if the seal does not fit the model.
        SpecError: if share is not in (0, 1].

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
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise SpecError(f"share must be above 0 and at most 1, not {share}")
        self._model = model
        self._seal = seal
        self._tensors = sealed_tensors(model, seal)
        require_match(seal, self._tensors)
        self._share = share
        self._on_event = on_event
        self._log = None if log is None else Path(log)
        self._gate = Gate()
        self._sweeping = threading.RLock()  # callbacks may sweep
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._updates = 0  # begun and ended: odd during an update
        self._warned: set[tuple[str, type]] = set()
        self._replaced: set[str] = set()  # tensors that are not those that were sealed
        self._unwatched: frozenset[str] = frozenset()
        self._last_sweep = 0.0
        self.counters = Counters()

    @property
    def seal(self) -> Seal:
        """The seal in force."""
        return self._seal

    @property
    def alive(self) -> bool:
        """Whether the scrubbing thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def unwatched(self) -> frozenset[str]:
        """Names of the words that the last sweep could not look at."""
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
        refresh(replace(self._seal, words=()), self._tensors)  # refuses other carriers
        with self._gate.exclusive():
            self._updates += 1
            try:
                yield
            finally:
                try:
                    self._tensors = sealed_tensors(self._model, self._seal)
                    self._seal = refresh(self._seal, self._tensors)
                    self._replaced = set()
                finally:
                    self._updates += 1
        self._tell(Event("sealed", self.counters.sweeps))

    def _run(self) -> None:
        while not self._stopped.is_set():
            failures = self.counters.failures
            with suppress(BaseException):  # not even too little memory to tell of it ends this
                try:
                    self._sweep(pause=True)
                except BaseException as error:
                    self._fail("failed", "a sweep was cut short", error)
            if self.counters.failures > failures:
                self._stopped.wait(REST)

    def _sweep(self, pause: bool) -> list[Event]:
        with self._sweeping:
            events: list[Event] = []
            unwatched = set()
            self._paused(self._look_up, pause)
            for word in self._seal.words:
                if pause and self._stopped.is_set():
                    return events
                try:
                    found = self._look(word, pause)
                except Exception as error:
                    found = [self._fail("unwatched", f"{word.name} is not watched", error)]
                    unwatched.add(word.name)
                events += found
            self._unwatched = frozenset(unwatched)
            if not unwatched:
                self._last_sweep = time.time()
            self._count(sweeps=1)
            return events

    def _look_up(self) -> None:
        """Find the tensors that the model has now: they may have been replaced."""
        before, self._tensors = self._tensors, sealed_tensors(self._model, self._seal)
        now = self._tensors.held
        self._replaced |= {n for n, tensor in before.held.items() if now.get(n) is not tensor}

    def _look(self, word: SealedWord, pause: bool) -> list[Event]:
        """Look at a word until nothing changes any more; tells what was noticed."""
        events: list[Event] = []
        require_match(replace(self._seal, words=(word,)), self._tensors)
        for _ in range(ATTEMPTS):
            updates = self._updates
            if self._is_clean(word, pause) or not self._valid(word, updates):
                break
            began = time.perf_counter()
            event = self._treat(word, updates, pause)
            if event is not None:
                events.append(event)
            self._rest(time.perf_counter() - began, pause)
            if event is None or event.kind not in ("repaired", "changed"):
                break
        return events

    def _treat(self, word: SealedWord, updates: int, pause: bool) -> Event | None:
        """Locate damage, repair it, and tell of it."""
        before = sha256_of(word.word, self._tensors)
        finding = find(word, self._tensors, looks=1)
        if finding.verdict is Verdict.CLEAN or not self._valid(word, updates):
            return None
        kind: ScrubKind | None
        if finding.verdict is Verdict.CORRECTABLE:
            kind = self._repair(word, finding, updates, pause)
        elif sha256_of(word.word, self._tensors) == before:
            kind, finding = "uncorrectable", self._explained(word, finding)
        else:
            kind = "changed"
        if kind is None:
            return None
        if kind == "failed":
            return self._fail(kind, f"{word.name} waits for forward passes to end to be repaired")
        if kind == "repaired":
            self._count(repairs=1, elements_repaired=len(finding.elements))
            outcome = outcome_of(word, finding, Verdict.CORRECTED)
        else:
            self._count(**{kind: 1})
            outcome = outcome_of(word, finding)
        event = Event(kind, self.counters.sweeps, outcome.reason, outcome.changes, outcome)
        self._tell(event)
        return event

    def _explained(self, word: SealedWord, finding: Finding) -> Finding:
        """An uncorrectable finding, with the reason if tensors are not those that were sealed."""
        replaced = sorted(self._replaced & {part.name for part in word.parts})
        if not replaced:
            return finding
        reason = f"{replaced[0]} was replaced by another tensor: replace weights within update()"
        return finding._replace(reason=reason)

    def _repair(
        self, word: SealedWord, finding: Finding, updates: int, pause: bool
    ) -> ScrubKind | None:
        """Put back what was found, if it still is so once no forward pass runs."""

        def abandon() -> bool:
            return pause and self._stopped.is_set()

        with self._gate.exclusive(abandon, PATIENCE) as entered:
            if not entered:
                return None if abandon() else "failed"
            if not self._valid(word, updates):
                return None
            if not self._holds(word, finding.elements, received=True):
                return "changed"
            write_finding(word, finding, self._tensors)
            return "repaired" if self._holds(word, finding.elements, received=False) else "changed"

    def _valid(self, word: SealedWord, updates: int) -> bool:
        """Whether what was read are still the weights, and no update began or went on since
        ``updates`` was read: else what looked like damage may be the update.
        """
        if updates != self._updates or updates % 2:
            return False
        now = sealed_tensors(self._model, self._seal).held
        return all(now.get(p.name) is self._tensors.held[p.name] for p in word.parts)

    def _is_clean(self, word: SealedWord, pause: bool) -> bool:
        """Compare the checks of a word with its seal, with pauses."""
        looking = carrier_of(word.code).look(word, self._tensors)
        while True:
            try:
                self._count(bytes_read=self._paused(lambda: next(looking), pause))
            except StopIteration as done:
                return bool(done.value)
            if pause and self._stopped.is_set():
                return True

    def _paused(self, work: Callable[[], Result], pause: bool) -> Result:
        """Do a piece of work, then rest so that the share is kept."""
        began = time.perf_counter()
        result = work()
        self._rest(time.perf_counter() - began, pause)
        return result

    def _rest(self, seconds: float, pause: bool) -> None:
        self._count(busy_seconds=seconds)
        if pause:
            self._stopped.wait(seconds * (1.0 / self._share - 1.0))

    def _holds(self, word: SealedWord, elements: Any, received: bool) -> bool:
        """Whether the wrong elements are what they were when decoded, or what they should be."""
        for number, offset, before, after in elements:
            part = word.parts[number]
            now = self._tensors.read(replace(part, start=part.start + offset, count=1))
            if now.tobytes() != (before if received else after):
                return False
        return True

    def _count(self, **more: float) -> None:
        now = asdict(self.counters)
        self.counters = Counters(**{name: now[name] + more.get(name, 0) for name in now})

    def _tell(self, event: Event) -> None:
        for channel, error in self._deliver(event):
            self._fail("failed", f"{channel} did not take an event", error)

    def _fail(self, kind: ScrubKind, what: str, error: BaseException | None = None) -> Event:
        """Tell of something that went wrong, with a warning once for every cause."""
        cause = "" if error is None else f": {type(error).__name__}: {error}"
        event = Event(kind, self.counters.sweeps, what + cause)
        self._count(failures=1)
        self._deliver(event)
        if (key := (what, type(error))) not in self._warned:
            self._warned.add(key)
            with suppress(Warning):  # where warnings are errors; the event has been told
                warnings.warn(f"parimend.Scrubber: {what}{cause}; trying again", stacklevel=2)
        return event

    def _deliver(self, event: Event) -> list[tuple[str, BaseException]]:
        """Bring an event to the log and to ``on_event``; returns what they raised."""
        failed: list[tuple[str, BaseException]] = []
        for name, send in (("the log", self._write), ("on_event", self._on_event)):
            try:
                send(event)
            except BaseException as error:
                own = threading.current_thread() is self._thread
                if not own and not isinstance(error, Exception):
                    raise
                failed.append((name, error))
        return failed

    def _write(self, event: Event) -> None:
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(event.to_json() + "\n")
