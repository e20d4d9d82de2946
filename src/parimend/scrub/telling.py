"""How a scrubber tells what it noticed: counters, the log, a callback, warnings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from parimend.events import Event, ScrubKind
from parimend.scrub.counters import Counters
from parimend.warning import warn


class Teller:
    """Brings events to those who want them, whatever they raise.

    Args:
        on_event: called with every event.
        log: file to which every event is appended as a line of JSON.

    Attributes:
        counters: totals.
        thread: the scrubbing thread, which nothing that is raised may end.
        lock: held while totals, and what is remembered of repairs, change.
    """

    def __init__(self, on_event: Callable[[Event], None], log: Path | None) -> None:
        self._on_event = on_event
        self._log = log
        self._torn = _ends_within_a_line(log)
        self._warned: set[tuple[str, type]] = set()
        self.counters = Counters()
        self.thread: threading.Thread | None = None
        self.lock = threading.RLock()

    def count(self, **more: float) -> None:
        """Add to the totals."""
        with self.lock:
            now = self.counters
            total = {name: getattr(now, name) + n for name, n in more.items()}
            self.counters = replace(now, **total)

    def tell(self, event: Event) -> None:
        """Tell of something that was noticed."""
        for channel, error in self._deliver(event):
            self.fail("failed", f"{channel} did not take an event", error)

    def fail(
        self,
        kind: ScrubKind,
        what: str,
        error: BaseException | None = None,
        then: str = "; trying again",
    ) -> Event:
        """Tell of something that went wrong, with a warning once for every cause.

        Args:
            kind: of the event.
            what: went wrong.
            error: that was the cause, if one was.
            then: what comes of it, for the warning.
        """
        cause = "" if error is None else f": {type(error).__name__}: {error}"
        event = Event(kind, self.counters.sweeps, what + cause)
        self.count(failures=1)
        self._deliver(event)
        if (key := (what, type(error))) not in self._warned:
            self._warned.add(key)
            with suppress(Warning):  # where warnings are errors; the event has been told
                warn(f"parimend.Scrubber: {what}{cause}{then}")
        return event

    def _deliver(self, event: Event) -> list[tuple[str, BaseException]]:
        """Bring an event to the log and to ``on_event``; returns what they raised."""
        failed: list[tuple[str, BaseException]] = []
        for name, send in (("the log", self._write), ("on_event", self._on_event)):
            try:
                send(event)
            except BaseException as error:
                own = threading.current_thread() is self.thread
                if not own and not isinstance(error, Exception):
                    raise
                failed.append((name, error))
        return failed

    def _write(self, event: Event) -> None:
        if self._log is None:
            return
        # What a full disk took a part of is no line, and must not become the beginning of one.
        torn, self._torn = self._torn, True
        with self._log.open("a") as file:
            file.write("\n" * torn + event.to_json() + "\n")
        self._torn = False


def _ends_within_a_line(log: Path | None) -> bool:
    """Whether the last line of a log is a part of one, as a process that was killed leaves it."""
    if log is None or not log.is_file():
        return False
    with suppress(OSError), log.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
    return False
