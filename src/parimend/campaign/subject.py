"""A protected network on the bench: struck, repaired, compared and scored, again and again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.arguments import whole_number
from parimend.campaign.computing import Computing
from parimend.campaign.damage import Damage, damage_of
from parimend.campaign.environment_damage import EnvironmentDamage
from parimend.campaign.networks import Metric, struck
from parimend.campaign.protections import Protection, blaming
from parimend.campaign.stats import Row
from parimend.campaign.task import Task
from parimend.errors import CampaignError, ParimendError
from parimend.experiment import Answer, bit_patterns, trial
from parimend.faults import FaultList, Words
from parimend.outcomes import Verdict, worst
from parimend.stores.alone import Model, state_of
from parimend.upsets import Upsets
from parimend.words.bits import byte_view


@dataclass
class Struck:
    """The network in one trial. All that is known of a trial is here, and ends with it.

    Attributes:
        stuck: faults whose bits are wrong again after a repair.
        upsets: makes runs wrong as long as its context lasts.
        ran: score of the run that belongs to the repair.
        changed: whether weights are others than before, after the repair.
    """

    stuck: FaultList | None = None
    upsets: Callable[[], AbstractContextManager[Upsets]] | None = None
    ran: float | None = None
    changed: bool = False


class Subject:
    """A target of experiments that damages one network in place and puts it back afterwards.

    Args:
        model: as it was protected; damage strikes it, and is put right before the next.
        intact: a copy of it, which is not changed.
        protection: of it.
        kept: what that keeps beside the weights; damage may strike it, too.
        metric: that scores it; None without one.
        score: of the intact network.
        slack: a score that is no further from that one counts as the same.
        buffers: whether they are struck and protected, too.

    Raises:
        CampaignError: if the metric fails, or the intact network has another score here.
    """

    def __init__(
        self,
        model: Model,
        intact: Model,
        protection: Protection,
        kept: Any,
        metric: Metric | None = None,
        score: float | None = None,
        slack: float = 0.0,
        buffers: bool | None = None,
    ) -> None:
        self.model, self.protection, self.kept = model, protection, kept
        self.metric, self.score_intact, self.slack = metric, score, slack
        self.tensors = struck(model, buffers)
        self.words = bit_patterns(self.tensors)
        self.live, self.intact = _bytes_of(model), _bytes_of(intact)
        exposed = protection.exposed(kept)
        self.beside = [Words(name, data, "U8") for name, data in exposed.items() if data.size]
        self.beside_intact = [words.bits.copy() for words in self.beside]
        self.watch = protection.watch_(model, kept)
        if metric is not None:
            # What watches may look at weights in the first run, as guards do when autocast has
            # them in another dtype: these must not be those of some trial.
            self._require_score(
                "the metric or its data was changed while this process had it loaded (begin a new "
                "one), or depends on more than the network, as on random numbers"
            )
        self._left_nothing = metric is None

    def damaged(self, damage: Damage | EnvironmentDamage | Computing, seed: int) -> Struck:
        self.restore_()
        if isinstance(damage, Computing):
            return Struck(upsets=lambda: damage.strike_(self.model, seed))  # type: ignore[arg-type]
        faults = damage.draw(self.words, seed)
        beside = damage.draw_beside(self.beside, self.words, seed)
        faults.apply_(self.words)
        if beside is not None:
            beside.apply_(self.beside)
        return Struck(stuck=faults if damage.stays else None)

    def repair_(self, state: Struck) -> Answer:
        answer = _answer(self.protection.repair_(self.tensors, self.kept), "repair_")
        if state.upsets or self.protection.tells:
            seen = self._run(state)
            answer = Answer(worst(answer.verdict, seen.verdict), answer.found + seen.found)
        if state.stuck is None:
            return answer
        state.stuck.hold_(self.words)
        # What was put right is wrong again: found, and not repaired.
        repaired = answer.verdict is Verdict.CORRECTED
        return Answer(Verdict.UNCORRECTABLE, answer.found) if repaired else answer

    def same(self, state: Struck) -> bool:
        """Whether the weights are as before; of upsets, which leave them alone, the score."""
        state.changed = any(
            not np.array_equal(data, self.intact[name]) for name, data in self.live.items()
        )
        if state.changed or not state.upsets:
            return not state.changed
        assert state.ran is not None
        assert self.score_intact is not None
        return abs(state.ran - self.score_intact) <= self.slack

    def score(self, state: Struck) -> float:
        """The score; that of the intact network is known."""
        assert self.metric is not None
        if state.ran is not None and state.stuck is None:
            return state.ran
        if not state.changed and self.score_intact is not None:
            return self.score_intact
        with _told():
            return self.metric(self.model)

    def restore_(self) -> None:
        """Put back what is not as it was."""
        for name, data in self.live.items():
            if not np.array_equal(data, self.intact[name]):
                data[:] = self.intact[name]
        for words, intact in zip(self.beside, self.beside_intact, strict=True):
            words.bits[:] = intact

    def _require_score(self, why: str) -> None:
        """Refuse a network that is intact and does not score as such; ``why`` that may be."""
        with one_thread():
            self._run(state := Struck())
        ran, before = state.ran, self.score_intact
        if ran is None or before is None or abs(ran - before) <= self.slack:
            return
        raise CampaignError(
            f"the intact network scores {ran} in a worker, and {before} before: {why}"
        )

    def _require_nothing_left(self) -> None:
        """Refuse results of trials that would depend on those before, once there are some."""
        if not self._left_nothing:
            self.restore_()
            self._require_score(
                "the network or the metric keeps something of damaged runs, other than in tensors "
                "of the network, which are put back: let no run leave anything for the next"
            )
            self._left_nothing = True

    def _run(self, state: Struck) -> Answer:
        """Run the network, and ask what was seen on the way."""
        assert self.metric is not None
        self.watch.seen()  # of runs before this one, as for a score: no part of the answer
        with _told(), state.upsets() if state.upsets else nullcontext() as upsets:
            state.ran = self.metric(self.model)
        if upsets is not None and not upsets.struck:
            raise CampaignError(
                "nothing was struck, so the run says nothing about the fault: in the metric, the "
                "layers are called less often than every= says (every = 1 strikes each call), or "
                "what only= and operations= name is never called"
            )
        return _answer(self.watch.seen(), "seen")

    def work(self, task: Task) -> Row:
        """Do the trials of a task.

        Raises:
            CampaignError: if one fails; names it; or if it changes what comes after it.
        """
        damage = damage_of(task.fault, task.stratum)
        score = self.score if self.metric else None
        trials = []
        with one_thread():
            for number, seed in enumerate(task.seeds(), task.start):
                names = task.network, task.protection.name, task.fault.name
                where = f"{', '.join(names)}, trial {number}"
                with blaming(task.protection, where):
                    try:
                        trials.append(trial(self, damage, seed, score, twice=False))
                    except ParimendError as error:
                        raise CampaignError(f"{where}: {error}") from error
        self._require_nothing_left()
        return Row.of(task, trials)


def _answer(given: Any, hook: str) -> Answer:
    """What a hook of a protection gives, which may be a user's.

    Raises:
        CampaignError: if it is no answer; names the hook.
    """
    where = f"{hook} of the protection"
    if not (isinstance(given, Answer) and isinstance(given.verdict, Verdict)):
        said = f"an Answer of parimend.experiment with a Verdict, not {given!r:.60}"
        raise CampaignError(f"{where} must give {said}")
    found = whole_number(given.found, f"{where}: found", least=0, error=CampaignError)
    return Answer(given.verdict, found)


@contextmanager
def _told() -> Iterator[None]:
    """Guards need not warn of what stays wrong: rows count it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*outputs are wrong, also when computed again")
        yield


def _bytes_of(model: Model) -> dict[str, NDArray[np.uint8]]:
    return {name: byte_view(each, name) for name, each in state_of(model).items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: sums then have one order, and workers do not fight for cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
