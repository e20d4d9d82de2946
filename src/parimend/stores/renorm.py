"""Weights that their own layer changes when it is used: embeddings with a largest norm."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch

from parimend.showing import counted
from parimend.stores.spread import local
from parimend.warning import warn

_APART = 1e-4
"""Rows that are shorter than the largest norm by so much of it are left as they are, and those that
are longer are not."""


def renormalizing(model: Any) -> dict[str, Any]:
    """The embeddings of a module with a ``max_norm``, by the names of their weights.

    Before such a layer gives back rows it shortens those of them that are too long, in place.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4, max_norm=1.0))
        >>> list(renormalizing(model)), list(renormalizing({"weight": torch.ones(3)}))
        (['0.weight'], [])
    """
    modules = model.named_modules() if isinstance(model, torch.nn.Module) else ()
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in modules
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
        and module.max_norm is not None
    }


def too_long(module: Any) -> int:
    """How many rows of such an embedding it will shorten.

    A row that was shortened may be a last place too long still, and is shortened once more. So
    copies of rows that are about as long as they may be are given to what the layer does.

    Example:
        >>> layer = torch.nn.Embedding.from_pretrained(torch.eye(4) * 3, max_norm=2.0)
        >>> too_long(layer), f"{layer(torch.tensor([1])).max():.2f}", too_long(layer)
        (4, '2.00', 3)
    """
    weight = local(module.weight.detach())
    if weight.is_meta:
        return 0
    exact = weight if weight.dtype == torch.float64 else weight.float()
    share = torch.linalg.vector_norm(exact, module.norm_type, 1) / module.max_norm
    certain = int((share > 1 + _APART).sum())
    rows = weight[(share - 1).abs() <= _APART]
    read = torch.arange(len(rows), device=rows.device)
    try:
        shortened = torch.embedding_renorm_(rows.clone(), read, module.max_norm, module.norm_type)
    except NotImplementedError:  # nor can the layer read any
        return 0
    return certain + int((shortened != rows).any(1).sum())


def warn_of_shortening(model: Any, names: Container[str], moved: bool = False) -> None:
    """Warn of rows that their layer will shorten, as a check will take that for damage.

    Args:
        model: whose they are.
        names: of weights that are protected.
        moved: whether protecting has moved them, and will again.
    """
    for name, layer in renormalizing(model).items():
        if name not in names or not (rows := too_long(layer)):
            continue
        below = f"{layer.norm_type:g}, 0, {(1 - 2 * _APART) * layer.max_norm:g}"
        remedy = f"run weight.data.renorm_({below}) before, or "
        if moved:
            remedy = "rows that are moved into a code do not stay below it; take a sidecar, or "
        warn(
            f"{counted(rows, 'row')} of {name} are longer than the max_norm of their layer, which "
            f"shortens them when it reads them; that will be taken for damage: {remedy}leave it "
            f"out with only='!{name}'"
        )
