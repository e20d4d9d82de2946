"""The one source of randomness of all codes: SplitMix64, addressed by a counter.

Word i of stream ``key`` is ``mix64(key + (i + 1) * GOLDEN)`` in arithmetic modulo 2^64, which is
output i of SplitMix64 seeded with ``key`` (Steele, Lea, Flood, *Fast splittable pseudorandom number
generators*, OOPSLA 2014). The stream is fixed by that specification, so a code can be rebuilt from
its spec for ever, on every platform and with every version of every library.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX64_A = np.uint64(0xBF58476D1CE4E5B9)
MIX64_B = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


Words = TypeVar("Words", np.uint64, NDArray[np.uint64])


def mix64(x: Words) -> Words:
    """The finalizer of SplitMix64, a bijection of 64 bits; of every one of an array."""
    x ^= x >> np.uint64(30)
    x *= MIX64_A
    x ^= x >> np.uint64(27)
    x *= MIX64_B
    return x ^ (x >> np.uint64(31))


def stream_key(seed: int, *tags: int) -> np.uint64:
    """Derive the key of an independent stream from a seed and a path of small integers.

    >>> int(stream_key(0)) == int(stream_key(0, 0))
    False
    """
    with np.errstate(over="ignore"):
        key = np.uint64(seed & _MASK)
        for tag in (len(tags), *tags):
            key = mix64(key + (np.uint64(tag & _MASK) + np.uint64(1)) * GOLDEN)
    return np.uint64(key)


def words(key: np.uint64, start: int, count: int) -> NDArray[np.uint64]:
    """Words start .. start + count - 1 of stream ``key``, as a uint64 array.

    >>> [hex(w) for w in words(np.uint64(1234567), 0, 2)]
    ['0x599ed017fb08fc85', '0x2c73f08458540fa5']
    """
    i = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        return mix64(key + i * GOLDEN)
