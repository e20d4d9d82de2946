"""Scrubbing: a running model looks after its own weights in the background."""

from parimend.scrub.counters import Counters
from parimend.scrub.metrics import serve_metrics
from parimend.scrub.scrubber import Scrubber

__all__ = ["Counters", "Scrubber", "serve_metrics"]
