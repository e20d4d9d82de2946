"""Which elements this process holds, and sums over the processes that hold the rest.

`Spread` is the case of one process that holds everything: sums are what they are. `Shards` is that
of tensors that PyTorch spreads over processes. What is written in terms of these operations works
for both.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.errors import WordError
from parimend.words.layout import Part

if TYPE_CHECKING:
    import torch

Elements = slice | NDArray[np.int64]
"""Some elements: a range of them, or their increasing numbers."""


class Held(NamedTuple):
    """The elements of a part that this process holds.

    Attributes:
        start, stop: where they are in the local tensor, flattened.
        elements: their offsets in the part, (stop - start,).
    """

    start: int
    stop: int
    elements: Elements

    @property
    def offsets(self) -> NDArray[np.int64]:
        """``elements`` as an array."""
        if isinstance(self.elements, slice):
            return np.arange(self.elements.start, self.elements.stop)
        return self.elements

    def shifted(self, by: int) -> Elements:
        """``elements``, counted from ``by``."""
        if isinstance(self.elements, slice):
            return slice(self.elements.start + by, self.elements.stop + by)
        return self.elements + by


class Spread:
    """How the elements of tensors are spread over processes; here, one process holds them all."""

    @property
    def several(self) -> bool:
        """Whether other processes hold other elements."""
        return False

    def held(self, part: Part) -> Held:
        """What this process holds of a part."""
        return Held(part.start, part.start + part.count, slice(0, part.count))

    def described(self) -> list[str]:
        """What all processes have to say alike: which tensors there are."""
        return []

    def badly_cut(self) -> str:
        """Which tensor is not cut into shards as PyTorch cuts; empty if all are."""
        return ""

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum over all processes; of integers modulo 2 to the number of their bits."""
        return array

    def largest(self, array: NDArray[Any]) -> NDArray[Any]:
        """The largest over all processes, element by element."""
        return array

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in the same order everywhere. For a few small ones."""
        return items


def common(
    held: Elements, wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the ``wanted`` elements that are ``held`` are in each of the two.

    >>> at, which = common(slice(10, 20), np.array([5, 12, 19, 20]))
    >>> at.tolist(), which.tolist()
    ([2, 9], [1, 2])
    """
    if isinstance(held, slice):
        which = np.flatnonzero((held.start <= wanted) & (wanted < held.stop))
        return wanted[which] - held.start, which
    at = np.searchsorted(held, wanted)
    which = np.flatnonzero(at < len(held))
    which = which[held[at[which]] == wanted[which]]
    return at[which], which


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is PyTorch's `DTensor`, which is spread over a mesh of devices."""
    return hasattr(tensor, "device_mesh")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, or the shard of it that this process holds, without history."""
    if not is_sharded(tensor):
        return tensor
    import torch

    with torch.no_grad():
        held: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return held


def require_sharded(model: torch.nn.Module) -> None:
    """Refuse weights that FSDP2 has gathered for a forward pass: they are copies, and what the
    processes hold would not be looked at.

    Raises:
        WordError: names the module.
    """
    if "torch.distributed.fsdp" not in sys.modules:
        return
    from torch.distributed import fsdp

    kind: Any = getattr(fsdp, "FSDPModule", ())
    for name, module in model.named_modules():
        if isinstance(module, kind):
            state: Any = module._get_fsdp_state()
            several = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            if not all(group is None or group.is_sharded for group in several):
                raise WordError(
                    f"fully_shard has gathered the weights of {name or 'the model'} for a forward "
                    "pass and kept them so: call its reshard() before"
                )
