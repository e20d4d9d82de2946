"""Numbers that a device has computed, read by the host."""

from __future__ import annotations

import threading
from functools import lru_cache

import torch


def read(values: torch.Tensor) -> list[float]:
    """The values of a tensor, as `torch.Tensor.tolist` gives them; the host waits for its device.

    What a GPU computes is copied to memory that stays where it is, so that the copy is asked for
    beforehand and follows what it waits for; to other memory it takes its time after that.

    Args:
        values: (k,) of any dtype; on a GPU, computed in its current stream.

    Example:
        >>> read(torch.tensor([2, 0]))
        [2, 0]
    """
    if not values.is_cuda:
        return values.tolist()
    room = _room(threading.get_ident(), values.dtype, values.shape)
    room.copy_(values, non_blocking=True)
    _wait_for(values.device)
    return room.tolist()


@lru_cache(maxsize=64)
def _room(thread: int, dtype: torch.dtype, shape: torch.Size) -> torch.Tensor:
    """Memory of the host that a GPU writes to, for one thread; allocating it takes long."""
    with torch.inference_mode(False):  # it is written to outside of that, too
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)


def _wait_for(device: torch.device) -> None:
    """Wait for what was launched in the current stream of a GPU."""
    torch.cuda.current_stream(device).synchronize()
