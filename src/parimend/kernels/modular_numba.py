"""The compiled loops of `parimend.codes.modular`: arithmetic modulo p = 2^32 + c, and the pass.

c, the ``excess``, is below 2^15, and comes as a uint64.
"""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from parimend.kernels.hashing_numba import below, word
from parimend.kernels.keeping_numba import kept
from parimend.kernels.modular import BASE, GROUP, MIX_A, MIX_B

U = np.uint64
BLOCK = 64
"""Groups that are hashed together, in loops that the compiler can vectorise."""

_MASK = U(0xFFFFFFFF)
_INVERSE_A, _INVERSE_B = (U(pow(int(odd), -1, 1 << 32)) for odd in (MIX_A, MIX_B))


@nb.njit(inline="always")
def multiply(a, b, excess):
    """a b modulo p, for residues a and b of up to 33 bits each."""
    p = U(BASE) + excess
    high_a, low_a = a >> U(32), a & _MASK
    high_b, low_b = b >> U(32), b & _MASK
    x = low_a * low_b
    # 2^32 = -c; adding multiples of p keeps every part positive, and the sum is below 2^50.
    x = (x & _MASK) + excess * (p - (x >> U(32)))
    x += excess * (high_a * (p - low_b) + high_b * (p - low_a)) + excess * excess * high_a * high_b
    return x % p


@nb.njit(inline="always")
def coefficient(group):
    """a_g, a 32-bit mix of g + 1 by shifts and odd multipliers ("lowbias32" of C. Wellons).

    It must not be linear in g: with equal damage in two groups, S1 / S0 is the mean of their a_g.
    """
    x = (U(group) + U(1)) & _MASK
    x ^= x >> U(16)
    x = (x * MIX_A) & _MASK
    x ^= x >> U(15)
    x = (x * MIX_B) & _MASK
    return x ^ (x >> U(16))


@nb.njit(inline="always")
def group_of(a):
    """The inverse of `coefficient`, for 0 < a < 2^32."""
    x = a ^ (a >> U(16))
    x = (x * _INVERSE_B) & _MASK
    x ^= (x >> U(15)) ^ (x >> U(30))
    x = (x * _INVERSE_A) & _MASK
    return np.int64(x ^ (x >> U(16))) - 1


@nb.njit(inline="always")
def bucket(key, group, lane, band, bands, size):
    """The bucket of one word in one band."""
    h = word(key, U(group * ((bands + 1) >> 1) + (band >> 1)))
    b = np.int64(below(h << U(32) if band & 1 else h, U(size))) + lane
    return b - size if b >= size else b


@intrinsic
def _add_group(typing, words, first, a, excess, sums, distance, starts, i):
    """Add one group of words into the sums of all bands.

    words: uint32 array, ``first``: index of the group's first word in it, ``a``: uint32.
    excess: uint32, from which LLVM sees that products fit 64 bits.
    sums: uint64 array; S0 begins at starts[band, i] of it, S1 further on by ``distance``.

    As a loop of 16 steps LLVM would unroll this before it could vectorise it, and as a loop of
    unknown length it spends most of its time on entering and leaving. So it is said in vectors of
    16 x 64 bits, which LLVM cuts to what the processor has; they stay in registers for all bands.
    """

    def generate(context, builder, signature, args):
        def array(k):
            return context.make_array(signature.args[k])(context, builder, args[k])

        words, sums, starts = array(0), array(4), array(6)
        first, a, excess, distance, i = args[1], args[2], args[3], args[5], args[7]
        i32, i64 = ir.IntType(32), ir.IntType(64)
        narrow, wide = ir.VectorType(i32, GROUP), ir.VectorType(i64, GROUP)

        def constant(value):
            return ir.Constant(wide, [value] * GROUP)

        def repeated(value):
            lane_0 = builder.insert_element(constant(0), builder.zext(value, i64), i32(0))
            return builder.shuffle_vector(lane_0, lane_0, ir.Constant(narrow, [0] * GROUP))

        def vector(array, offset, of):
            return builder.bitcast(builder.gep(array.data, [offset]), of.as_pointer())

        x = builder.zext(builder.load(vector(words, first, narrow), align=4), wide)
        product, c = builder.mul(x, repeated(a)), repeated(excess)
        # As in `multiply`, 2^32 = -c and a multiple of p keeps the sum positive.
        low = builder.and_(product, constant(0xFFFFFFFF))
        high = builder.mul(builder.lshr(product, constant(32)), c)
        lift = builder.mul(c, builder.add(c, constant(BASE)))
        y = builder.add(low, builder.sub(lift, high))
        bands, columns = cgutils.unpack_tuple(builder, starts.shape)
        with cgutils.for_range(builder, bands) as loop:
            at = builder.add(builder.mul(loop.index, columns), i)
            offset = builder.load(builder.gep(starts.data, [at]))
            for value, place in ((x, offset), (y, builder.add(offset, distance))):
                pointer = vector(sums, place, wide)
                total = builder.add(builder.load(pointer, align=8), value)
                builder.store(total, pointer, align=8)
        return context.get_dummy_value()

    return types.void(words, first, a, types.uint32, sums, distance, starts, i), generate


