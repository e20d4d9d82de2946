"""After the screen: what is done with suspicious outputs, by the policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from parimend.errors import ComputationError
from parimend.events import GuardKind
from parimend.guards.journal import GuardEvent, Journal, Parameters
from parimend.guards.suspect import Suspect

if TYPE_CHECKING:
    from parimend.guards.checks import Checks
    from parimend.guards.layer import LayerGuard


def _judged(
    guard: LayerGuard, checks: Checks, y: Tensor, x: Tensor, parameters: Parameters
) -> Iterator[tuple[Suspect, Tensor]]:
    """Samples of a call that are wrong, and where, as `Suspect.wrong` gives it; some at a time.

    There may be none: the screen stops what is so close to the limit that the order of summation
    decides.
    """
    again: Tensor | None = None
    for stopped in Suspect.of(checks, y, x):
        wrong = stopped.wrong()
        which = wrong.any(1).nonzero().flatten()
        if len(which):
            if again is None:
                again = stopped.run(checks.product.samples(x), parameters)
            which = which[~stopped.at(which).excused(again, parameters)]
        guard.journal.screened += len(wrong) - len(which)
        if len(which):
            yield stopped.at(which), wrong[which]


def is_wrong(
    guard: LayerGuard, checks: Checks, y: Tensor, x: Tensor, parameters: Parameters
) -> bool:
    """Whether `settle` would have anything to tell of a call; nothing is changed."""
    return any(True for _ in _judged(guard, checks, y, x, parameters))


def settle(
    guard: LayerGuard, checks: Checks, call: int, y: Tensor, x: Tensor, parameters: Parameters
) -> bool:
    """Deals with a call that the screen stopped; writes corrected outputs into ``y``.

    Args:
        guard: of the layer.
        checks: of its weights as the layer used them.
        call: of the layer, counted from 0.
        y: outputs.
        x: inputs, in the dtype in which the layer used them.
        parameters: gives weight and bias in that dtype.

    Returns:
        Whether there was anything to tell.

    Raises:
        ComputationError: if the policy says so.
    """
    events, policy = list[GuardEvent](), guard.journal.policy
    leading = y.shape[: y.ndim - guard.product.dims - 1]
    for suspect, wrong in _judged(guard, checks, y, x, parameters):
        found = suspect.events(wrong, guard.name, call, leading)
        faulty = [sample for sample, event in enumerate(found) if event.kind != "input"]
        try:
            if policy.answer == "raise":
                _say(found, faulty, "raised")
            elif policy.answer != "record" and faulty:
                _put_right(suspect, faulty, wrong, guard.journal, parameters, found)
                # Past autograd, for which a checkpoint that keeps outputs would be out of date.
                _write(y.data, leading, suspect, torch.tensor(faulty, device=y.device))
        finally:  # also where on_weights, which is not ours, raises something
            guard.journal.note(found)
        guard.journal.warn_of(found)
        events += found
    if raised := [event for event in events if event.kind == "raised"]:
        raise ComputationError(
            f"wrong outputs of {len(raised)} samples: {raised[0]}; "
            "run it again, or take the policy 'correct'"
        )
    return bool(events)


def _say(
    events: list[GuardEvent], samples: list[int], kind: GuardKind, channels: tuple[int, ...] = ()
) -> None:
    for sample in samples:
        events[sample] = replace(events[sample], kind=kind, channels=channels)


def _put_right(
    suspect: Suspect,
    faulty: list[int],
    wrong: Tensor,
    journal: Journal,
    parameters: Parameters,
    events: list[GuardEvent],
) -> None:
    """Computes faulty samples again, and notes in the events of all samples what became of them."""

    def recompute(samples: list[int], kind: GuardKind) -> list[int]:
        """Those samples that are still wrong."""
        if not samples:
            return []
        suspect.recompute(torch.tensor(samples, device=suspect.y.device), parameters)
        again = suspect.wrong().any(1)
        _say(events, [sample for sample in samples if not again[sample]], kind)
        return [sample for sample in samples if again[sample]]

    left = faulty
    if journal.policy.answer == "correct":
        corrected = suspect.correct(faulty, wrong, parameters)
        for sample, channels in corrected.items():
            _say(events, [sample], "corrected", channels)
        left = [sample for sample in faulty if sample not in corrected]
    left = recompute(left, "recomputed")
    if left and journal.repair(replace(events[left[0]], kind="suspect")):
        left = recompute(left, "repaired")
    _say(events, left, "suspect")
    _say(events, suspect.overflow(left, parameters), "overflow")


def _write(y: Tensor, leading: torch.Size, suspect: Suspect, which: Tensor) -> None:
    """Puts corrected samples where they belong; works for outputs of any strides."""
    values = suspect.y[which].to(y.dtype).reshape(-1, *y.shape[len(leading) :])
    if leading:
        y[torch.unravel_index(suspect.index[which], leading)] = values
    else:
        y.copy_(values[0])
