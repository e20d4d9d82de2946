"""What hooks into training loops have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that dynamo does not trace, which would make it a part of the compiled graph."""
    disabled: Callable[..., Any] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


def stepping(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that takes the steps: accelerate's wrapper is one itself, but runs no hooks."""
    if type(optimizer).__name__ == "AcceleratedOptimizer":
        inside: torch.optim.Optimizer = optimizer.optimizer  # type: ignore[attr-defined]
        return inside
    return optimizer


def in_parallel() -> bool:
    """Whether other processes take part in this training."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
