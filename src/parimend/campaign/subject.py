"""A protected network on the bench: struck, repaired, compared and scored, again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.campaign.damage import Damage, damage_of
from parimend.campaign.networks import Metric, Model, parameters, state_of
from parimend.campaign.protections import Protection
from parimend.campaign.stats import Row
from parimend.campaign.task import Task
from parimend.campaign.weather import Weather
from parimend.errors import CampaignError
from parimend.experiment import Answer, bit_patterns, trial
from parimend.faults import FaultList
from parimend.outcomes import Verdict
from parimend.words.bits import byte_view


class Subject:
    """A target of experiments that damages one network in place and puts it back afterwards.

    Args:
        model: as it was protected; damage strikes it, and is put right before the next.
        intact: a copy of it, which is not changed.
        protection: of it.
        kept: what that keeps beside the weights.
        metric: that scores it; None without one.
        score: of the intact network.
    """

    def __init__(
        self,
        model: Model,
        intact: Model,
        protection: Protection,
        kept: Any,
        metric: Metric | None = None,
        score: float | None = None,
    ) -> None:
        self.model, self.protection, self.kept = model, protection, kept
        self.metric, self.score_intact = metric, score
        self.tensors = parameters(model)
        self.words = bit_patterns(self.tensors)
        self.live, self.intact = _bytes_of(model), _bytes_of(intact)
        self.differs: list[str] = []
        self.stuck: FaultList | None = None

    def damaged(self, damage: Damage | Weather, seed: int) -> Model:
        self.restore_()
        faults = damage.draw(self.words, seed)
        faults.apply_(self.words)
        self.stuck = faults if damage.stays else None
        return self.model

    def repair_(self, state: Model) -> Answer:
        answer = self.protection.repair_(self.tensors, self.kept)
        if self.stuck is None:
            return answer
        self.stuck.apply_(self.words, force=True)
        # What was put right is wrong again: found, and not repaired.
        repaired = answer.verdict is Verdict.CORRECTED
        return Answer(Verdict.UNCORRECTABLE, answer.found) if repaired else answer

    def same(self, state: Model) -> bool:
        self.differs = [
            name for name, data in self.live.items() if not np.array_equal(data, self.intact[name])
        ]
        return not self.differs

    def score(self, state: Model) -> float:
        """The score; that of the intact network is known."""
        assert self.metric is not None
        if not self.differs and self.score_intact is not None:
            return self.score_intact
        return self.metric(state)

    def restore_(self) -> None:
        """Put back what is not as it was."""
        for name, data in self.live.items():
            if not np.array_equal(data, self.intact[name]):
                data[:] = self.intact[name]

    def work(self, task: Task) -> Row:
        """Do the trials of a task.

        Raises:
            CampaignError: if one fails; names it.
        """
        damage = damage_of(task.fault, task.stratum)
        score = self.score if self.metric else None
        trials = []
        with one_thread():
            for number, seed in enumerate(task.seeds(), task.start):
                try:
                    trials.append(trial(self, damage, seed, score, twice=False))
                except CampaignError as error:
                    raise CampaignError(
                        f"{task.network}, {task.protection.name}, {task.fault.name}, trial "
                        f"{number}: {error}"
                    ) from error
        return Row.of(task, trials)


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
