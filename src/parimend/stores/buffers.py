"""What runs write into the buffers of a model, undone: it may be damaged, and not for the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from parimend.stores.model import changing


class Buffers:
    """The buffers of a model as they are now; observers and caches write into theirs in every run.

    Args:
        model: before any run. Copies of its buffers are kept, of those in plain memory.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> with Buffers(model).kept():
        ...     _ = model(torch.randn(5, 2))
        >>> model.running_mean.tolist(), model.num_batches_tracked.item()
        ([0.0, 0.0], 0)
    """

    def __init__(self, model: nn.Module) -> None:
        self._held = [(module, dict(module._buffers)) for module in model.modules()]
        there = {id(each): each for _, held in self._held for each in held.values()}
        with torch.no_grad():
            self._copies = [
                (t, t.clone()) for t in there.values() if t is not None and _is_plain(t)
            ]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put back what is written in the block: other values, and other tensors."""
        try:
            yield
        finally:
            for module, held in self._held:
                module._buffers.update(held)
            for each, copy in self._copies:
                # Not every kernel counts what it writes; memory that can only be read is let be.
                if not _same(each, copy):
                    with changing(each):
                        if each.shape != copy.shape:  # observers give theirs a size as they run
                            each.resize_(copy.shape)
                        once = tuple(slice(None if step else 1) for step in each.stride())
                        each[once].copy_(copy[once])  # what is expanded is there once


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal bit for bit."""
    cells = (each.detach().resolve_conj().resolve_neg().flatten() for each in (one, other))
    return torch.equal(*(each.contiguous().view(torch.uint8) for each in cells))


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has memory of its own of one kind; what others are made of is not put back."""
    plain = type(tensor) in (Tensor, Parameter) and tensor.layout is torch.strided
    return plain and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta)
