"""Scrubbing: a running model looks after its own weights in the background.

A thread walks over the sealed words piece by piece, in a bounded share of its time. What it finds
is repaired between two forward passes and proven by the SHA-256.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from parimend.carriers import refresh
from parimend.carriers.base import find, outcome_of, require_match, write_finding
from parimend.carriers.sidecar import add_sums, reads
from parimend.codes import Modular
from parimend.errors import SpecError
from parimend.model import ModelTensors
from parimend.records import Verdict, WordOutcome
from parimend.seal import Seal, SealedWord
from parimend.words.bits import item_size
from parimend.words.layout import Part

EventKind = Literal["repaired", "uncorrectable", "changed", "sealed"]


@dataclass(frozen=True)
class Event:
    """Something that the scrubber noticed.

    Attributes:
        kind: ``repaired``; ``uncorrectable`` (left as found); ``changed`` (the damage changed while
            it was being located, and is looked at again in the next sweep); ``sealed`` (the weights
            were updated and have a new seal).
        time: seconds since the epoch.
        sweep: number of the sweep.
        word: what is known of the word; None for ``sealed``.
    """

    kind: EventKind
    time: float
    sweep: int
    word: WordOutcome | None = None

    def to_json(self) -> str:
        """One JSON object on one line; values are those of the elements."""
        record = asdict(replace(self, word=None)) | {"word": None}
        if self.word is not None:
            record["word"] = {
                "name": self.word.name,
                "verdict": str(self.word.verdict),
                "reason": self.word.reason,
                "changes": [
                    {
                        "tensor": change.tensor,
                        "index": list(change.index),
                        "received": "0x" + change.received[::-1].hex(),
                        "original": "0x" + change.original[::-1].hex(),
                    }
                    for change in self.word.changes
                ],
            }
        return json.dumps(record)


@dataclass(frozen=True)
class Counters:
    """Totals since the scrubber was made."""

    sweeps: int = 0
    bytes_read: int = 0
    repairs: int = 0
    elements_repaired: int = 0
    uncorrectable: int = 0
    busy_seconds: float = 0.0


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
        self._tensors = ModelTensors.sealed(model, seal)
        require_match(seal, self._tensors)
        self._share = share
        self._on_event = on_event
        self._log = None if log is None else Path(log)
        self._gate = _Gate()
        self._sweeping = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._updates = 0  # begun and ended: odd during an update
        self.counters = Counters()

    @property
    def seal(self) -> Seal:
        """The seal in force."""
        return self._seal

    def start(self) -> None:
        """Start scrubbing in the background.

        Raises:
            SpecError: if it has been started already.
        """
        if self._thread is not None:
            raise SpecError("this scrubber runs already")
        self._stopped.clear()
        if isinstance(self._model, torch.nn.Module):
            self._gate.attach(self._model)
        self._thread = threading.Thread(target=self._run, name="parimend-scrubber", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and take the hooks off the model; raises what stopped the thread before, if any."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._gate.remove()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

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

        Sidecar seals only: the other carriers live in the weights and are renewed by training with
        `constrain_`.

        Raises:
            SpecError: for another carrier; nothing was changed then.
        """
        refresh(replace(self._seal, words=()), self._tensors)  # refuses other carriers
        with self._gate.exclusive():
            self._updates += 1
            try:
                yield
            finally:
                self._seal = refresh(self._seal, self._tensors)
                self._updates += 1
        self._tell(Event("sealed", time.time(), self.counters.sweeps))

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._sweep(pause=True)
        except BaseException as failure:
            self._failure = failure

    def _sweep(self, pause: bool) -> list[Event]:
        with self._sweeping:
            events: list[Event] = []
            for number in range(len(self._seal.words)):
                if pause and self._stopped.is_set():
                    return events
                event = self._look(number, pause)
                if event is not None:
                    events.append(event)
                    self._tell(event)
            self._count(sweeps=1)
            return events

    def _look(self, number: int, pause: bool) -> Event | None:
        updates, word = self._updates, self._seal.words[number]
        if self._is_clean(word, pause) or not self._valid(updates):
            return None
        began = time.perf_counter()
        finding = find(word, self._tensors)
        if finding.verdict is Verdict.CLEAN or not self._valid(updates):
            return None
        kind: EventKind = "uncorrectable"
        if finding.verdict is Verdict.CORRECTABLE:
            kind = "changed"
            with self._gate.exclusive():
                if self._valid(updates) and self._holds(word, finding.elements, received=True):
                    write_finding(word, finding, self._tensors)
                    if self._holds(word, finding.elements, received=False):
                        kind = "repaired"
        seconds = time.perf_counter() - began
        self._count(busy_seconds=seconds)
        if pause:
            self._stopped.wait(seconds * (1.0 / self._share - 1.0))
        if kind == "repaired":
            self._count(repairs=1, elements_repaired=len(finding.elements))
            outcome = outcome_of(word, finding, Verdict.CORRECTED)
        else:
            self._count(uncorrectable=kind == "uncorrectable")
            outcome = outcome_of(word, finding)
        return Event(kind, time.time(), self.counters.sweeps, outcome)

    def _valid(self, updates: int) -> bool:
        """Whether no update began or went on since ``updates`` was read: else what looked like
        damage may be the update.
        """
        return updates == self._updates and updates % 2 == 0

    def _is_clean(self, word: SealedWord, pause: bool) -> bool:
        """Compare the checks of a word with its seal, with pauses."""
        if not isinstance(word.code, Modular):
            found = self._paused(lambda: find(word, self._tensors).verdict is Verdict.CLEAN, pause)
            return bool(found)
        code, total = word.code, word.code.zeros()
        for pieces, start in reads(word.parts):

            def add(pieces: list[Part] = pieces, start: int = start) -> int:
                add_sums(code, total, self._tensors, pieces, start)
                return sum(piece.count * item_size(piece.dtype) for piece in pieces)

            self._count(bytes_read=self._paused(add, pause))
            if pause and self._stopped.is_set():
                return True
        return not code.subtract(total, word.target).any()

    def _paused(self, work: Callable[[], int], pause: bool) -> int:
        """Do a piece of work, then rest so that the share is kept."""
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
        self._count(busy_seconds=seconds)
        if pause:
            self._stopped.wait(seconds * (1.0 / self._share - 1.0))
        return result

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
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(event.to_json() + "\n")
        self._on_event(event)


