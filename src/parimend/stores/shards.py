"""Tensors that are spread over processes as PyTorch spreads them.

A `DTensor` lies on a mesh of processes; `fully_shard` (FSDP2) makes one of every parameter.
Syndromes are linear: every process multiplies H with the weights that it holds, and one all-reduce
of m numbers gives the syndrome of the whole word, exactly, because it is made of integers. All
processes decode it, to the same result, and each one writes what it holds. Weights travel only
where SHA-256 has to see all bytes in order: when a seal is made and when damage was found, 4 MB at
a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.dtypes import of_torch
from parimend.errors import WordError
from parimend.stores import spread
from parimend.stores.base import Tensors
from parimend.stores.model import ModelTensors
from parimend.stores.spread import Elements, Held, common
from parimend.words.bits import WORD, byte_view
from parimend.words.layout import Part, whole


class Shards(spread.Spread):
    """The shards of some tensors in this process.

    Args:
        tensors: all of them plain, or all of them on one mesh and sharded along the same of its
            dimensions. Along the others they are replicated, and every replica is on its own.

    Raises:
        WordError: if they are not; names a tensor.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = dict(tensors)
        self._mesh: Any = None
        self._split: list[int] = []  # the dimensions of the mesh
        first = ""
        for name, tensor in tensors.items():
            mesh = getattr(tensor, "device_mesh", None)
            split = split_dimensions(name, tensor) if mesh is not None else []
            if not first:
                first, self._mesh, self._split = name, mesh, split
            elif (mesh, split) != (self._mesh, self._split):
                raise WordError(
                    f"{name} is not sharded in the same way as {first}: protect them one after the "
                    "other, with only=..."
                )
        self._elements: dict[str, Elements] = {}

    @property
    def several(self) -> bool:
        return bool(self._split)

    def local(self, name: str) -> torch.Tensor:
        """What this process holds of a tensor; shares its memory."""
        return spread.local(self._tensors[name]).detach()

    def held(self, part: Part) -> Held:
        if part.name not in self._elements:
            self._elements[part.name] = self._held_of(self._tensors[part.name])
        every = self._elements[part.name]
        end = part.start + part.count
        if isinstance(every, slice):
            first, last = max(every.start, part.start), min(every.stop, end)
            last = max(first, last)
            offsets = slice(first - part.start, last - part.start)
            return Held(first - every.start, last - every.start, offsets)
        first, last = np.searchsorted(every, [part.start, end])
        return Held(int(first), int(last), every[first:last] - part.start)

    def _held_of(self, tensor: torch.Tensor) -> Elements:
        """Positions of the local elements in the flattened tensor."""
        first, size = self._block(tensor)
        below = math.prod(tensor.shape[1:])
        if size[1:] == list(tensor.shape[1:]):
            rows = (first + [0])[0], (size + [1])[0]
            return slice(rows[0] * below, (rows[0] + rows[1]) * below)
        block = tuple(slice(f, f + s) for f, s in zip(first, size, strict=True))
        return np.arange(tensor.numel()).reshape(tensor.shape)[block].ravel()

    def _block(self, tensor: torch.Tensor) -> tuple[list[int], list[int]]:
        """Where the local elements begin in a tensor, and how many there are, along each of its
        dimensions.
        """
        # As torch.chunk cuts: equal pieces but the last ones, which may be shorter or empty.
        first, size = [0] * tensor.dim(), list(tensor.shape)
        for along in self._split:
            d = tensor.placements[along].dim  # type: ignore[attr-defined]
            piece = -(-size[d] // self._mesh.size(along))
            at = min(self._mesh.get_local_rank(along) * piece, size[d])
            first[d], size[d] = first[d] + at, min(piece, size[d] - at)
        return first, size

    def described(self) -> list[str]:
        return [
            f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in self._tensors.items()
        ]

    def badly_cut(self) -> str:
        for name, tensor in self._tensors.items():
            here, (_, size) = list(self.local(name).shape), self._block(tensor)
            if here != size and any(map(math.prod, (here, size))):
                return (
                    f"{name} {list(tensor.shape)} has a shard {here} where torch.chunk gives {size}"
                )
        return ""

    def run(self, part: Part) -> int:
        """A number of bytes: where a shard begins in its tensor, in any process, and what lies in
        a row in memory there, is a multiple of it.
        """
        placed = self._tensors[part.name].placements  # type: ignore[attr-defined]
        dims = [placed[along].dim for along in self._split]
        last = max(dims)
        pieces = math.prod(
            self._mesh.size(a) for a, d in zip(self._split, dims, strict=True) if d == last
        )
        rows, rest = divmod(part.shape[last], pieces)
        return (1 if rest else rows) * math.prod(part.shape[last + 1 :]) * part.itemsize

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._reduce(array, "SUM")

    def largest(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._reduce(array, "MAX")

    def _reduce(self, array: NDArray[Any], operation: str) -> NDArray[Any]:
        if not self.several:
            return array
        import torch.distributed as dist

        total = torch.from_numpy(array).to(self._mesh.device_type)
        for along in self._split:
            group = self._mesh.get_group(along)
            dist.all_reduce(total, getattr(dist.ReduceOp, operation), group=group)
        return total.cpu().numpy()

    def gather(self, items: list[Any]) -> list[Any]:
        for along in self._split:
            import torch.distributed as dist

            lists: list[Any] = [None] * self._mesh.size(along)
            dist.all_gather_object(lists, items, group=self._mesh.get_group(along))
            items = [item for more in lists for item in more]
        return items


def split_dimensions(name: str, tensor: torch.Tensor) -> list[int]:
    """The dimensions of its mesh along which a tensor is split."""
    from torch.distributed.tensor import Replicate, Shard

    for placement in tensor.placements:  # type: ignore[attr-defined]
        if type(placement) not in (Replicate, Shard):
            raise WordError(
                f"{name} is placed as {placement}: only parameters that are sharded along whole "
                "dimensions, or replicated, can be protected"
            )
    if not tensor.to_local().is_contiguous():  # type: ignore[attr-defined]
        raise WordError(f"{name} has a shard that is not contiguous: shard it without strides")
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return [i for i, p in enumerate(placements) if isinstance(p, Shard) and mesh.size(i) > 1]


class ShardedTensors(Tensors):
    """Sharded tensors: what is read is summed up over the processes.

    Args:
        tensors: by name, all of them sharded alike.

    Raises:
        WordError: see `Shards`.
    """

    live = True
    spread: Shards

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.held = dict(tensors)
        self.spread = Shards(tensors)
        self._whole = [
            whole(name, of_torch(tensor.dtype, name).name, tuple(tensor.shape))
            for name, tensor in tensors.items()
        ]

    def whole(self) -> Sequence[Part]:
        return self._whole

    def share(self, part: Part) -> NDArray[np.uint8]:
        size = part.itemsize
        data = np.zeros((part.count, size), np.uint8)
        data[self.spread.held(part).elements] = self.read_held(part).reshape(-1, size)
        return data.reshape(-1)

    def apart(self, part: Part) -> int:
        within = self.spread.several and self.spread.run(part) % WORD
        return max(WORD // part.itemsize, 1) if within else 1

    def _read(self, part: Part) -> NDArray[np.uint8]:
        return self.spread.sum(self.share(replace(part, mask=0)))

    def _write(
        self, part: Part, elements: NDArray[np.int64] | None, values: NDArray[np.uint8]
    ) -> None:
        held = self.spread.held(part)
        wanted = np.arange(part.count) if elements is None else elements
        at, which = common(held.elements, wanted)
        self._write_local(part, held.start + at, values[which])

    def _read_held(self, part: Part) -> NDArray[np.uint8]:
        held = self.spread.held(part)
        local = self.spread.local(part.name).view(-1)
        return byte_view(local[held.start : held.stop], part.name)

    def _write_held(self, part: Part, values: NDArray[np.uint8]) -> None:
        held = self.spread.held(part)
        self._write_local(part, np.arange(held.start, held.stop), values)

    def _write_local(
        self, part: Part, elements: NDArray[np.int64], values: NDArray[np.uint8]
    ) -> None:
        local, failed = self.spread.local(part.name), None
        there = whole(part.name, part.dtype, tuple(local.shape))
        try:
            if len(elements):
                ModelTensors({part.name: local}).write(there, elements, values)
        except WordError as error:
            failed = error
        # Others would go on, and wait for this process.
        wrong = self.spread.sum(np.array([failed is not None], np.int64)).any()
        if wrong:
            raise failed or WordError(f"{part.name} cannot be written in another process")


def store_of(tensors: Mapping[str, torch.Tensor]) -> ModelTensors | ShardedTensors:
    """The store of tensors in memory, whether they are spread over processes or not."""
    several = any(map(spread.is_sharded, tensors.values()))
    return ShardedTensors(tensors) if several else ModelTensors(tensors)
