"""How much of a model its named tensors are, and what is left out: buffers, tensors elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from parimend.names import listed
from parimend.stores.aliasing import added_bytes, address_of, storage_of
from parimend.stores.naming import leaves


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
        packed: of each tensor that is neither a parameter nor a buffer, see `packed_in`.
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
            where = "in attributes that are neither parameters nor buffers"
            found.append(f"{where} ({listed(self.packed, most=3)})")
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
    """Bytes of the tensors of a module that are neither parameters nor buffers: what it saves
    besides these, as quantized layers of torch do, else its attributes, and lists, tuples and
    dictionaries of tensors among them. What is computed from parameters is left out, such as the
    ``weight`` that pruning makes.

    Example:
        >>> module = torch.nn.Linear(2, 2)
        >>> module.table, module.same = [torch.zeros(3)], module.weight[0]
        >>> packed_in(module)
        {'table.0': 12}
    """
    if not isinstance(model, torch.nn.Module):
        return {}
    found: dict[str, torch.Tensor] = {}
    known = {storage_of(value) for _, value in leaves(model).values()}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        saved = {key: each for key, each in _saved_by(module) if storage_of(each) not in known}
        if saved:  # the same as some attributes, or copies of them
            found |= {prefix + key: each for key, each in saved.items()}
            continue
        computed: list[tuple[str, torch.Tensor]] = []
        attributes: list[tuple[str, torch.Tensor]] = []
        for key, value in vars(module).items():
            if key not in ("_parameters", "_buffers", "_modules"):
                (computed if _is_computed(module, key) else attributes).extend(_within(key, value))
        known |= {storage_of(each) for _, each in computed}
        found |= {prefix + key: each for key, each in attributes if not _has_history(each)}
    sizes, seen = {}, set()
    for key, each in found.items():
        place = (address_of(each), each.nbytes)
        if each.numel() and place[0] and storage_of(each) not in known and place not in seen:
            seen.add(place)
            sizes[key] = each.nbytes
    return sizes


def _saved_by(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a module itself saves if it has a way of its own."""
    saved: dict[str, Any] = {}
    if type(module)._save_to_state_dict is not torch.nn.Module._save_to_state_dict:
        module._save_to_state_dict(saved, "", False)
    for name, (_, value) in leaves(saved).items():
        yield from _within(name, value)


def _is_computed(module: torch.nn.Module, name: str) -> bool:
    """Whether an attribute is made of ``weight_orig``, ``weight_g`` and the like."""
    made_of = (*module._parameters.keys(), *module._buffers.keys())  # of TorchScript no dicts
    return any(each.startswith(f"{name}_") for each in made_of)


def _has_history(tensor: torch.Tensor) -> bool:
    """Whether a tensor was computed from others that may learn."""
    try:
        return tensor.grad_fn is not None
    except RuntimeError:  # of one of several views whose base was changed, as by an optimizer
        return True


def _within(
    name: str, value: Any, above: tuple[int, ...] = ()
) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor, or the tensors in plain containers, by name."""
    if isinstance(value, torch.Tensor):
        if not is_lazy(value) and value.layout is torch.strided and not value.is_nested:
            yield name, value
    elif isinstance(value, list | tuple | dict) and id(value) not in above:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in list(pairs):
            yield from _within(f"{name}.{key}", each, (*above, id(value)))
