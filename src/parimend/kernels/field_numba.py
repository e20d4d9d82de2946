"""Arithmetic modulo p = 2^32 + 24,577 in float64, which holds its elements exactly.

Elements are integers between -p and p, kept as float64; a product is reduced with two fused
multiply-adds: with h = round(a b) and q = round(h / p), both ``fma(a, b, -h)``, the rounding
error of h, and ``fma(-q, p, h)`` are integers below 2^53 and so without error, and their sum is
a b - q p, at most a little more than p / 2 in magnitude. Loops over such products become vector
instructions; in integers each would take two divisions. A number below 2^51 is rounded by adding
and taking away 1.5 2^52, of which the first costs nothing after a product.
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
_ROUNDS = 1.5 * 2**52


def _constant(kind, value):
    """A number as LLVM's float64, or in all places of a vector of it."""
    return ir.Constant(kind, value if isinstance(kind, ir.DoubleType) else [value] * kind.count)


def _fma(builder, *factors_and_term):
    kind = factors_and_term[0].type
    name = "f64" if isinstance(kind, ir.DoubleType) else f"v{kind.count}f64"
    signature = ir.FunctionType(kind, [kind] * 3)
    fma = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.{name}")
    return builder.call(fma, factors_and_term)


def reduced(builder, a, b, quotient):
    """LLVM code for a b - q p, of float64 or of vectors of it; see the module.

    Args:
        quotient: of round(a b), two factors whose product is a b / p, below 2^51.
    """
    kind = a.type
    prime, rounds = _constant(kind, float(PRIME)), _constant(kind, _ROUNDS)
    high = builder.fmul(a, b)
    q = builder.fsub(_fma(builder, *quotient(high), rounds), rounds)
    low = _fma(builder, a, b, builder.fneg(high))
    return builder.fadd(_fma(builder, builder.fneg(q), prime, high), low)


@intrinsic
def multiply(typing, a, b):
    """a b modulo p, between -p and p, for factors in that range."""

    def generate(context, builder, signature, args):
        return reduced(builder, *args, lambda high: (high, _constant(high.type, _INVERSE)))

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
