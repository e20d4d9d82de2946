"""Which tensors are others again: tied weights, and views into a flat tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.errors import WordError
from parimend.stores.model import reach
from parimend.stores.spread import is_sharded, local


def require_own_cells(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor in which several elements share memory: one fault would count many times.

    Raises:
        WordError: names the tensor.
    """
    if is_sharded(tensor) or tensor.is_contiguous():
        return
    reached = 0  # by the dimensions that are packed closer
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reached and tensor.numel():
                raise WordError(
                    f"{name} has elements that share memory (it was expanded): protect the tensor "
                    "that it was made from, or put a clone() in its place"
                )
            reached += (size - 1) * stride


def address_of(tensor: torch.Tensor) -> int:
    """Where its first element is; 0 if it has no memory of its own."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def storage_of(value: Any) -> tuple[torch.device, int] | None:
    """The memory that a tensor is in, from its beginning; None if it has none of its own."""
    try:
        return value.device, value.untyped_storage().data_ptr()
    except (AttributeError, RuntimeError):
        return None


def place_of(tensor: torch.Tensor) -> tuple[torch.device, int]:
    """Where its first element is that this process holds."""
    return tensor.device, address_of(local(tensor))


def is_same(one: Any, other: torch.Tensor) -> bool:
    """Whether something is a tensor that is at hand: that, or its memory read in the same way, as
    by a view that is made anew whenever it is asked for.

    Example:
        >>> flat = torch.zeros(6)
        >>> is_same(flat.view(2, 3), flat.view(2, 3)), is_same(flat.clone(), flat)
        (True, False)
    """
    if one is other:
        return True
    if not isinstance(one, torch.Tensor) or is_sharded(one) or is_sharded(other):
        return False
    how = [(each.dtype, each.shape, each.stride(), place_of(each)) for each in (one, other)]
    return how[0] == how[1] and bool(address_of(other) or not other.numel())


class _Span(NamedTuple):
    """The bytes from a tensor's first element to its last."""

    device: str
    begin: int
    end: int
    name: str


def without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without those whose memory others hold: tied weights, views into a flat tensor.

    Raises:
        WordError: if two share a part of their memory only; names both.
    """
    held = {name: local(tensor) for name, tensor in tensors.items()}
    spans, left_out = _spans(held)
    left_out |= _empty_again({name: held[name] for name in tensors if is_sharded(tensors[name])})
    for group in _touching(spans):
        left_out |= _held_by_others(group, held)
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}


def _empty_again(shards: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of shards that are empty here and are others again, which all processes have to find
    alike: what is tied has no address here, and one storage all the same.
    """
    first: dict[tuple[Any, ...], str] = {}
    empty = {name: place_of_none(shard) for name, shard in shards.items() if not shard.numel()}
    return {name for name, place in empty.items() if first.setdefault(place, name) != name}


def place_of_none(shard: torch.Tensor) -> tuple[Any, ...]:
    """What stands for the place of a shard that is empty here."""
    return shard.untyped_storage()._cdata, shard.storage_offset(), shard.shape


def _spans(tensors: Mapping[str, torch.Tensor]) -> tuple[list[_Span], set[str]]:
    """Where some tensors lie that have memory, and the names of those that are others again."""
    spans, places, again = [], set(), set()
    for name, tensor in tensors.items():
        begin = address_of(tensor)
        if not tensor.numel() or not begin:
            continue
        place = (tensor.device, begin, tensor.shape, tensor.stride(), tensor.dtype)
        if place in places:
            again.add(name)
            continue
        places.add(place)
        end = begin + tensor.element_size() * reach(tensor)
        spans.append(_Span(str(tensor.device), begin, end, name))
    return spans, again


def added_bytes(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """How many bytes each of some tensors has that those before it do not have.

    Example:
        >>> weight = torch.zeros(2, 3)
        >>> added_bytes({"w": weight, "view": weight[0], "more": torch.zeros(5)})
        {'w': 24, 'view': 0, 'more': 20}
    """
    held = {name: local(tensor) for name, tensor in tensors.items()}
    spans, again = _spans(held)
    found = {name: 0 if name in again else tensor.nbytes for name, tensor in tensors.items()}
    order = {name: i for i, name in enumerate(tensors)}
    for group in _touching(spans):
        for name, taken in _overlaid(sorted(group, key=lambda span: order[span.name]), held):
            found[name] = taken.size - int(np.count_nonzero(taken))
    return found


def _overlaid(
    group: Sequence[_Span], tensors: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Which bytes of each of some tensors, by name, are those of one before it, too."""
    first = min(span.begin for span in group)
    taken = np.zeros(max(span.end for span in group) - first, bool)
    for span in group:
        tensor = tensors[span.name]
        size = tensor.element_size()
        strides = (*(size * stride for stride in tensor.stride()), 1)
        shape = (*tensor.shape, size)
        mine = np.lib.stride_tricks.as_strided(taken[span.begin - first :], shape, strides)
        yield span.name, mine
        mine[...] = True


def _touching(spans: list[_Span]) -> Iterator[list[_Span]]:
    """Groups of two and more spans that overlap."""
    group: list[_Span] = []
    end = 0
    for span in sorted(spans):
        if group and (span.device != group[0].device or span.begin >= end):
            if len(group) > 1:
                yield group
            group, end = [], 0
        group.append(span)
        end = max(end, span.end)
    if len(group) > 1:
        yield group


def _held_by_others(group: list[_Span], tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Those of some tensors that overlap whose bytes are all in larger ones."""
    order = {name: i for i, name in enumerate(tensors)}
    largest = sorted(group, key=lambda span: (-tensors[span.name].nbytes, order[span.name]))
    held = set()
    for name, taken in _overlaid(largest, tensors):
        if taken.all():
            held.add(name)
        elif taken.any():
            raise WordError(
                f"{name} shares a part of its memory with another tensor: protect one of them "
                "with only=..., or put a clone() in its place"
            )
    return held
