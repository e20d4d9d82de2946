"""The tensors of a model by name: what there is to protect, and what cannot be protected and why.

A module has parameters and buffers. A state dict or a training checkpoint is walked to its ends:
nested dicts, lists and tuples give dotted names (``optimizer.state.0.exp_avg``). A tensor that is
made of others (a quantized weight with its scales) gives these, below its own name.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from parimend.dtypes import of_torch
from parimend.errors import WordError
from parimend.names import is_chosen, select
from parimend.stores.aliasing import address_of, place_of, require_own_cells, without_aliases
from parimend.stores.lent import is_transformed
from parimend.stores.spread import is_sharded, require_sharded

_PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Types without affairs of their own."""
_EMPTY = frozenset((type(None), bool, int, float, complex, str, bytes))
"""Types of what holds no tensors."""


class Leaf(NamedTuple):
    """Something with a name.

    Attributes:
        owner: name of the entry or parameter that it is, or is inside of.
        value: a tensor without others inside, or an object that holds tensors and has no names for
            them.
    """

    owner: str
    value: Any


def leaves(model: Any, *, buffers: bool = True) -> dict[str, Leaf]:
    """Everything in a module or a (nested) state dict that may have to be protected, by name.

    Args:
        model: a ``torch.nn.Module`` or a mapping. Numbers, texts and the like are left out.
        buffers: also take the buffers of modules (running means and the like).

    Raises:
        WordError: if the model is of another type, two entries would have the same name, or weights
            that are sharded are together just now.

    Example:
        >>> checkpoint = {"epoch": 3, "model": torch.nn.Linear(3, 2), "ema": [torch.zeros(2)]}
        >>> list(leaves(checkpoint))
        ['model.weight', 'model.bias', 'ema.0']
    """
    if not isinstance(model, torch.nn.Module | Mapping):
        named = isinstance(model, str | os.PathLike)
        files = ": for files there are protect_file, check_file and repair_file" if named else ""
        raise WordError(
            f"expected a torch.nn.Module or a state dict, not {type(model).__name__}{files}"
        )
    found: dict[str, Leaf] = {}
    for owner, value in _walk(model, "", buffers, ()):
        for name, inner in made_of(owner, value):
            if name in found:
                raise WordError(f"two entries have the same dotted name {name}: rename one of them")
            found[name] = Leaf(owner, inner)
    return found


def named_tensors(
    model: Any, *, only: Sequence[str] | None = None, buffers: bool = False
) -> dict[str, Any]:
    """The tensors of a module or of a state dict, by name; memory that several share once.

    Args:
        model: see `leaves`.
        only: shell patterns of names to take, see `parimend.names.select`; that of a tensor that
            is made of others stands for these.
        buffers: also take the buffers of modules.

    Raises:
        WordError: if nothing is selected, or something that is cannot be protected; names it.
    """
    found = leaves(model, buffers=buffers)
    select(dict.fromkeys([*(leaf.owner for leaf in found.values()), *found]), only)
    chosen = distinct({n: value for n, (of, value) in found.items() if is_chosen((of, n), only)})
    if not any(tensor.numel() for tensor in chosen.values()):
        raise WordError("the model has no tensors to protect, or all of them are empty")
    return chosen


