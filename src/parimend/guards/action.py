"""After the screen: what is done with suspicious outputs, by the policy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from parimend.errors import ComputationError
from parimend.events import GuardKind
from parimend.guards.journal import Parameters
from parimend.guards.suspect import Suspect

if TYPE_CHECKING:
    from parimend.guards.checks import Checks
    from parimend.guards.layer import LayerGuard


def _judged(
    guard: LayerGuard, checks: Checks, y: Tensor, x: Tensor, parameters: Parameters
) -> tuple[Suspect, Tensor]:
    """The samples of a call that are wrong, and where, as `Suspect.wrong` gives it.

    There may be none: the screen stops what is so close to the limit that the order of summation
    decides.
    """
    stopped = Suspect.of(checks, y, x)
    wrong = stopped.wrong()
    which = wrong.any(1).nonzero().flatten()
    if len(which):
        which = which[~stopped.at(which).excused(x, parameters)]
    guard.journal.screened += len(wrong) - len(which)
    return stopped.at(which), wrong[which]


def is_wrong(
    guard: LayerGuard, checks: Checks, y: Tensor, x: Tensor, parameters: Parameters
) -> bool:
    """Whether `settle` would have anything to tell of a call; nothing is changed."""
    return len(_judged(guard, checks, y, x, parameters)[1]) > 0


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
    journal, leading = guard.journal, y.shape[: y.ndim - guard.product.dims - 1]
    suspect, wrong = _judged(guard, checks, y, x, parameters)
    if not len(wrong):
        return False
    events = suspect.events(wrong, guard.name, call, leading)
    faulty = [sample for sample, event in enumerate(events) if event.kind != "input"]

    def say(samples: list[int], kind: GuardKind, channels: tuple[int, ...] = ()) -> None:
        for sample in samples:
            events[sample] = replace(events[sample], kind=kind, channels=channels)

    def recompute(samples: list[int], kind: GuardKind) -> list[int]:
        """Those samples that are still wrong."""
        if not samples:
            return []
        which = torch.tensor(samples, device=y.device)
        suspect.recompute(which, parameters)
        again = suspect.wrong().any(1)
        say([sample for sample in samples if not again[sample]], kind)
        return [sample for sample in samples if again[sample]]

    left, policy = faulty, journal.policy
    try:
        if policy.answer == "raise":
            say(faulty, "raised")
        elif policy.answer != "record":
            if policy.answer == "correct":
                corrected = suspect.correct(faulty, wrong, parameters)
                for sample, channels in corrected.items():
                    say([sample], "corrected", channels)
                left = [sample for sample in faulty if sample not in corrected]
            left = recompute(left, "recomputed")
            if left and policy.on_weights is not None:
                policy.on_weights(replace(events[left[0]], kind="suspect"))
                left = recompute(left, "repaired")
            say(left, "suspect")
            say(suspect.overflow(left, parameters), "overflow")
            if faulty:
                _write(y, leading, suspect, torch.tensor(faulty, device=y.device))
    finally:  # also where on_weights, which is not ours, raises something
        journal.note(events)
    journal.warn_of(events)
    if policy.answer == "raise" and faulty:
        raise ComputationError(
            f"wrong outputs of {len(faulty)} samples: {events[faulty[0]]}; "
            "run it again, or take the policy 'correct'"
        )
    return True


def _write(y: Tensor, leading: torch.Size, suspect: Suspect, which: Tensor) -> None:
    """Puts corrected samples where they belong; works for outputs of any strides."""
    values = suspect.y[which].to(y.dtype).reshape(-1, *y.shape[len(leading) :])
    if leading:
        y[torch.unravel_index(suspect.index[which], leading)] = values
    else:
        y.copy_(values[0])
