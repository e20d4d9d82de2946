"""In which arithmetic outputs are computed: what dtypes, and PyTorch's settings, make of it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch

_FACTORS = {"tf32": 2.0**-10, "bf16": 2.0**-8}
"""Largest relative error of the factors of float32 products that PyTorch may make coarser, by its
own names. Tensor cores ignore the bits that TF32 lacks, so these may be cut off and not rounded."""

_IN_PIECES = 3
"""Roundings of an output that cuBLAS may add up from pieces in the dtype of the output."""


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
        factors: largest relative error to which inputs and weights are rounded although their
            dtype is finer; 0 if they are not.
        sums: unit roundoff of the sums.
        roundings: of a sum to the dtype of the outputs, until it is finished; 0 where that is the
            sums' own.
        checks: what ``factors`` is of the float32 products that outputs are compared with.
    """

    output: torch.dtype
    factors: float = 0.0
    sums: float = unit_roundoff(torch.float32)
    roundings: int = 0
    checks: float = 0.0

    @property
    def wide(self) -> torch.dtype:
        """The dtype in which outputs are checked: their own, or float32."""
        return torch.promote_types(self.output, torch.float32)


_EXACT = {
    torch.float64: Arithmetic(torch.float64, sums=unit_roundoff(torch.float64)),
    torch.float32: Arithmetic(torch.float32),
    torch.bfloat16: Arithmetic(torch.bfloat16, roundings=1),
    torch.float16: Arithmetic(torch.float16, roundings=1),
}


def arithmetic(
    y: Any, convolution: bool, overlaps: int = 0, reaches: bool = False, apart: bool = False
) -> Arithmetic:
    """The arithmetic of a product as PyTorch is set now: settings may change at any time.

    Args:
        y: outputs; only their dtype and device count.
        convolution: or a matrix product.
        overlaps, reaches: see `parimend.layers.product.Product`.
        apart: a bias is added to finished outputs.

    Example:
        >>> arithmetic(torch.ones(1), convolution=False).factors
        0.0
    """
    if y.dtype is torch.float64:
        return _EXACT[torch.float64]
    if apart and y.dtype.itemsize < 4:
        return _once_more(arithmetic(y, convolution, overlaps, reaches))
    on = "cuda" if y.is_cuda else "mkldnn"
    coarse = _FACTORS.get(_precision(on, "matmul"), 0.0)
    if convolution:  # which may be done by a matrix product
        coarse = max(coarse, _FACTORS.get(_precision(on, "conv"), 0.0))
    if y.is_cuda:
        return _coarse(y.dtype, coarse, *_additions(y.dtype))
    if overlaps and y.dtype.itemsize < 4 and (reaches or not _has_library(y.dtype)):
        return _overlapping(y.dtype, coarse, overlaps)
    return _coarse(y.dtype, coarse, False, False) if coarse else _EXACT[y.dtype]


@cache
def _once_more(found: Arithmetic) -> Arithmetic:
    return found._replace(roundings=found.roundings + 1)


def _has_library(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves narrow numbers on this CPU, with sums in float32."""
    return bool(torch._C._get_mkldnn_enabled()) and _is_supported(dtype)


@cache
def _is_supported(dtype: torch.dtype) -> bool:
    name = "bf16" if dtype is torch.bfloat16 else "fp16"
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    return supported is not None and bool(supported())


@cache
def _overlapping(dtype: torch.dtype, coarse: float, overlaps: int) -> Arithmetic:
    """What PyTorch does in a transposed convolution without a library, as it does where the border
    of the outputs is as wide as the stride: one product of matrices for all places of the kernel,
    rounded to the dtype; each is added to what is there, in the dtype (``col2im``); then the bias.

    For m places that is one rounding of products that together are as large as the output, m - 1 of
    partial sums, the first of which is exact, and one of the last sum. No partial sum is larger
    than the output, on average over signs, but the first may be as large: all of the weight may be
    at one place.
    """
    return _coarse(dtype, coarse, False, False)._replace(roundings=overlaps + 1)


def _additions(dtype: torch.dtype) -> tuple[bool, bool]:
    """Whether cuBLAS may add up all terms, or pieces of their sum, in the dtype of the outputs."""
    if dtype is torch.float32:
        return False, False
    matmul = torch.backends.cuda.matmul
    if dtype is torch.bfloat16:
        return False, bool(matmul.allow_bf16_reduced_precision_reduction)
    all_terms = bool(getattr(matmul, "allow_fp16_accumulation", False))
    return all_terms, bool(matmul.allow_fp16_reduced_precision_reduction)


@cache
def _coarse(dtype: torch.dtype, coarse: float, all_terms: bool, in_pieces: bool) -> Arithmetic:
    """Always the same object for the same settings."""
    found = _EXACT[dtype]._replace(checks=coarse)
    if dtype is torch.float32:
        found = found._replace(factors=coarse)
    if all_terms:
        found = found._replace(sums=unit_roundoff(dtype))
    return found._replace(roundings=_IN_PIECES) if in_pieces else found


def _precision_before_2_9(backend: str, operation: str) -> str:
    """By settings that later versions do not let one read if they were set in the new way."""
    if operation == "conv":
        return "tf32" if backend == "cuda" and torch.backends.cudnn.allow_tf32 else "ieee"
    coarse = "bf16" if backend == "mkldnn" else "tf32"
    return {"high": "tf32", "medium": coarse}.get(torch.get_float32_matmul_precision(), "ieee")


_precision = getattr(torch._C, "_get_fp32_precision_getter", _precision_before_2_9)
"""What PyTorch calls the precision of float32 products: `ieee`, `tf32`, `bf16` or `none`."""


def as_used(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """What was multiplied, as it was: autocasting casts it to the dtype of the outputs."""
    return x.to(y.dtype) if x.dtype.itemsize > y.dtype.itemsize else x