def distinct(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some tensors whose memory no other one has: what several share is taken once.

    Raises:
        WordError: if one has no plain memory of its own, or two share a part of it; names it.

    Example:
        >>> weight = torch.ones(2, 3)
        >>> list(distinct({"a": weight, "b": weight.t(), "c": weight[0], "d": torch.ones(3)}))
        ['a', 'd']
    """
    for name, value in tensors.items():
        require_plain(name, value)
        require_own_cells(name, value)
    return without_aliases(tensors)


def tied_to(there: Mapping[str, Leaf], tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Other names for the memory of some tensors among what `leaves` finds, and their names.

    Example:
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> there = leaves({"in": layer.weight, "out": layer.weight})
        >>> tied_to(there, {"in": layer.weight})
        {'out': 'in'}
    """
    names = {place_of(t): name for name, t in tensors.items() if t.numel()}
    found = {}
    for name, (_, value) in there.items():
        if name in tensors or not isinstance(value, torch.Tensor) or is_lazy(value):
            continue
        place = place_of(value)
        if value.numel() and place[1] and (first := names.get(place)):
            found[name] = first
    return found


def require_plain(name: str, value: Any) -> None:
    """Refuse what has no memory of its own that could be read and put right.

    A tensor on the meta device is let through: a plan for it can be made.

    Raises:
        WordError: names the tensor, what it is, and what to do.
    """
    if is_transformed():
        raise WordError(
            f"{name} has no values to look at inside a transformation of torch.func, a trace, an "
            "export or a FakeTensorMode: call this outside of it"
        )
    is_plain = type(value) in _PLAIN and value.layout is torch.strided and not value.is_nested
    if is_plain and value.is_floating_point() and not value.is_neg():
        of_torch(value.dtype, name)
        return
    kind = type(value).__name__
    if not isinstance(value, torch.Tensor):
        raise WordError(
            f"{name} is a {kind}, whose numbers have no names: put tensors in its place (its "
            "state_dict(), torch.from_numpy), or say with only=... what is to be protected"
        )
    if is_lazy(value):
        raise WordError(f"{name} has no values yet: run the model once before it is protected")
    of_torch(value.dtype, name)
    if is_sharded(value):
        return
    if value.layout is not torch.strided or value.is_nested:
        layout = "a nested tensor" if value.is_nested else value.layout
        raise WordError(f"{name} is {layout}: only tensors with plain memory can be protected")
    if value.is_conj() or value.is_neg():
        raise WordError(
            f"{name} is a view that is conjugated or negated when it is read: put what "
            "resolve_conj().resolve_neg() gives in its place"
        )
    if hides_memory(value):
        raise WordError(
            f"{name} is a {kind}, which hides its memory and does not tell what it is made of (by "
            f"__tensor_flatten__): leave it out with only='!{name}', or protect it before it is one"
        )


def require_movable(model: Any, names: Iterable[str]) -> None:
    """Refuse parameters that a module reads as whole numbers: moved by a little, they are others.

    torch's orthogonal parametrization keeps signs, 1.0 and -1.0, on the diagonal of what it makes
    Householder reflections of, and cuts off what follows the point.

    Raises:
        WordError: names the first such parameter, and says what to do.
    """
    lists = {
        name
        for name, module in (model.named_modules() if isinstance(model, torch.nn.Module) else ())
        if isinstance(module, torch.nn.utils.parametrize.ParametrizationList)
        and any(_map_of(each) == "householder" for each in module)
    }
    for name in names:
        if name.rpartition(".")[0] in lists:
            raise WordError(
                f"{name} holds the signs of Householder reflections, which are lost if it is moved "
                "a little: make the layer with orthogonal(..., orthogonal_map='matrix_exp') or "
                f"'cayley', or leave it out with only='!{name}'"
            )


def _map_of(parametrization: Any) -> str:
    """How torch's orthogonal parametrization makes orthogonal matrices; empty for others."""
    return str(getattr(getattr(parametrization, "orthogonal_map", None), "name", ""))


def _walk(
    value: Any, name: str, buffers: bool, above: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    """Tensors below ``value``, which is inside of objects ``above``, and what hides some."""
    if isinstance(value, torch.nn.Module):
        require_sharded(value)
        yield from value.named_parameters(name, remove_duplicate=False)
        if buffers:
            yield from value.named_buffers(name, remove_duplicate=False)
        return
    below = _entries(value)
    if below is None:
        if _hides_tensors(value):
            yield name, value
        return
    if id(value) in above:
        raise WordError(f"{name} contains itself: give a state dict without cycles")
    path = (*above, id(value))
    for key, entry in below:
        if type(entry) in _EMPTY:  # a history of losses may have millions
            continue
        inner = f"{name}.{key}" if name else f"{key}"
        if isinstance(entry, torch.Tensor):
            yield inner, entry
        else:
            yield from _walk(entry, inner, buffers, path)


def _entries(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a container holds, with keys; None for anything else."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return enumerate(value)
    return None


def _hides_tensors(value: Any) -> bool:
    """Whether an object holds tensors, or arrays, that have no names."""
    waiting, seen = [value], dict[int, Any]()  # holding all, whose numbers are their own then
    while waiting:
        value = waiting.pop()
        if isinstance(
            value, torch.Tensor | torch.nn.Module | torch.UntypedStorage | torch.TypedStorage
        ):
            return True
        if isinstance(value, np.ndarray):
            if value.size:
                return True
            continue
        is_known = type(value) in _EMPTY or isinstance(value, type | types.ModuleType)
        if is_known or id(value) in seen:
            continue
        seen[id(value)] = value
        below = _entries(value)
        if below is not None:
            waiting.extend(each for _, each in below)
        else:
            waiting.extend(value if isinstance(value, Set) else _attributes(value))
    return False


def _attributes(value: Any) -> Iterator[Any]:
    """What an object holds, under names of its own or in the slots of its classes."""
    yield from getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        if "__slots__" in vars(kind):
            for member in vars(kind).values():
                if isinstance(member, types.MemberDescriptorType):
                    with suppress(AttributeError):  # nothing is in it
                        yield member.__get__(value)


def made_of(name: str, value: Any) -> Sequence[tuple[str, Any]]:
    """The tensors that a tensor is made of, or itself. Sharded ones are looked after elsewhere."""
    itself = ((name, value),)
    if type(value) in _PLAIN:  # most are, and looking for what they have not takes time
        return itself
    flatten = getattr(value, "__tensor_flatten__", None)
    if flatten is None or not isinstance(value, torch.Tensor) or is_sharded(value):
        return itself
    inside = (made_of(f"{name}.{inner}", getattr(value, inner)) for inner in flatten()[0])
    return [*chain.from_iterable(inside)]


def hides_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor has elements, and no memory of its own that could be looked at."""
    if not tensor.numel() or tensor.is_meta or is_sharded(tensor):
        return False
    return _is_subclass(tensor) and not address_of(tensor)


def _is_subclass(tensor: torch.Tensor) -> bool:
    """Whether operations on a tensor are its class's own affair."""
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
