"""Arithmetic modulo p = 2^32 + 24,577 in float64, which holds its elements exactly.

Elements are integers between -p and p, kept as float64; a product is reduced with two fused
multiply-adds: with h = round(a b) and q = round(h / p), both ``fma(a, b, -h)``, the rounding
error of h, and ``fma(-q, p, h)`` are integers below 2^53 and so without error, and their sum is
a b - q p, at most a little more than p / 2 in magnitude. Loops over such products become vector
instructions; in integers each would take two divisions.
"""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from parimend.kernels.field import PRIME

_INVERSE = 1.0 / PRIME
INTEGER_PRIME = np.uint64(PRIME)


def fused(builder, kind):
    """LLVM's fused multiply-add and rounding to an integer, for float64 or vectors of it."""
    name = "f64" if isinstance(kind, ir.DoubleType) else f"v{kind.count}f64"
    module = builder.module
    fma = cgutils.get_or_insert_function(
        module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.{name}"
    )
    rint = cgutils.get_or_insert_function(
        module, ir.FunctionType(kind, [kind]), f"llvm.nearbyint.{name}"
    )
    return fma, rint


def reduced(builder, kind, a, b, quotient, prime):
    """LLVM code for a b - q p, q being ``quotient`` rounded; see the module."""
    fma, rint = fused(builder, kind)
    high = builder.fmul(a, b)
    q = builder.call(rint, [quotient(high)])
    low = builder.call(fma, [a, b, builder.fneg(high)])
    return builder.fadd(builder.call(fma, [builder.fneg(q), prime, high]), low)


@intrinsic
def multiply(typing, a, b):
    """a b modulo p, between -p and p, for factors in that range."""

    def generate(context, builder, signature, args):
        kind = ir.DoubleType()
        inverse, prime = ir.Constant(kind, _INVERSE), ir.Constant(kind, float(PRIME))
        return reduced(builder, kind, *args, lambda high: builder.fmul(high, inverse), prime)

    return types.float64(types.float64, types.float64), generate


@nb.njit(inline="always")
def centered(x):
    """The element that is congruent to x, an integer below 2^53, and at most p / 2 in magnitude."""
    return x - np.rint(x * _INVERSE) * PRIME


@nb.njit(inline="always")
def residue(x):
    """The residue of an element as uint64, 0 .. p - 1."""
    y = np.int64(centered(x))
    return np.uint64(y + PRIME if y < 0 else y)


@nb.njit
def power(a, exponent):
    """a^exponent modulo p, for an exponent of at least 0."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result = multiply(result, a)
        a = multiply(a, a)
        exponent >>= 1
    return result


@nb.njit
def inverse(a):
    """1 / a modulo p, by Fermat."""
    return power(a, PRIME - 2)


@nb.njit(inline="always")
def multiply_integers(a, b):
    """a b modulo p, in integers: a of 33 bits, b in halves."""
    high, low = b >> np.uint64(17), b & np.uint64((1 << 17) - 1)
    return (((a * high) % INTEGER_PRIME << np.uint64(17)) + a * low) % INTEGER_PRIME
