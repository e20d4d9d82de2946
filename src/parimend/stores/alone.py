"""Runs that leave a model as it was: all that it is, before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from parimend.errors import ParimendError, SpecError, WordError
from parimend.names import listed
from parimend.stores.aliasing import place_of
from parimend.stores.naming import leaves
from parimend.words.bits import byte_view

Model = torch.nn.Module | Mapping[str, torch.Tensor]


def state_of(model: Model) -> dict[str, torch.Tensor]:
    """All tensors that make a network what it is, buffers too, also those that are not saved; of
    sparse ones the tensors that these are made of.

    Example:
        >>> list(state_of(torch.nn.Linear(2, 3)))
        ['weight', 'bias']
    """
    return {
        f"{name}{part}": value
        for name, (_, tensor) in leaves(model).items()
        for part, value in _parts_of(tensor.detach()).items()
    }


def _parts_of(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if tensor.layout is torch.sparse_coo:
        return {".indices": tensor._indices(), ".values": tensor._values()}
    return {"": tensor}  # torch cannot copy the other kinds that are not plain


@contextmanager
def left_alone(model: Model, where: str, error: type[ParimendError] = SpecError) -> Iterator[None]:
    """Require that a run leaves a network as it was, and where it was: what is another tensor after
    it is not the one that is struck, and what has other values would be taken for damage.

    Args:
        model: the network.
        where: the run, for the message.
        error: to raise.

    Raises:
        SpecError: or what is asked for; names the tensors.
    """
    before = _marks(model)
    yield
    after = _marks(model)
    if moved := [name for name in before | after if before.get(name) != after.get(name)]:
        raise error(
            f"{where} changes {listed(moved, most=3)}, which trials would take for damage that is "
            "not repaired: let it run a copy (copy.deepcopy), or put back what it changes"
        )


def _marks(model: Model) -> dict[str, tuple[Any, ...]]:
    """By which tensors are known again: their places and what is in them."""
    marks: dict[str, tuple[Any, ...]] = {}
    for name, value in state_of(model).items():
        with suppress(WordError):  # what has no plain bytes is not struck either
            content = hashlib.sha256(byte_view(value, name).data).digest()
            marks[name] = place_of(value), value.dtype, value.shape, content
    return marks
