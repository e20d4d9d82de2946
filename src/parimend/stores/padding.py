"""The rows of embeddings that stand for padding, which models rely on being zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parimend.stores.spread import is_sharded
from parimend.warning import warn


def blank(model: Any) -> dict[str, torch.Tensor]:
    """The padding of the embeddings of a module that is all zeros, by the names of their weights;
    it shares their memory. Not that of weights that are sharded.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4, padding_idx=3))
        >>> blank(model)
        {'0.weight': tensor([0., 0., 0., 0.])}
    """
    modules = model.named_modules() if isinstance(model, torch.nn.Module) else ()
    rows = {
        f"{name}.weight" if name else "weight": module.weight.detach()[module.padding_idx]
        for name, module in modules
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
        and module.padding_idx is not None
        and not is_sharded(module.weight)
    }
    return {name: row for name, row in rows.items() if not row.any()}


def warn_of_filling(rows: Mapping[str, torch.Tensor]) -> None:
    """Warn of what was `blank` and is not any more."""
    for name, row in rows.items():
        if row.any():
            warn(
                f"the padding of {name} was all zeros, and has been moved into the code as all "
                f"other rows: if it has to stay zero, leave it out with only='!{name}'"
            )