class _Gate:
    """Lets forward passes go side by side, and nothing beside a change of weights."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._owner: int | None = None
        self._depth = threading.local()
        self._handles: list[Any] = []

    def attach(self, model: torch.nn.Module) -> None:
        # always_call: a pass that raises must not keep the gate shut for ever.
        self._handles = [
            model.register_forward_pre_hook(lambda *_: self._enter()),
            model.register_forward_hook(lambda *_: self._leave(), always_call=True),
        ]

    def _enter(self) -> None:
        depth = getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        if depth or self._owner == threading.get_ident():
            return  # a pass within a pass, or within an update
        with self._condition:
            self._condition.wait_for(lambda: self._owner is None)
            self._inside += 1

    def _leave(self) -> None:
        depth = getattr(self._depth, "value", 0)
        if not depth:
            return  # it entered before the hooks were there
        self._depth.value = depth - 1
        if depth > 1 or self._owner == threading.get_ident():
            return
        with self._condition:
            self._inside -= 1
            self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: self._owner is None)
            self._owner = threading.get_ident()
            self._condition.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._condition:
                self._owner = None
                self._condition.notify_all()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def serve_metrics(scrubber: Scrubber, port: int = 9464, address: str = "127.0.0.1") -> Any:
    """Serve a scrubber's counters to Prometheus (needs the ``serve`` extra).

    Args:
        scrubber: whose counters.
        port: TCP port; 0 takes a free one.
        address: to listen on.

    Returns:
        (server, thread) of prometheus_client; ``server.shutdown()`` ends it.

    Raises:
        SpecError: if prometheus_client is not installed.
        OSError: if the port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import CounterMetricFamily
    except ImportError:
        raise SpecError(
            "serving metrics needs prometheus_client: pip install 'parimend[serve]'"
        ) from None

    class Collector:
        def collect(self) -> Iterator[Any]:
            for name, value in asdict(scrubber.counters).items():
                yield CounterMetricFamily(
                    f"parimend_scrub_{name}", f"Total {name.replace('_', ' ')}.", value=value
                )

    registry = CollectorRegistry()
    registry.register(Collector())
    return start_http_server(port, address, registry)
