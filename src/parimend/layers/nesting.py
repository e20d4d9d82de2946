"""``nn.TransformerEncoder`` packs padded samples, where that is faster.

A nested tensor goes from layer to layer then, and padded positions of the output are zero. A layer
computes with nested tensors only in a kernel that passes by its modules; where these are watched,
it has to be given a padded one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from parimend.removable import wrap_forward_


def unpack_(model: nn.Module) -> Callable[[], None]:
    """Lets layers of encoders whose modules are watched compute packed samples padded.

    Whether samples are packed is the encoder's decision, as it is without this.

    Args:
        model: its `nn.TransformerEncoder`s are meant, and `nn.TransformerEncoderLayer`s.

    Returns:
        What undoes it.

    Example:
        >>> encoder = nn.TransformerEncoder(
        ...     nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1
        ... ).eval()
        >>> remove = unpack_(encoder)
        >>> handle = encoder.layers[0].linear1.register_forward_hook(lambda *_: None)
        >>> padding = torch.tensor([[False, False, True], [False, False, False]])
        >>> with torch.no_grad():
        ...     y = encoder(torch.randn(2, 3, 8), src_key_padding_mask=padding)
        >>> y.abs().amax(2) == 0
        tensor([[False, False,  True],
                [False, False, False]])
        >>> remove()
    """
    removers = ExitStack()
    for each in model.modules():
        if isinstance(each, nn.TransformerEncoderLayer):
            removers.callback(wrap_forward_(each, partial(_padded, each)))
        elif isinstance(each, nn.TransformerEncoder) and _packs_unasked(each):
            # Here, as it loads the compiler.
            eagerly: Any = torch.compiler.disable(_call)  # type: ignore[no-untyped-call]
            removers.callback(wrap_forward_(each, partial(_whole, eagerly)))
    return removers.close


def _packs_unasked(encoder: nn.TransformerEncoder) -> bool:
    """Whether it packs samples also while it is being compiled."""
    plain = type(encoder).forward is nn.TransformerEncoder.forward
    return plain and encoder.use_nested_tensor and not getattr(encoder, "mask_check", True)


def _whole(
    eagerly: Callable[..., Any],
    forward: Callable[..., Any],
    src: Tensor,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Any:
    """The forward of an encoder. Dynamo breaks its graph where samples are packed, and some
    versions of it end the process over what follows: a function with a nested tensor.
    """
    if src_key_padding_mask is not None and torch.compiler.is_compiling():
        return eagerly(forward, src, mask, src_key_padding_mask, is_causal)
    return forward(src, mask, src_key_padding_mask, is_causal)


def _call(forward: Callable[..., Any], *args: Any) -> Any:
    return forward(*args)


def _padded(
    layer: nn.TransformerEncoderLayer,
    forward: Callable[..., Any],
    src: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The forward of a layer, on packed samples as well."""
    if not src.is_nested or not (_hooked(layer) or torch.overrides.has_torch_function((src,))):
        return forward(src, *args, **kwargs)
    lengths = torch.tensor([len(each) for each in src.unbind()], device=src.device)
    padded = src.to_padded_tensor(0.0)
    positions = torch.arange(padded.shape[1], device=src.device)
    # A sample without any position may look at one: where all were hidden it would become NaN.
    hidden = positions >= lengths.clamp(min=1).unsqueeze(1)
    kwargs["src_key_padding_mask"] = padded.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    y = forward(padded, *args, **kwargs)
    return torch._nested_tensor_from_mask(y, positions < lengths.unsqueeze(1), mask_check=False)


def _hooked(layer: nn.Module) -> bool:
    """As `nn.TransformerEncoderLayer.forward` asks before it takes its kernel."""
    return any(each._forward_hooks or each._forward_pre_hooks for each in layer.modules())
