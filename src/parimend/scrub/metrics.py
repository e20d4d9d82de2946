"""A scrubber's counters for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from parimend.arguments import require, whole_number
from parimend.errors import SpecError
from parimend.risk.pace import Pace
from parimend.scrub.scrubber import Scrubber


def serve_metrics(scrubber: Scrubber, port: int = 9464, address: str = "127.0.0.1") -> Any:
    """Serve a scrubber's counters to Prometheus (needs the ``serve`` extra).

    Args:
        scrubber: whose counters.
        port: TCP port; 0 takes a free one.
        address: to listen on.

    Returns:
        (server, thread) of prometheus_client; ``server.shutdown()`` ends it.

    Raises:
        SpecError: if prometheus_client is not installed, it is no scrubber, or no port.
        OSError: if the port is taken.
    """
    require(scrubber, "scrubber", "a Scrubber", Scrubber)
    port = whole_number(port, "port", least=0, most=65535)
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
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
            for name, value, what in (
                ("alive", scrubber.alive, "Whether the scrubbing thread runs."),
                ("unwatched_words", len(scrubber.unwatched), "Words not seen by the last sweep."),
                (
                    "last_sweep_timestamp_seconds",
                    scrubber.last_sweep,
                    "When a sweep last saw every word, since the epoch; 0 if never.",
                ),
                ("stuck_words", len(scrubber.stuck), "32-bit words that fail again and again."),
                *_paced(scrubber.pace),
            ):
                yield GaugeMetricFamily(f"parimend_scrub_{name}", what, value=value)

    registry = CollectorRegistry()
    registry.register(Collector())
    return start_http_server(port, address, registry)


def _paced(pace: Pace | None) -> Iterator[tuple[str, float, str]]:
    """Gauges of a scrubber with a target: name, value, what it is."""
    if pace is not None:
        yield "interval_seconds", 86400 * pace.interval, "From one sweep to the next."
        yield "events_per_day", pace.events, "Events that damage weights, as far as is known."
        yield "loss_probability", pace.left, "Of an unrepaired event in a year, at this interval."
