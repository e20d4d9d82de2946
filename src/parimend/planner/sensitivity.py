"""How much one flipped bit changes what a layer puts out, by tensor and position of the bit.

Moving a weight by d changes the squared output of its layer by d^2 h, where h is the mean square of
the input that it is multiplied with (`parimend.impose.moments`); the d of a flipped bit is known.
Damage is that change as a share of what the layer puts out, at most all of it: beyond that a
network is as wrong as it can be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.dtypes import DTYPES, Bits, DType
from parimend.impose.moments import LayerMoments, Moments
from parimend.stores.base import Tensors
from parimend.words.layout import Part

SAMPLE = 1 << 18
"""Elements of a tensor that are looked at; of a larger one so many, evenly spaced."""


class Bit(NamedTuple):
    """One position in all elements of a tensor.

    Attributes:
        tensor: its name.
        bit: 0 for the lowest.
        elements: number of elements that have it.
        damage: mean of one flip, 0 to 1; infinite where it is not known.
    """

    tensor: str
    bit: int
    elements: int
    damage: float


def sensitivity(tensors: Tensors, moments: Moments) -> list[Bit]:
    """Every bit of every tensor, the most damaging first.

    Args:
        tensors: of a model.
        moments: of its layers. Of tensors that are in none, the damage is not known.
    """
    powers: dict[LayerMoments, float] = {}
    bits: list[Bit] = []
    for part in (part for part in tensors.whole() if part.count):
        layer = moments.layers.get(part.name)
        width = 8 * part.itemsize
        if layer is None or not DTYPES[part.dtype].is_float:
            damage = np.full(width, math.inf)
        else:
            if layer not in powers:
                powers[layer] = _power(layer, tensors)
            damage = _damage(part, tensors, _pull(part, layer) / powers[layer])
        bits += (Bit(part.name, i, part.count, float(damage[i])) for i in range(width))
    return sorted(bits, key=lambda bit: -bit.damage)


def _damage(part: Part, tensors: Tensors, pull: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean damage of a flip of each bit, (bits,)."""
    dtype = DTYPES[part.dtype]
    patterns = _patterns(part, tensors)
    some = slice(None, None, -(-part.count // SAMPLE))
    patterns, pull = patterns[some], pull[some]
    before = dtype.decode(patterns)
    flips = (patterns ^ patterns.dtype.type(1 << i) for i in range(dtype.bits))
    return np.array([_mean_share(dtype, before, flip, pull) for flip in flips])


def _mean_share(
    dtype: DType, before: NDArray[np.float64], after: Bits, pull: NDArray[np.float64]
) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        share = (dtype.decode(after) - before) ** 2 * pull
    return float(np.where(share <= 1.0, share, 1.0).mean())  # NaN is as bad as it can be


def _power(layer: LayerMoments, tensors: Tensors) -> float:
    """Mean square of what a layer puts out, its inputs taken as independent of each other."""
    total = 0.0
    for part in tensors.whole():
        if part.name in (layer.weight, layer.bias):
            values = DTYPES[part.dtype].decode(_patterns(part, tensors))
            total += float(values**2 @ _pull(part, layer))
    return max(total, np.finfo(np.float64).tiny)


def _pull(part: Part, layer: LayerMoments) -> NDArray[np.float64]:
    """(count,): the mean square of the input that every element is multiplied with."""
    if part.name == layer.weight:
        row, column = layer.places(0, part.count)
    else:
        row, column = np.arange(part.count), np.full(part.count, layer.width)
    return layer.diagonal[layer.group(row), column]


def _patterns(part: Part, tensors: Tensors) -> Bits:
    return tensors.read(part).view(DTYPES[part.dtype].unsigned)
