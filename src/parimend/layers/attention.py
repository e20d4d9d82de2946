"""The projections of ``nn.MultiheadAttention``, which are no modules that are called.

Each of them follows the rule of ``nn.Linear`` on a part of the attention's parameters.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from parimend.layers.linear import LinearProduct

PROJECTION = LinearProduct()
"""The rule of every projection."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Their names, behind that of the attention."""


def parameters_of(module: nn.MultiheadAttention, projection: str) -> tuple[Any, Any]:
    """Weight and bias of a projection: views of the parameters."""
    if projection == "out_proj":
        return module.out_proj.weight, module.out_proj.bias
    i = PROJECTIONS.index(projection)
    rows = slice(i * module.embed_dim, (i + 1) * module.embed_dim)
    bias = None if module.in_proj_bias is None else module.in_proj_bias[rows]
    if module._qkv_same_embed_dim:
        return module.in_proj_weight[rows], bias
    return getattr(module, f"{projection}_weight"), bias


def stored(module: nn.MultiheadAttention, projection: str) -> tuple[Tensor | None, Tensor | None]:
    """The parameters that hold weight and bias of a projection."""
    if projection == "out_proj":
        return module.out_proj._parameters.get("weight"), module.out_proj._parameters.get("bias")
    name = "in_proj_weight" if module._qkv_same_embed_dim else f"{projection}_weight"
    return module._parameters.get(name), module._parameters.get("in_proj_bias")
