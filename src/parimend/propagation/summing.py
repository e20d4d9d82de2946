"""From what single faults did to records with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.experiment import Estimate, Faults
from parimend.propagation.estimates import median, share
from parimend.propagation.records import Group, Layer, Passage, Struck
from parimend.propagation.striking import UNKNOWN, Fault
from parimend.propagation.watching import Clean, Site

Rows = NDArray[np.float64]
"""(faults, samples)."""
_DECADES = np.array([float(f"1e{n}") for n in range(-8, 9)])


@dataclass(frozen=True)
class Runs:
    """What all faults of one kind in one layer did: every array is (faults, samples).

    Attributes:
        hit: the output of the layer itself went wrong, or its weights are.
        entered: relative error of the layer's own output.
        bits: see `striking.Run`.
        changed: the answer is another one.
        inputs: relative error of what goes into each site; NaN where it is not known.
        outputs: relative error of what comes out of it.
        alike: all samples of a row met one fault: wrong weights, a stuck output, a tile, or one
            call among several.
    """

    layer: str
    upset: Fault
    hit: NDArray[np.bool_]
    entered: Rows
    bits: NDArray[np.int64]
    changed: NDArray[np.bool_]
    inputs: Mapping[Site, Rows]
    outputs: Mapping[Site, Rows]
    alike: bool


def summed(sites: Mapping[Site, Clean], runs: Runs, buffers: bool) -> Struck:
    """What came of one kind of fault in one layer; ``buffers`` as of `Trace`."""
    hit, alike = runs.hit, runs.alike
    passages = [
        Passage(
            *site,
            sites[site].kind,
            error=median(np.where(hit, error, np.nan)),
            gain=_gain(np.where(hit, runs.inputs[site], np.nan), error),
            masked=share(_where(hit, error, error == 0), alike),
            rounding=share(_where(hit, error, error <= _unit(sites[site])), alike),
        )
        for site, error in runs.outputs.items()
    ]
    return Struck(
        layer=runs.layer,
        kind=passages[0].kind,
        upset=_words(runs.upset, buffers),
        faults=int(hit.sum()),
        passages=passages,
        changed=share(np.where(hit, runs.changed, np.nan), alike),
        by_size=_groups(runs, _decades(runs.entered), hit),
        by_bit=_groups(runs, runs.bits, hit & (runs.bits != UNKNOWN)),
    )


def passing(sites: Mapping[Site, Clean], runs: Sequence[Runs]) -> Iterator[Layer]:
    """What each site does to the errors of all faults that arrive there."""
    for site, clean in sites.items():
        reached = [each for each in runs if site in each.inputs]
        if not reached:
            continue
        inputs = np.concatenate([each.inputs[site] for each in reached])
        outputs = np.concatenate([each.outputs[site] for each in reached])
        if (inputs > 0).any():
            alike = any(each.alike for each in reached)
            masks = share(np.where(inputs > 0, outputs == 0, np.nan), alike)
            yield Layer(*site, clean.kind, _gain(inputs, outputs), masks)


def _where(hit: NDArray[np.bool_], error: Rows, true: NDArray[np.bool_]) -> Rows:
    """Ones and zeros; NaN where there is nothing to see."""
    return np.where(hit & ~np.isnan(error), true, np.nan)


def _gain(inputs: Rows, outputs: Rows) -> Estimate:
    known = (inputs > 0) & np.isfinite(inputs) & ~np.isnan(outputs)
    return median(np.divide(outputs, inputs, out=np.full(inputs.shape, np.nan), where=known))


def _unit(clean: Clean) -> float:
    return torch.finfo(clean.output.dtype).eps


def _decades(errors: Rows) -> Rows:
    """The lower ends of the decades in which errors lie; 0 and infinity are their own."""
    below = np.searchsorted(_DECADES, errors, side="right") - 1
    return np.where((errors > 0) & np.isfinite(errors), _DECADES[np.maximum(below, 0)], errors)


def _groups(runs: Runs, at: Any, which: NDArray[np.bool_]) -> tuple[Group, ...]:
    groups = []
    for value in np.unique(at[which]):
        those = which & (at == value)
        found = share(np.where(those, runs.changed, np.nan), runs.alike)
        groups.append(Group(value.item(), int(those.sum()), found))
    return tuple(groups)


def _words(upset: Fault, buffers: bool) -> str:
    """A kind of fault for people."""
    if isinstance(upset, Faults):
        return f"weights{' and buffers' * buffers}: {upset.kind} x {upset.count}"
    count = f" x {upset.count}" if upset.count > 1 else ""
    size = f" of {upset.size:g}" if upset.kind not in ("bitflip", "row") else ""
    bits = f", {upset.bits} bits" if upset.bits > 1 else ""
    return f"{upset.kind}{count}{size}{bits}"
