"""What is told while a model runs or learns: one kind of event for whoever looks after it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from parimend.outcomes import Change, WordOutcome
from parimend.record import Record
from parimend.showing import brief, counted

ScrubKind = Literal[
    "repaired", "uncorrectable", "changed", "stuck", "late", "sealed", "unwatched", "failed"
]
"""Of a `parimend.Scrubber`. ``repaired``: the changes, bit for bit; the whole word is right if its
verdict is ``corrected``. ``uncorrectable``: left as found. ``stuck``: memory that fails again and
again, told once; its place is taken for lost from then on, which leaves more of the budget.
``late``: a sweep took longer than the interval that a target asks for.
``changed``: the damage changed while it was being located, and is looked at again. ``sealed``:
the weights were updated and have a new seal. ``unwatched``: a word could not be looked at, so
nothing is known of it; it is tried again in the next sweep. ``failed``: the scrubber could not
do something else: write its log, call ``on_event``, repair while a forward ran on, or end an
update; or tell damage that was beyond repair before an update from what that did."""

TrainingKind = Literal["repaired", "skipped", "redone", "unexplained", "accepted", "unwatched"]
"""Of `parimend.heal_` and `parimend.constrain_`. ``repaired``: elements were put back; bit for bit
by `heal_`, to within what a step moves by a constraint. ``skipped``: a gradient was wrong, or
may have been, and its step was not taken. ``redone``: so it was computed again, by the closure
that ``step`` got. ``unexplained``: a step moved the weights much farther than those before it,
and no few weights explain it. ``accepted``: what seemed wrong came again and again, so the run
has changed; or something is taken for right that may be damage: what a step that an exception ended
has left, or whoever replaced tensors; what was beyond repair when a checkpoint was loaded;
weights that are off their code when they are sealed, though no step was taken.
``unwatched``: something is not looked after any more."""

GuardKind = Literal[
    "corrected",
    "recomputed",
    "repaired",
    "suspect",
    "recorded",
    "raised",
    "input",
    "overflow",
    "replaced",
]
"""Of `parimend.guard_`: what was done. ``corrected``, ``recomputed``: as the policy says, and the
checks hold again. ``repaired``: they held only after `on_weights`. ``suspect``: they do not hold
even then, so it is not the computation that is wrong but the weights, or hardware that errs
every time. ``recorded``, ``raised``: nothing. ``input``: the input was not finite, which is no
fault of this layer. ``overflow``: the right result is too large for the dtype. ``replaced``: the
layer has other weights than the guard knows; it is no longer checked until `Guards.project_` is
called."""


@dataclass(frozen=True, repr=False)
class Event(Record):
    """Something that a scrubber, a training run or a guard noticed.

    Attributes:
        kind: what it was: `ScrubKind`, `TrainingKind` or `GuardKind`.
        where: the number of the sweep; of optimizer steps taken before; of the call of the layer.
        reason: in words; may be empty.
        changes: every wrong element that is known: those that were put back, of ``repaired``.
        word: what a scrubber knows of the word; None if it is not about one.
        time: when, in seconds since the epoch.
    """

    kind: ScrubKind | TrainingKind | GuardKind
    where: int
    reason: str = ""
    changes: Sequence[Change] = ()
    word: WordOutcome | None = None
    time: float = field(default_factory=time.time, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`; of ``word`` without its changes, which are those of the event."""
        record = super().as_dict()
        if self.word is not None:
            del record["word"]["changes"]
        return record

    def __repr__(self) -> str:
        found = counted(len(self.changes), "element") + (self.reason and f": {brief(self.reason)}")
        return f"<{type(self).__name__}: {self.kind} at {self.where}, {found}>"
