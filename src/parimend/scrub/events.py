"""What a scrubber tells: events and totals."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

from parimend.records import WordOutcome

EventKind = Literal["repaired", "uncorrectable", "changed", "sealed", "unwatched", "failed"]


@dataclass(frozen=True)
class Event:
    """Something that the scrubber noticed.

    Attributes:
        kind: ``repaired``; ``uncorrectable`` (left as found); ``changed`` (the damage changed while
            it was being located, and is looked at again); ``sealed`` (the weights were updated and
            have a new seal); ``unwatched`` (a word could not be looked at, so nothing is known of
            it; it is tried again in the next sweep); ``failed`` (the scrubber could not do
            something else: write its log, call ``on_event``, or repair while a forward ran on).
        time: seconds since the epoch.
        sweep: number of the sweep.
        word: what is known of the word; None for ``sealed``, ``unwatched`` and ``failed``.
        reason: why, for ``unwatched`` and ``failed``.
    """

    kind: EventKind
    time: float
    sweep: int
    word: WordOutcome | None = None
    reason: str = ""

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
    """Totals since the scrubber was made.

    Attributes:
        sweeps: rounds over all words.
        bytes_read: of weights.
        repairs: words with damage that was repaired.
        elements_repaired: elements in them.
        uncorrectable: times that a word was found with more damage than its budget.
        changed: times that damage changed while it was being located.
        failures: events of kind ``unwatched`` and ``failed``.
        busy_seconds: spent looking and repairing.
    """

    sweeps: int = 0
    bytes_read: int = 0
    repairs: int = 0
    elements_repaired: int = 0
    uncorrectable: int = 0
    changed: int = 0
    failures: int = 0
    busy_seconds: float = 0.0
