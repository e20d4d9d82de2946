"""One experiment, written once: damage what is protected, repair it, compare it, count.

A *target* is what is damaged: a live model with its seal, a bare code with its decoder, the sums of
a sidecar. It knows its intact state and makes damaged ones, seed by seed; one trial repairs such a
state and compares it with the intact one. What comes of many trials is a row of counts, and rows
add up: in any order, over any split of the seeds.

>>> import torch
>>> from parimend import protect_
>>> model = torch.nn.Linear(64, 32)
>>> target = ModelTarget(model, protect_(model, errors=5))
>>> counts = run(target, Faults("bitflip", 5), seeds=range(10))
>>> counts.repaired, counts.wrong
(10, 0)
>>> counts == run(target, Faults("bitflip", 5), range(4)) + run(
...     target, Faults("bitflip", 5), range(4, 10)
... )
True
"""

from parimend.experiment.codes import CodeTarget, DenseTarget, Received, Struck, Sums, SumsTarget
from parimend.experiment.counts import Counts, Outcome, Trial
from parimend.experiment.estimates import Estimate, Rate, quantile, wilson
from parimend.experiment.models import (
    ModelTarget,
    bit_patterns,
    grid_of,
    on_grid,
    same_bits,
)
from parimend.experiment.trials import Answer, Faults, Target, run, trial

__all__ = [
    "Answer",
    "CodeTarget",
    "Counts",
    "DenseTarget",
    "Estimate",
    "Faults",
    "ModelTarget",
    "Outcome",
    "Rate",
    "Received",
    "Struck",
    "Sums",
    "SumsTarget",
    "Target",
    "Trial",
    "bit_patterns",
    "grid_of",
    "on_grid",
    "quantile",
    "run",
    "same_bits",
    "trial",
    "wilson",
]
