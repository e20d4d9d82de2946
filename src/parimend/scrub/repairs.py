"""What a repair of a live word came to: what holds now, and what memory does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parimend.carriers.base import NOT_HELD, outcome_of
from parimend.carriers.finding import Element, Finding, Place, places_of
from parimend.events import Event, ScrubKind
from parimend.outcomes import Verdict
from parimend.risk.events import events_in
from parimend.scrub.memory import FAILURES, Memory
from parimend.seal import SealedWord


class Repaired(NamedTuple):
    """What a repair came to.

    Attributes:
        events: to tell.
        elements: that were put right.
        struck: so many events had damaged what was put right; memory that fails for good is none.
    """

    events: list[Event]
    elements: int
    struck: int


def repaired(
    word: SealedWord, finding: Finding, holds: Sequence[bool], memory: Memory, sweep: int
) -> Repaired:
    """Sort out what was written, note it in ``memory``, and say it.

    The word is right again only if all of it holds. What does not hold is known, and stays wrong;
    it is told once.

    Args:
        word: that was repaired.
        finding: what was written.
        holds: which of its elements are right now.
        memory: what is known to fail.
        sweep: the number of the sweep.
    """
    elements = list(zip(finding.elements, holds, strict=True))
    kept = [element for element, right in elements if right]
    put, lost = (
        list(places_of(word.parts, (element for element, right in elements if right is which)))
        for which in (True, False)
    )
    struck = _struck(set(put) - set(memory.stuck_in(word)))
    new = memory.note(word, put, lost)
    verdict, reason = (Verdict.CORRECTABLE, NOT_HELD) if lost else (Verdict.CORRECTED, "")
    outcome = outcome_of(word, finding._replace(reason=reason), verdict)

    def event(kind: ScrubKind, some: Sequence[Element], why: str) -> Event:
        changes = outcome_of(word, finding._replace(elements=some)).changes
        if kind == "stuck":
            more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
            why = f"{changes[0].tensor} {list(changes[0].index)}{more}: {why}"
        return Event(kind, sweep, why, changes, outcome)

    events = [event("repaired", kept, reason)] if kept else []
    often = f"it had to be repaired {FAILURES} times"
    for places, why in ((set(new) & set(lost), NOT_HELD), (set(new) - set(lost), often)):
        if places:
            some = [
                e for e in finding.elements if not places.isdisjoint(places_of(word.parts, [e]))
            ]
            events.append(event("stuck", some, why))
    return Repaired(events, len(kept), struck)


def _struck(places: set[Place]) -> int:
    """How many events struck these places."""
    parts = {place.part for place in places}
    return sum(
        events_in(np.array([place.word for place in places if place.part == part]))
        for part in parts
    )