@kept(error_model="numpy")
def add_groups(words, group, key, excess, half, bands, size, phases, row, sums):
    """Add whole groups, the first of which is ``group``, into ``sums``, of the first bands.

    words: (16 k,) uint32, k at most `most_groups`.
    half: starts come in pairs; so many pairs has the code. bands: so many bands are summed up.
    sums: uint64, (2, bands, phases, row) made flat; slot j of phase r is a part of bucket
    (r + j) mod size. A start s goes to phase s mod phases, slot s - s mod phases, so that with 8
    phases all vectors of 64 bytes are aligned, and a vector that is loaded right after it was
    stored is the same one or a different one, never half of each, which would stall.
    """
    count = words.size // GROUP
    pairs = (bands + 1) >> 1
    a = np.empty(BLOCK, np.uint32)
    starts = np.empty((2 * pairs, BLOCK), np.int64)
    phase_mask = U(phases - 1)
    stride = phases * row
    fold = np.uint32(excess)
    for block in range(0, count, BLOCK):
        g = U(group + block)
        for i in range(BLOCK):
            a[i] = coefficient(g + U(i))
        for j in range(pairs):
            even, odd = starts[2 * j], starts[2 * j + 1]
            for i in range(BLOCK):
                h = word(key, (g + U(i)) * U(half) + U(j))
                s = below(h, U(size))
                even[i] = np.int64(s + (s & phase_mask) * U(row - 1)) + 2 * j * stride
                s = below(h << U(32), U(size))
                odd[i] = np.int64(s + (s & phase_mask) * U(row - 1)) + (2 * j + 1) * stride
        for i in range(min(BLOCK, count - block)):
            first = (block + i) * GROUP
            _add_group(words, first, a[i], fold, sums, bands * stride, starts[:bands], i)


@kept()
def collect(sums, excess, phases, row, total):
    """Add the partial sums of `add_groups` into ``total`` (2, bands, size), modulo p."""
    p = U(BASE) + excess
    _, bands, size = total.shape
    at = 0
    for s in range(2):
        for k in range(bands):
            for r in range(phases):
                b = r % size
                for _ in range(row):
                    total[s, k, b] = (total[s, k, b] + sums[at] % p) % p
                    at += 1
                    b = b + 1 if b + 1 < size else 0


@kept()
def add_words(positions, values, key, excess, total):
    """Add single words with values modulo p into ``total`` (2, bands, size), modulo p."""
    p = U(BASE) + excess
    _, bands, size = total.shape
    for i in range(positions.size):
        group, lane = positions[i] // GROUP, positions[i] % GROUP
        x = values[i]
        y = multiply(coefficient(group), x, excess)
        for k in range(bands):
            b = bucket(key, group, lane, k, bands, size)
            total[0, k, b] = (total[0, k, b] + x) % p
            total[1, k, b] = (total[1, k, b] + y) % p


@kept()
def place(key, i, bands, size):
    """The bucket of word i in every band, and its coefficient."""
    group, lane = i // GROUP, i % GROUP
    buckets = np.empty(bands, np.int64)
    for k in range(bands):
        buckets[k] = bucket(key, group, lane, k, bands, size)
    return buckets, coefficient(group)
