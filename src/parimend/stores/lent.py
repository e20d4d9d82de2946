"""Calls in which a model computes with other tensors than its own."""

from __future__ import annotations

import sys

import torch
from torch._C import _functorch as functorch
from torch.autograd import forward_ad
from torch.nn.utils import stateless

from parimend.removable import is_called

# Looked up once: this runs after every call of every guarded layer.
_level = functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state
_modes = torch._C._len_torch_dispatch_stack

_TRACING = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)


def is_lent() -> bool:
    """Whether `torch.func.functional_call` runs, which lends modules other weights for a call."""
    frame, code = sys._getframe(), stateless._functional_call.__code__
    while frame.f_code is not code:
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return True


def is_lent_anywhere() -> bool:
    """Whether it runs in any thread."""
    return is_called(stateless._functional_call)


def is_transformed() -> bool:
    """Whether `torch.func` transforms what is computed here, or it is traced or exported: values
    are not there to be looked at.

    >>> is_transformed(), torch.func.vmap(lambda y: y * is_transformed())(torch.ones(2))
    (False, tensor([1., 1.]))
    """
    return not (
        _level() is None
        and forward_ad._current_level < 0
        and _tracing() is None
        and not (_modes() and _traced())
    )


def _traced() -> bool:
    return any(torch._C._get_dispatch_mode(key) is not None for key in _TRACING)
