"""Where outputs can be looked at, and where a guard passes them by."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch.utils import checkpoint
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

from parimend.errors import GuardError
from parimend.stores.lent import is_transformed

CHECKED = frozenset((torch.float64, torch.float32, torch.bfloat16, torch.float16))
"""Dtypes of outputs that are fine enough to be checked."""

is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
"""Whether `torch.export` is looking; before PyTorch 2.7 it cannot be told."""


def observable(y: Any) -> bool:
    """Whether a tensor's values are there to be looked at.

    They are not inside the transformations of `torch.func`, while a model is traced or exported,
    and in nested, sparse and fake tensors.

    Example:
        >>> observable(torch.ones(2)), torch.func.vmap(lambda y: y * observable(y))(torch.ones(2))
        (True, tensor([0., 0.]))
    """
    return (
        type(y) is Tensor  # subclasses do as they like
        and y.dtype in CHECKED
        and y.layout is torch.strided
        and not (y.is_nested or y.is_meta)
        and not is_transformed()
    )


_KEEPING = (checkpoint._CachingTorchDispatchMode, checkpoint._CachedTorchDispatchMode)
"""What keeps results where activations are checkpointed selectively, and gives them again."""
_NOTHING = nullcontext()


def unseen() -> AbstractContextManager[object]:
    """Where guards compute: selective checkpointing finds results by counting operations, and must
    not count these, which are not there when the model runs again for its gradients.
    """
    if not _len_torch_dispatch_stack():
        return _NOTHING
    keeps = any(isinstance(mode, _KEEPING) for mode in _get_current_dispatch_mode_stack())
    return _disable_current_modes() if keeps else _NOTHING


def capturing() -> bool:
    """Whether a CUDA graph is being captured: nothing can be read then."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return bool(started) and torch.cuda.is_current_stream_capturing()


def is_raised(alarm: Any) -> bool:
    """Reads an alarm.

    Raises:
        GuardError: if that is not possible, as a CUDA graph is being captured.
    """
    try:
        return bool(alarm)
    except RuntimeError as error:
        if not capturing():
            raise
        raise GuardError(
            "the alarms of a layer cannot be read while a CUDA graph is captured: guard with "
            "deferred=True, compile the model as a whole if at all, and call settle() after a "
            "replay"
        ) from error
