"""How many answers of a model stay what they were: a score that takes no labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parimend.errors import SpecError
from parimend.impose.batches import Batch, run


class Agreement:
    """The share of inputs whose largest output is the one of the undamaged model. Where an output
    is NaN there is no largest one: that is an answer of its own.

    Args:
        model: undamaged, in evaluation mode.
        batches: of inputs.

    Raises:
        SpecError: if the model does not put out classes.
    """

    def __init__(self, model: torch.nn.Module, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._right = self._answers(model)

    def __call__(self, model: torch.nn.Module) -> float:
        return float((self._answers(model) == self._right).double().mean())

    def _answers(self, model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            outputs = [run(model, batch) for batch in self._batches]
        if not all(isinstance(y, torch.Tensor) and y.dim() >= 2 for y in outputs):
            kind = type(outputs[0]).__name__
            raise SpecError(f"the model puts out a {kind} without classes: give a metric")
        answers = [y.argmax(-1).masked_fill(y.isnan().any(-1), -1) for y in outputs]
        return torch.cat([each.flatten() for each in answers])
