"""How much of a model its named tensors are, and what is left out: buffers, packed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from parimend.stores.naming import address_of, leaves, place_of


def _buffers_of(model: Any) -> dict[str, torch.Tensor]:
    """The buffers of a module, or of those in a state dict, that have values."""
    if isinstance(model, torch.nn.Module) and next(model.buffers(), None) is None:
        return {}
    others = leaves(model, buffers=False)
    return {
        name: value
        for name, (_, value) in leaves(model).items()
        if name not in others and isinstance(value, torch.Tensor) and not is_lazy(value)
    }


class Extent(NamedTuple):
    """How much of a model some of its tensors are.

    Attributes:
        taken: bytes of these.
        buffers: of each buffer that is not among them.
        packed: of each tensor that a module saves, and has neither as a parameter nor as a buffer:
            inside of objects of their own, as quantized layers of torch have them.
    """

    taken: int
    buffers: Mapping[str, int]
    packed: Mapping[str, int]

    @property
    def left(self) -> int:
        """Bytes that are not among them."""
        return sum(self.buffers.values()) + sum(self.packed.values())

    @property
    def is_small(self) -> bool:
        """Whether most bytes are left out: those of weights then, not of statistics."""
        return self.taken < self.left


def extent_of(model: Any, tensors: Mapping[str, torch.Tensor]) -> Extent:
    """How much of a model some of its tensors are, by `named_tensors`.

    Example:
        >>> from parimend.stores.naming import named_tensors
        >>> model = torch.nn.BatchNorm1d(3)
        >>> extent_of(model, named_tensors(model)).buffers
        {'running_mean': 12, 'running_var': 12, 'num_batches_tracked': 8}
    """
    left = {n: tensor.nbytes for n, tensor in _buffers_of(model).items() if n not in tensors}
    return Extent(sum(tensor.nbytes for tensor in tensors.values()), left, packed_in(model))


def packed_in(model: Any) -> dict[str, int]:
    """Bytes of the tensors that a module saves and has neither as parameters nor as buffers."""
    saved: dict[str, Any] = {}
    for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
        if type(module)._save_to_state_dict is not torch.nn.Module._save_to_state_dict:
            module._save_to_state_dict(saved, f"{name}." if name else "", False)
    found = {n: value for n, (_, value) in leaves(saved).items() if isinstance(value, torch.Tensor)}
    known = {place_of(each.value) for each in leaves(model).values()} if found else set()
    return {
        name: value.nbytes
        for name, value in found.items()
        if value.numel() and address_of(value) and place_of(value) not in known
    }
