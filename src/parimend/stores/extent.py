"""How much of a model its named tensors are, and what is left out: buffers, packed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from parimend.names import listed
from parimend.stores.naming import added_bytes, address_of, leaves, place_of


def _buffers_of(model: Any) -> dict[str, torch.Tensor]:
    """The buffers of a module, or of those in a state dict."""
    if isinstance(model, torch.nn.Module) and next(model.buffers(), None) is None:
        return {}
    others = leaves(model, buffers=False)
    return {
        name: value
        for name, (_, value) in leaves(model).items()
        if name not in others and isinstance(value, torch.Tensor)
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
    def others(self) -> str:
        """Where the bytes are that are not among them, for a sentence; empty if there are none."""
        found = []
        if self.buffers:
            found.append(f"buffers, which buffers=True takes in ({listed(self.buffers, most=3)})")
        if self.packed:
            found.append(f"in objects that hide them ({listed(self.packed, most=3)})")
        return ", or ".join(found)

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
    return extent_beside(tensors, _buffers_of(model), packed_in(model))


def extent_beside(
    tensors: Mapping[str, torch.Tensor],
    buffers: Mapping[str, torch.Tensor],
    packed: Mapping[str, int],
) -> Extent:
    """The extent of tensors beside buffers, some of which may be among them, and what is packed;
    memory under several names counts once, and what has no plain memory not at all.

    Example:
        >>> table = torch.zeros(10)
        >>> extent_beside({"a": torch.zeros(2)}, {"b": table, "c": table}, {}).buffers
        {'b': 40}
    """
    plain = {
        name: tensor
        for name, tensor in {**buffers, **tensors}.items()
        if not (is_lazy(tensor) or tensor.is_nested) and tensor.layout is torch.strided
    }
    first = sorted(plain, key=lambda name: name not in tensors)
    added = added_bytes({name: plain[name] for name in first})
    left = {name: count for name, count in added.items() if count and name not in tensors}
    return Extent(sum(added.values()) - sum(left.values()), left, packed)


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
