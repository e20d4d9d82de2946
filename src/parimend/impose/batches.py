"""Batches of calibration data, in any of the forms that loaders give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from parimend.arguments import require_iterable
from parimend.errors import CalibrationError


class Batch(NamedTuple):
    """Inputs of one forward pass: tensors by name, or one without a name.

    Attributes:
        named: keyword arguments.
        only: the input, if there are none.
        inputs: how many, along the first axis of the first tensor.
    """

    named: Mapping[str, Any]
    only: Tensor | None
    inputs: int


def batch_of(given: Any) -> Batch:
    """A batch as users give it.

    Args:
        given: a tensor, a tuple or list that begins with one (what else is in it is ignored), or a
            mapping of keyword arguments.

    Raises:
        CalibrationError: if it is nothing of these.

    Example:
        >>> batch_of((torch.zeros(8, 3), "labels")).inputs
        8
    """
    if isinstance(given, tuple | list) and given:
        given = given[0]
    named = dict(given) if isinstance(given, Mapping) else {}
    first = next((v for v in named.values() if isinstance(v, Tensor) and v.dim()), given)
    if not isinstance(first, Tensor) or not first.dim():
        raise CalibrationError(
            "a batch must be a tensor, a tuple or list that begins with one, or a mapping of "
            f"keyword arguments with one, not {type(given).__name__}"
        )
    return Batch(named, None if named else first, len(first))


def batches_of(given: Iterable[Any], most: int) -> list[Batch]:
    """The first batches, until there are ``most`` inputs.

    Raises:
        CalibrationError: for a tensor in place of batches, or a batch of another kind.
    """
    found: list[Batch] = []
    for each in iterable(given):
        if sum(batch.inputs for batch in found) >= most:
            break
        found.append(batch_of(each))
    return found


def iterable(given: Iterable[Any]) -> Iterable[Any]:
    """The batches; refuses a single tensor, whose rows would be taken for batches."""
    what = "an iterable of batches"
    require_iterable(given, "calibration", what, error=CalibrationError)
    if isinstance(given, Tensor):
        raise CalibrationError(f"batches must be {what}, not a tensor: give [x]")
    return given


def run(model: nn.Module, batch: Batch) -> Any:
    """The output of a model for a batch, which is moved to the device of its first parameter."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if batch.only is not None:
        return model(batch.only.to(device))
    return model(
        **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.named.items()}
    )
