"""Tensors as pieces of words: what kernels for devices other than the CPU have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

import torch

Piece = tuple[torch.Tensor, int]
"""Elements, (k,) of any dtype with plain bytes, which are filled up with zeros to whole words; and
the index of the first word."""
Result = TypeVar("Result")

_HERE = nullcontext()
SMALLEST = 1 << 16
"""Words of the smallest pieces that are tried."""


def exact(elements: torch.Tensor) -> torch.Tensor:
    """Elements of which a copy has the same bits: one of truth values makes every byte 0 or 1."""
    return elements.view(torch.uint8) if elements.dtype is torch.bool else elements


def bytes_of(elements: torch.Tensor) -> torch.Tensor:
    """The bytes of elements, (k,) uint8; they share the memory if that is contiguous."""
    if elements.is_conj() or elements.is_neg():
        elements = elements.resolve_conj().resolve_neg()
    flat = exact(elements.detach()).contiguous()
    if flat.dim() != 1 or flat.stride(0) != 1:  # one element may have any stride
        flat = flat.as_strided((flat.numel(),), (1,))
    return flat.view(torch.uint8)


def stream_on(device: torch.device) -> int:
    """The stream that work for a device goes to now; what is kept there is for one stream alone.

    Others could read it before it is written, or after its memory has gone to someone else.
    """
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def launching_on(device: torch.device) -> AbstractContextManager[object]:
    """Within it, kernels in Triton are launched on a device: they know of tensors only where these
    begin, and go to the current device, which may be another one.
    """
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(device)


def is_plain(elements: torch.Tensor) -> bool:
    """Whether the memory of elements is their bytes, one after the other."""
    return elements.is_contiguous() and not (elements.is_conj() or elements.is_neg())


def by_device(pieces: Iterable[Piece]) -> dict[torch.device, list[Piece]]:
    """The pieces that lie on every device, each in memory that follows itself."""
    found: dict[torch.device, list[Piece]] = {}
    for elements, start in pieces:
        if elements.numel():
            whole = elements if is_plain(elements) else bytes_of(elements)
            found.setdefault(elements.device, []).append((whole, start))
    return found


def shrinking(work: Callable[[int], Result], size: int, least: int) -> tuple[Result, int]:
    """What ``work(size)`` gives, or of half the size, and so on, where the memory does not suffice.

    Returns:
        The result and its size.

    Raises:
        torch.OutOfMemoryError: if it does not suffice for ``least`` either.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError:
            if size // 2 < least:
                raise
        size //= 2


def in_pieces(
    work: Callable[[torch.Tensor, int], Result], pieces: Iterable[Piece], size: int
) -> Iterator[Result]:
    """``work(bytes, first word)`` for the pieces, cut to at most ``size`` words, and to fewer where
    the memory does not suffice.

    Raises:
        torch.OutOfMemoryError: if it does not suffice for `SMALLEST` words.
    """
    for elements, start in pieces:
        data, at = bytes_of(elements), 0
        while 4 * at < data.numel():
            some = partial(_of_some, work, data, start, at)
            result, size = shrinking(some, size, min(size, SMALLEST))
            yield result
            at += size


def _of_some(
    work: Callable[[torch.Tensor, int], Result], data: torch.Tensor, start: int, at: int, count: int
) -> Result:
    """``work`` for ``count`` words of a piece, from word ``at`` of it on."""
    return work(data[4 * at : 4 * (at + count)], start + at)
