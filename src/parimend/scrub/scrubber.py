"""Scrubbing: a running model looks after its own weights in the background.

A thread walks over the sealed words piece by piece, in a bounded share of its time. What it finds
is repaired between two forward passes and proven by the SHA-256, or, on a GPU, by the sums. Only
`Scrubber.stop` ends it: what goes wrong is told, and tried again.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress

import torch

from parimend.arguments import path_of, real_number, require_callable
from parimend.atomic import PathLike
from parimend.errors import SpecError
from parimend.events import Event
from parimend.moving import watchers
from parimend.names import some
from parimend.outcomes import Proof
from parimend.removable import Handle
from parimend.risk import Events
from parimend.risk.pace import Pace
from parimend.scrub.counters import Counters
from parimend.scrub.gate import LOOK_AGAIN
from parimend.scrub.looks import PATIENCE, Looks
from parimend.scrub.schedule import Rate, Schedule, pace_for
from parimend.scrub.telling import Teller
from parimend.scrub.weights import Weights
from parimend.seal import Seal
from parimend.showing import counted

REST = 1.0
"""Seconds after a sweep that did not see all or failed, and between looks whether one is due."""


class Scrubber(Handle):
    """Keeps the weights of a running model as they were sealed.

    Use it as a context manager, or call `start` and `stop`; `sweep` makes one round at once. While
    it is started, forward passes of the model, from any number of threads, and repairs exclude
    each other; reading goes on beside them.

    Args:
        model: a module, or a state dict (then nothing keeps forward passes apart from repairs).
        seal: from `protect_`.
        share: of one core's time that the thread may use, 0 to 1; for weights on a GPU, of the time
            of its memory.
        on_event: called with every `Event`, in the thread that noticed it, while no forward pass
            waits for it.
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
        SpecError: if an argument is of the wrong type, if a word cannot be proven so, if share is
            not in (0, 1], if a target comes without a worst rate or a worst rate without a target,
            if they are no probabilities, if the target is missed however often the weights are
            checked, or if there is no folder for the log.

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
        share = real_number(share, "share", above=0, most=1)
        require_callable(on_event, "on_event", "a function that is called with each Event")
        self._model = model
        self._weights = Weights(model, seal, proof)
        self._share = share
        file = None if log is None else path_of(log, "log")
        if file is not None and not file.parent.is_dir():
            raise SpecError(f"log {file}: there is no folder {file.parent}: make it first")
        # Wherever one goes later.
        self._teller = Teller(on_event, None if file is None else file.absolute())
        pace = pace_for(seal, target, worst_rate, events)
        self._schedule = Schedule(pace, time.monotonic())
        self._looks = Looks(self._weights, self._teller, self._schedule, share)
        self._process = os.getpid()
        self._meet()
        self._thread: threading.Thread | None = None
        self._unwatched: frozenset[str] = frozenset()
        self._last_sweep = 0.0
        watchers.add(self)

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
        for word, places in self._looks.memory.stuck.copy().items():
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
        """Names of the tensors, or the first and last, of words that the last sweep could not look
        at, and of tensors that had the memory of sealed ones and have their own now.
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
            SpecError: if it runs already, weights are sharded over processes, or the model is
                TorchScript.
        """
        if self.alive:
            raise SpecError("this scrubber runs already")
        if why := self._weights.why_unwatched:
            raise SpecError(why)
        self._arrive(quietly=True)
        self._looks.stopped = threading.Event()
        if isinstance(self._model, torch.nn.Module):
            self._looks.gate.attach(self._model)
        self._thread = threading.Thread(target=self._run, name="parimend-scrubber", daemon=True)
        self._teller.thread = self._thread
        self._thread.start()
        # A thread that computes while the interpreter ends may abort the process.
        atexit.register(self._end, PATIENCE)

    def stop(self) -> None:
        """Stop, and take the hooks off the model."""
        self._end()
        self._looks.gate.remove()

    def _end(self, patience: float | None = None) -> None:
        """End the thread.

        Args:
            patience: seconds to wait for it at most.
        """
        atexit.unregister(self._end)
        self._arrive(quietly=True)
        self._looks.stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(patience)
            self._thread = None

    def __enter__(self) -> Scrubber:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        done = self.counters
        return (
            f"<Scrubber: {'running' if self.alive else 'stopped'}, {counted(done.sweeps, 'sweep')}"
            f", {counted(done.repairs, 'repair')}, {done.uncorrectable} uncorrectable>"
        )

    def sweep(self) -> list[Event]:
        """Look at every word once, now and without pauses; returns what was noticed.

        Within an `update` nothing is looked at.
        """
        self._arrive()
        return [] if self._looks.gate.mine else self._sweep(pause=False)

    def watches(self, tensors: Iterable[torch.Tensor], as_sealed: bool) -> bool:
        """Whether what is done to these tensors would be taken for damage, and may be an `update`:
        who imposes constraints on them, or guards, makes it one.
        """
        watched = self.alive and not (as_sealed or self._looks.gate.mine)
        return watched and self._weights.may_become(tensors)

    @contextmanager
    def update(self) -> Iterator[None]:
        """Change weights on purpose: forward passes wait, and the seal is renewed afterwards.

        The tensors themselves may be replaced too (``load_state_dict(..., assign=True)``, another
        module in place of one) by others of the same shape and dtype. Nothing is read meanwhile, so
        that memory may be moved and freed: ``share_memory()``, and giving a model to a process that
        is spawned, belong here.

        Every word is looked at before, so that no damage is sealed as right. What is beyond repair
        is told as ``uncorrectable`` before, and as ``failed`` afterwards if the word is not again
        what it was: nobody can tell then whether the damage is still in it.

        If the block raises, the seal stays, which is told as ``failed``. What was changed counts as
        damage: the next sweep begins at once, and puts it back or tells that it cannot. Weights
        that are sharded over processes are updated in all of them at the same place; if the block
        raises in one, the update raises in all.

        Sidecar seals only: the other carriers live in the weights and are renewed by training with
        `constrain_`.

        Raises:
            SpecError: for another carrier; nothing was changed then.
            MismatchError: if the seal does not fit the weights any more; they are not watched then.
                Or if the block raised in another process.
        """
        self._arrive()
        if self._looks.gate.mine:  # an update within an update
            yield
            return
        self._weights.require_renewable()
        begun = False
        try:
            with self._looks.all_right() as wrong, self._weights.changed_on_purpose():
                begun = True
                with self._weights.everywhere():
                    yield
                taken = self._weights.renew(wrong)
                self._looks.forget()
        except BaseException as error:
            if begun:
                self._schedule.hurry()
                what = "an update was cut short, what it changed counts as damage"
                self._teller.fail("failed", what, error, then="")
            raise
        if taken:
            what = (
                f"{some(taken)}: what was wrong could not be repaired before an update; if that "
                "did not replace it, it is sealed as right"
            )
            self._teller.fail("failed", what, then="")
        self._teller.tell(Event("sealed", self.counters.sweeps))

    def _arrive(self, *, quietly: bool = False) -> None:
        """Leave behind what threads held of the process from which this one was forked."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._meet()
            self._looks.arrive(quietly=quietly)

    def _meet(self) -> None:
        """Nobody sweeps, and nobody waits for who does."""
        self._sweeper: int | None = None  # its thread
        self._lock = threading.RLock()  # see `Gate`
        self._swept = threading.Condition(self._lock)

    def _run(self) -> None:
        stopped = self._looks.stopped
        while not stopped.is_set():
            before = self.counters
            with suppress(BaseException):  # not even too little memory to tell of it ends this
                try:
                    self._sweep(pause=True)
                    self._tell_if_late()
                except BaseException as error:
                    self._teller.fail("failed", "a sweep was cut short", error)
            now = self.counters
            if now.failures > before.failures or now.sweeps == before.sweeps:
                stopped.wait(REST)
                continue
            while (left := self._schedule.seconds_left(time.monotonic())) > 0.0:
                if stopped.wait(min(left, REST)):  # it may come to be due earlier
                    break

    def _tell_if_late(self) -> None:
        """Tell if the next sweep should have begun before this one ended."""
        if self._looks.stopped.is_set():
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

    @contextmanager
    def _one_sweep(self, pause: bool) -> Iterator[bool]:
        """Wait until no other thread sweeps; whether that is so, and this one is not to end.

        The turn is given to whoever asks first when it is free, and the scrubbing thread would ask
        for it again at once: it lets all others go first.
        """
        waiting, me = self._looks.waiting, threading.get_ident()
        if self._sweeper == me:  # a callback sweeps
            yield True
            return

        def mine(patience: float) -> bool:
            if pause and waiting:
                self._looks.stopped.wait(patience)
                return False
            with self._lock:
                if self._sweeper is not None:
                    self._swept.wait(patience)
                if self._sweeper is None:
                    self._sweeper = me
            return self._sweeper == me

        try:  # ended as in `Gate`
            try:
                if not pause:
                    waiting.add(me)
                alone = mine(0.0)
                with nullcontext() if alone else self._looks.gate.waiting():
                    # Whoever waits for a stop may be the one that sweeps.
                    while not (alone or self._looks.stops(pause)):
                        alone = mine(LOOK_AGAIN)
            finally:
                waiting.discard(me)
            yield alone
        finally:
            if self._sweeper == me:
                self._sweeper = None
            with self._lock:
                self._swept.notify_all()

    def _sweep(self, pause: bool) -> list[Event]:
        with self._one_sweep(pause) as alone:
            if not alone:
                return []
            events: list[Event] = []
            unwatched, complete = set(), True
            self._schedule.began(time.monotonic())
            self._looks.look_up(pause)
            for number, is_right in self._looks.each(pause):
                if self._looks.stops(pause):
                    return events
                if is_right:
                    continue
                found, seen = self._looks.look(number, pause)
                events += found
                complete &= seen
                if any(event.kind == "unwatched" for event in found):
                    unwatched.add(self.seal.words[number].word.tensors)
            self._unwatched = frozenset(unwatched | self._weights.untied)
            with self._teller.lock:
                self._schedule.ended(complete=complete)
            if complete:
                self._last_sweep = time.time()
                self._teller.count(sweeps=1)
            return events
