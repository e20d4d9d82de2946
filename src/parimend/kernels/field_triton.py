"""Arithmetic modulo p = 2^32 + 24,577 for Triton, in unsigned integers of 64 bits.

Residues are below 2^33. See `parimend.kernels.field_numba` for what the processor does.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from parimend.kernels import field

PRIME = tl.constexpr(field.PRIME)


@triton.jit
def times(a, b):
    """A b modulo p, for residues: b in two limbs, so that nothing exceeds 2^51."""
    high = (a * (b >> 17)) % PRIME
    return ((high << 17) + a * (b & 0x1FFFF)) % PRIME


@triton.jit
def power(x, exponents, BITS: tl.constexpr):
    """x^exponent modulo p for every exponent, all of them below 2^BITS."""
    result = tl.zeros_like(exponents).to(tl.uint64) + 1
    for bit in tl.static_range(BITS):
        result = tl.where((exponents >> bit) & 1 == 1, times(result, x), result)
        x = times(x, x)
    return result
