"""Weights that their own layer changes when it is used: embeddings with a largest norm."""

from __future__ import annotations

from typing import Any

import torch


def renormalizing(model: Any) -> dict[str, torch.nn.Module]:
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

    Example:
        >>> layer = torch.nn.Embedding.from_pretrained(torch.eye(4) * 3, max_norm=2.0)
        >>> too_long(layer), f"{layer(torch.tensor([1])).max():.2f}", too_long(layer)
        (4, '2.00', 3)
    """
    weight = module.weight.detach()
    norms = torch.linalg.vector_norm(weight, module.norm_type, 1, dtype=torch.float32)
    return int((norms > module.max_norm * (1 + 1e-6)).sum())
