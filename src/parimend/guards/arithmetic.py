"""In which arithmetic outputs are computed: what dtypes, and PyTorch's settings, make of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

_FACTORS = {"tf32": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff to which PyTorch may round the factors of float32 products, by its own names."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to a dtype.

    >>> unit_roundoff(torch.float32) == 2**-24
    True
    """
    return float(torch.finfo(dtype).eps) / 2.0


def absolute_roundoff(dtype: torch.dtype) -> float:
    """Largest error of rounding to a dtype where its numbers lie as far apart as zero and the next.

    Processors may be told to take subnormal numbers for zero (`torch.set_flush_denormal`), which
    float16 cannot do without.

    >>> absolute_roundoff(torch.float16) == 2**-25
    True
    """
    if dtype == torch.float16:
        return float(torch.finfo(dtype).smallest_normal) * float(torch.finfo(dtype).eps) / 2.0
    return float(torch.finfo(dtype).smallest_normal)


class Arithmetic(NamedTuple):
    """How outputs are computed.

    Attributes:
        output: their dtype.
        factors: unit roundoff to which inputs and weights are rounded although their dtype is
            finer; 0 if they are not.
        sums: unit roundoff of the sums.
    """

    output: torch.dtype
    factors: float
    sums: float


_EXACT = {
    dtype: Arithmetic(dtype, 0.0, unit_roundoff(torch.promote_types(dtype, torch.float32)))
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


def arithmetic(y: Any, convolution: bool) -> Arithmetic:
    """The arithmetic of a product as PyTorch is set now: settings may change at any time.

    Args:
        y: outputs; only their dtype and device count.
        convolution: or a matrix product.

    Example:
        >>> arithmetic(torch.ones(1), convolution=False).factors
        0.0
    """
    exact = _EXACT[y.dtype]
    if y.dtype is torch.float32:
        on = "cuda" if y.is_cuda else "mkldnn"
        factors = _FACTORS.get(_precision(on, "matmul"), 0.0)
        if convolution:  # which may be done by a matrix product
            factors = max(factors, _FACTORS.get(_precision(on, "conv"), 0.0))
        return exact._replace(factors=factors) if factors else exact
    if y.dtype is torch.float16 and y.is_cuda and _adds_in_float16():
        return exact._replace(sums=unit_roundoff(y.dtype))
    return exact


def _precision_before_2_9(backend: str, operation: str) -> str:
    """By settings that later versions do not let one read if they were set in the new way."""
    if operation == "conv":
        return "tf32" if backend == "cuda" and torch.backends.cudnn.allow_tf32 else "ieee"
    coarse = "bf16" if backend == "mkldnn" else "tf32"
    return {"high": "tf32", "medium": coarse}.get(torch.get_float32_matmul_precision(), "ieee")


_precision = getattr(torch._C, "_get_fp32_precision_getter", _precision_before_2_9)
"""What PyTorch calls the precision of float32 products: `ieee`, `tf32`, `bf16` or `none`."""


def _adds_in_float16() -> bool:
    return bool(getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", False))
