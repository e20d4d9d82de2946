"""What damage does to the answers of a model, and what protecting it does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from parimend import carriers
from parimend.carriers import Request
from parimend.errors import SpecError
from parimend.faults import Words, draw
from parimend.functions import score_of
from parimend.record import Record
from parimend.stores.base import Tensors

ENOUGH = 100
"""Inputs that answers are compared on, at least."""
MOST = 2000
"""Inputs that are used, at most."""
TRIALS = 8
"""Times that a model is damaged."""

Metric = Callable[[Any], float]


@dataclass(frozen=True, repr=False)
class Stake(Record):
    """Scores of a model; measured.

    Attributes:
        metric: what the scores are.
        intact: before anything is done.
        protected: when it is protected, and not damaged.
        damaged: not protected, with a flipped bit in as many elements as the budget has errors, at
            random in what would be protected; one score for each trial.
    """

    metric: str
    intact: float
    protected: float
    damaged: tuple[float, ...]


def stake(
    model: Any, request: Request, calibration: Iterable[Any] | None, metric: Metric | None
) -> Stake:
    """Score a model as it is, damaged, and protected. It is not changed.

    Args:
        model: a module.
        request: the protection.
        calibration: batches of inputs; see `parimend.Real`.
        metric: a score of a model in evaluation mode; by default the share of inputs whose largest
            output stays the same.

    Raises:
        SpecError: if it is no module, there are too few inputs, or a score is no finite number.
    """
    import torch

    from parimend.model import tensors_to_protect

    if not isinstance(model, torch.nn.Module):
        raise SpecError("calibration and metric are for a module, which can be run: load it first")
    model = copy.deepcopy(model).eval()
    name = getattr(metric, "__name__", "metric")
    if metric is None:
        given = () if calibration is None else calibration
        metric, name = _same_answers(model, given), "same answers"

    def score(of: Any) -> float:
        return score_of(metric(of), name)

    def damaged(seed: int) -> float:
        state = copy.deepcopy(model)
        _flip_(tensors_to_protect(state, request.only, request.buffers), request.errors, seed)
        return score(state)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out, and moved far: it has been said
        protected = copy.deepcopy(model)
        tensors = tensors_to_protect(protected, request.only, request.buffers)
        carriers.protect_(tensors, request.fitted(protected, tensors))
        scores = tuple(damaged(seed) for seed in range(TRIALS))
        return Stake(name, score(copy.deepcopy(model)), score(protected), scores)


def _same_answers(model: Any, calibration: Iterable[Any]) -> Metric:
    """The share of inputs whose largest output is where it is now."""
    from parimend.impose.batches import batches_of
    from parimend.planner.agreement import Agreement

    batches = batches_of(calibration, MOST)
    count = sum(batch.inputs for batch in batches)
    if count < ENOUGH:
        raise SpecError(f"{count} calibration inputs are too few: give {ENOUGH} or more")
    return Agreement(copy.deepcopy(model), batches)


def _flip_(tensors: Tensors, count: int, seed: int) -> None:
    """Flip a bit in each of so many elements; of what is no number in each of so many bytes."""
    data = {part: tensors.read(part).reshape(-1).copy() for part in tensors.whole()}
    words = [Words.of_bytes(part.name, each, part.dtype) for part, each in data.items()]
    draw("bitflip", words, min(count, sum(map(len, words))), seed).apply_(words)
    for part, each in data.items():
        tensors.write(part, None, each.reshape(part.count, part.itemsize))
