"""Scrubbing: a running model looks after its own weights in the background."""

from parimend.scrub.events import Counters, Event, EventKind
from parimend.scrub.metrics import serve_metrics
from parimend.scrub.scrubber import Scrubber

__all__ = ["Counters", "Event", "EventKind", "Scrubber", "serve_metrics"]
