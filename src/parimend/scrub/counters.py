"""Totals of a scrubber."""

from __future__ import annotations

from dataclasses import dataclass

from parimend.record import Record


@dataclass(frozen=True, repr=False)
class Counters(Record):
    """Totals since the scrubber was made.

    Attributes:
        sweeps: rounds in which all of every word was seen.
        bytes_read: of weights.
        repairs: words with damage that was repaired.
        elements_repaired: elements in them.
        uncorrectable: times that a word was found with more damage than its budget.
        changed: times that damage changed while it was being located.
        late: sweeps that took longer than the interval that a target asks for.
        failures: events of kind ``unwatched`` and ``failed``.
        busy_seconds: spent looking and repairing.
    """

    sweeps: int = 0
    bytes_read: int = 0
    repairs: int = 0
    elements_repaired: int = 0
    uncorrectable: int = 0
    changed: int = 0
    late: int = 0
    failures: int = 0
    busy_seconds: float = 0.0
