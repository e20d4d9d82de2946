"""What is kept of the tensors of models: in one piece, or spread over processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parimend.fingerprints.record import Fingerprint, Print
from parimend.fingerprints.sums import prints_of
from parimend.stores.spread import is_sharded, local

if TYPE_CHECKING:
    import torch


def tensors_of(model: Any) -> dict[str, Any]:
    """The tensors of a module or of a (nested) state dict by name, and what hides some.

    Raises:
        WordError: see `parimend.stores.naming.leaves`.
    """
    import torch

    from parimend.stores.model import unwrapped
    from parimend.stores.naming import leaves

    model = unwrapped(model)
    # As a file would have it: with the buffers that are saved, and without those that are not.
    found = leaves(model.state_dict() if isinstance(model, torch.nn.Module) else model)
    return {name: leaf.value for name, leaf in found.items()}


def found_in(tensors: Mapping[str, Any]) -> Fingerprint:
    """What is kept of some tensors, and which of them are the memory of others.

    Raises:
        WordError: if one is no tensor, or has no plain bytes; names it.
    """
    from parimend.stores.naming import require_plain
    from parimend.stores.shards import store_of

    read = {name: _as_read(value) for name, value in tensors.items()}
    for name, value in read.items():
        require_plain(name, value)
    tied = _tied(tensors)
    prints: dict[str, Print] = {}
    for group in _alike({name: value for name, value in read.items() if name not in tied}):
        store = store_of(group)
        prints |= prints_of(store, store.whole())
    prints |= {name: prints[first] for name, first in tied.items()}
    return Fingerprint({name: prints[name] for name in tensors}, tied)


def _as_read(value: Any) -> Any:
    """A tensor; of a view that is conjugated or negated when it is read, what is read."""
    import torch
    from torch.nn.parameter import is_lazy

    if not isinstance(value, torch.Tensor) or is_lazy(value) or is_sharded(value):
        return value
    return value.resolve_conj().resolve_neg() if value.is_conj() or value.is_neg() else value


def _tied(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names of tensors that are the memory of one before, and its name; all processes find the same
    ones, whether they hold anything of them or not.
    """
    from parimend.stores.aliasing import place_of_none

    first: dict[Any, str] = {}
    tied = {}
    memory: tuple[Any, ...]
    for name, tensor in tensors.items():
        held = local(tensor)
        if held.numel():
            memory = held.data_ptr(), held.device, held.stride(), held.is_conj(), held.is_neg()
        elif is_sharded(tensor):
            memory = place_of_none(held)
        else:
            continue
        place = (*memory, tensor.dtype, tensor.shape)
        if (other := first.setdefault(place, name)) != name:
            tied[name] = other
    return tied


def _alike(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The tensors in groups that are spread over processes in the same way."""
    from parimend.stores.shards import split_dimensions

    groups: dict[Any, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        mesh = getattr(tensor, "device_mesh", None)
        way = None if mesh is None else (mesh, *split_dimensions(name, tensor))
        groups.setdefault(way, {})[name] = tensor
    return list(groups.values())
