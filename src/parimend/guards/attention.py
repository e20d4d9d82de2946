"""``nn.MultiheadAttention``: its projections are no modules that are called, so no hook sees them.

A guarded attention runs the forward below in place of its own: the same arithmetic from the same
parameters, spelled out, with a guard behind each of the four projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parimend.guards.layer import LayerGuard
from parimend.layers.attention import PROJECTIONS, parameters_of
from parimend.removable import Hook, foreign_forward, nothing, wrap_forward_


def why_not(module: nn.MultiheadAttention) -> str:
    """The reason why an attention cannot be guarded; empty if it can."""
    if (
        foreign_forward(module) is not None
        or type(module).forward is not nn.MultiheadAttention.forward
    ):
        return "has a forward of its own"
    if module.bias_k is not None or module.add_zero_attn:
        return "adds keys of its own (add_bias_kv, add_zero_attn)"
    return ""


class Marker(Hook):
    """A hook that does nothing. It keeps `nn.TransformerEncoderLayer` from its fast path, which
    would pass by all modules, and says that the attention is guarded.
    """

    def __init__(self) -> None:
        super().__init__(nothing)


def guard_attention_(
    module: nn.MultiheadAttention, guards: Mapping[str, LayerGuard]
) -> Callable[[], None]:
    """Guards projections, by their names.

    Returns:
        What undoes it.
    """
    removers = ExitStack()
    removers.callback(wrap_forward_(module, partial(_forward, module, guards)))
    removers.callback(module.register_forward_hook(Marker()).remove)
    return removers.close


def _forward(
    module: nn.MultiheadAttention,
    guards: Mapping[str, LayerGuard],
    forward: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `nn.MultiheadAttention.forward`."""
    hint = is_causal and attn_mask is None  # an error, which PyTorch tells
    if hint or not _understood(module, query, key, value, key_padding_mask, attn_mask):
        for guard in guards.values():
            guard.journal.passed[guard.name] += 1
        masks = key_padding_mask, need_weights, attn_mask, average_attn_weights
        return forward(query, key, value, *masks, is_causal)

    def project(name: str, x: Tensor) -> Tensor:
        parameters: Callable[[], tuple[Any, Any]] = partial(parameters_of, module, name)
        if name not in guards:
            return F.linear(x, *parameters())
        y: Tensor = guards[name].run(F.linear, x, *parameters())
        guards[name].watch(y, x, parameters)
        return y

    def heads(x: Tensor) -> Tensor:
        width = x.shape[-1] // module.num_heads
        return x.reshape(*x.shape[:2], module.num_heads, width).transpose(1, 2)

    batched = query.dim() == 3
    inputs = [query, key, value]
    if not batched:
        inputs = [x.unsqueeze(0) for x in inputs]
    elif not module.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    # Written out, as not all versions of dynamo follow a `zip` of two lengths.
    q, k, v = (heads(project(PROJECTIONS[i], x)) for i, x in enumerate(inputs))
    # As PyTorch does it, which then takes its word for the mask.
    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal else _mask(q, key_padding_mask, attn_mask)
    dropout = module.dropout if module.training else 0.0
    weights = None
    if need_weights:
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        if mask is not None:  # which is wider where autocasting has narrowed the scores
            scores = scores + mask.to(scores.dtype)
        weights = F.softmax(scores, dim=-1)
        weights = F.dropout(weights, dropout) if dropout else weights
        out = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
    out = project("out_proj", out.transpose(1, 2).flatten(2))
    if not batched:
        return out.squeeze(0), None if weights is None else weights.squeeze(0)
    return out if module.batch_first else out.transpose(0, 1), weights


def _understood(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    mask: Tensor | None,
) -> bool:
    """Whether inputs are of the shapes and types that can be guarded. Of others PyTorch tells what
    is wrong with them, while the arithmetic here might stretch them until they fit.
    """
    if query.is_nested or key.is_nested or value.is_nested:
        return False
    if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
        return False
    batch = () if query.dim() == 2 else (query.shape[not module.batch_first],)
    if batch and key.shape[not module.batch_first] != batch[0]:
        return False
    along = int(bool(batch) and module.batch_first)
    places = query.shape[along], key.shape[along]
    heads = math.prod(batch) * module.num_heads
    return (
        key.shape[:-1] == value.shape[:-1]
        and (padding is None or padding.shape == (*batch, places[1]))
        and (mask is None or mask.shape == places or mask.shape == (heads, *places))
        and all(
            m is None or m.dtype == torch.bool or m.is_floating_point() for m in (padding, mask)
        )
    )


def _mask(q: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Both masks as one that is added to the scores; True means not to look there."""

    def added(m: Tensor) -> Tensor:
        return q.new_zeros(m.shape).masked_fill_(m, -math.inf) if m.dtype == torch.bool else m

    total = None
    if mask is not None:
        total = added(mask)
        if total.dim() == 3:  # one for each sample and head
            total = total.reshape(*q.shape[:2], *total.shape[1:])
    if padding is not None:
        padding = added(padding).reshape(q.shape[0], 1, 1, padding.shape[-1])
        total = padding if total is None else total + padding
    return total
