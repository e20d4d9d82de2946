"""What a trace found, as frozen records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from parimend.experiment import Estimate
from parimend.record import Record
from parimend.showing import html_table


def shown(layer: str) -> str:
    """The name of a module for people: that of the model itself is empty."""
    return layer or "(model)"


@dataclass(frozen=True, repr=False)
class Passage(Record):
    """An error at one call of one module, behind the layer that was struck or at that layer.

    Attributes:
        layer: name of the module; empty for the model itself, whose output is the answer.
        call: of the module, from 0.
        kind: type of the module.
        error: ||wrong - right|| / ||right|| of the output, per input: the median.
        gain: relative error of the output in that of the module's first input, where that is wrong
            and finite: the median. NaN where no error arrives.
        masked: share of the faults that leave no error here at all.
        rounding: share of the faults whose error here is at most the rounding unit of the dtype.
    """

    layer: str
    call: int
    kind: str
    error: Estimate
    gain: Estimate
    masked: Estimate
    rounding: Estimate


@dataclass(frozen=True, repr=False)
class Group(Record):
    """How often the answer changed for some of the faults.

    Attributes:
        at: the bit that was wrong, 0 the lowest; or the lower end of a decade of relative errors
            (the first, 1e-8, has all below and the last, 1e8, all above), 0 for no error and
            infinity for one that is not finite.
        faults: observations in the group: a fault in a weight counts once for every input.
        changed: share of them that changed the answer.
    """

    at: float
    faults: int
    changed: Estimate


@dataclass(frozen=True, repr=False)
class Struck(Record):
    """What came of one kind of fault in one layer.

    Attributes:
        layer: name of the module.
        kind: type of the module.
        upset: what was done to it.
        faults: observations: one for every fault and input.
        passages: from the layer itself to the answer, in the order in which calls end.
        changed: share that changed the answer.
        by_size: the same, by the decade of the relative error in the layer's own output.
        by_bit: the same, by the bit; empty if not one single bit was wrong.
    """

    layer: str
    kind: str
    upset: str
    faults: int
    passages: Sequence[Passage]
    changed: Estimate
    by_size: Sequence[Group]
    by_bit: Sequence[Group]

    COLUMNS: ClassVar = (
        *("struck", "type", "fault", "error there", "error of the answer"),
        *("masked", "answer changed"),
    )

    @property
    def row(self) -> tuple[str, ...]:
        """The layer in a table with `COLUMNS`."""
        first, last = self.passages[0], self.passages[-1]
        numbers = (first.error, last.error, last.masked, self.changed)
        return (shown(self.layer), self.kind, self.upset, *map(str, numbers))


@dataclass(frozen=True, repr=False)
class Layer(Record):
    """What one call of one module does to errors that arrive, whatever layer they are from.

    Attributes:
        layer: name of the module; empty for the model itself.
        call: of the module, from 0.
        kind: type of the module.
        gain: as of `Passage`.
        masks: share of the wrong inputs that leave the module with no error.
    """

    layer: str
    call: int
    kind: str
    gain: Estimate
    masks: Estimate

    COLUMNS: ClassVar = ("layer", "call", "type", "gain", "masks")

    @property
    def row(self) -> tuple[str, ...]:
        """The module in a table with `COLUMNS`."""
        return shown(self.layer), str(self.call), self.kind, str(self.gain), str(self.masks)


@dataclass(frozen=True, repr=False)
class Trace(Record):
    """How errors travelled.

    Attributes:
        samples: inputs.
        faults: faults of each kind in each layer: for computed outputs one for every input more.
        struck: one entry for every kind of fault and layer that was struck.
        layers: one for every call of a module that an error arrived at.
        left_out: names of modules that were called and not watched: their outputs have no samples
            along the first axis.
        buffers: whether faults in weights could strike the buffers of modules, too.
        note: what is to be known of it, in a sentence, where most weights are out of the reach of
            faults; else empty.
    """

    samples: int
    faults: int
    struck: Sequence[Struck]
    layers: Sequence[Layer]
    left_out: Sequence[str]
    buffers: bool = False
    note: str = ""

    def __repr__(self) -> str:
        # NaN where no fault left an error: the largest of all would be that if it came first.
        seen = [each for each in self.struck if not math.isnan(each.changed.value)]
        changed = max(seen or self.struck, key=lambda each: each.changed.value)
        return (
            f"<Trace: {len(self.struck)} struck, {self.faults} faults each, {self.samples} inputs; "
            f"most answers change at {shown(changed.layer)}: {changed.changed}>"
        )

    def _repr_html_(self) -> str:
        """Tables of struck layers and of what passes through each, for a notebook."""
        return "".join(
            html_table(kind.COLUMNS, (each.row for each in some), len(some))
            for kind, some in ((Struck, self.struck), (Layer, self.layers))
        )
