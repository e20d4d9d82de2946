"""How large a syndrome may be from rounding alone.

The k checks of an output y are compared with the output's own size, |P y - t| <= tau S. S is |y|
or, if that is more, what inputs of this size give on average over signs, the square root of
sum_i x_i^2 sum_j w_ji^2: |y| alone would be too small for an input that the layer all but ignores.
The first needs no look at the input, so it is what every forward is screened with; only what it
stops is judged with the second, and since that threshold is never smaller, the screen loses
nothing.

tau is a quantile. A sum of L terms of total size S rounds L partial sums, most of them smaller than
S; the errors are independent (N. J. Higham, T. Mary, "A new approach to probabilistic rounding
error analysis", SIAM Journal on Scientific Computing 41, 2019), so they add up to a standard
deviation of C u sqrt(L) S with u the unit roundoff and C = 1 / sqrt(12) for sums that grow like a
random walk. The outputs' errors enter the syndrome through P and are about normal, so |s|^2 is
bounded by the largest eigenvalue of their covariance times a chi-square of k degrees of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from scipy.special import chdtri
from torch import Tensor

from parimend.guards.arithmetic import Arithmetic, absolute_roundoff, unit_roundoff

PROBABILITY = 1e-11
"""Of a false alarm, for every check of an output: the margin."""

ROUNDING = 0.3
"""C above. Measured: 0.30 at most, for matrix products, convolutions and random inputs."""

_OWN_TERMS = 64
"""Partial sums that the check adds to those of the layer; see `parimend.guards.kernels`."""


@dataclass(frozen=True)
class Threshold:
    """How much rounding alone may do.

    Attributes:
        tau: limit of |P y - t| / S for outputs of about the sizes that the weights suggest.
        deviation: the same for one check and one output, in units of this output's size.
        least: limit of |P y - t| for outputs as small as the smallest numbers of their dtype.
        worst: largest error that rounding can make, in units of an output's sum of |w x|.
    """

    tau: float
    deviation: float
    least: float
    worst: float

    @classmethod
    def of(
        cls,
        noise: Tensor,
        own: Tensor,
        gains: tuple[float, float],
        terms: int,
        weight: torch.dtype,
        arithmetic: Arithmetic,
        casts: bool = False,
    ) -> Threshold:
        """The threshold of a layer.

        Args:
            noise: (k, k) float64, covariance of the checks if all outputs err by the size that
                their weights suggest, in units of the mean square of all outputs.
            own: (k,) float64, squares of what rounding the weights has left of P W, in that unit.
            gains: largest eigenvalues of P P^T and of P W W^T P^T: what the checks make of errors
                of outputs and of inputs that do not depend on their size.
            terms: of every sum.
            weight: dtype of the weights; if it is wider than the outputs', the layer casts them.
            arithmetic: of the layer.
            casts: the layer casts its inputs.
        """
        output = arithmetic.output
        unit, least = unit_roundoff(output), absolute_roundoff(output)
        variance = ROUNDING**2 * arithmetic.sums**2 * (terms + _OWN_TERMS)
        variance += 2.0 * arithmetic.factors**2 / 3.0
        narrow = output.itemsize < 4
        # The sums are rounded at the end, and so were weights and inputs before they were used.
        roundings = narrow + (output.itemsize < weight.itemsize) + casts
        variance += roundings * unit**2 / 3.0
        worst = float(torch.linalg.eigvalsh(variance * noise + torch.diag(own)).max())
        # Where numbers are taken for zero, so may be every term of a sum.
        absolute = least**2 * (gains[0] * (1 if narrow else terms**2) + casts * gains[1])
        q = quantile(len(own))
        return cls(
            q * math.sqrt(worst),
            q * math.sqrt(variance),
            q * math.sqrt(absolute / 3.0),
            terms * arithmetic.sums + roundings * unit + 2.0 * arithmetic.factors,
        )

    def floor(self, k: int, outputs: int) -> float:
        """Size of a single wrong output that is seen whatever the rounding errors happen to be.

        In units of the rms output: sqrt(k) times the error must exceed the threshold and, with a
        probability of 3e-5 to fail, rounding errors in the other direction.
        """
        return self.tau * (1.0 + 4.0 / quantile(k)) * math.sqrt(outputs / k)


@cache
def quantile(k: int) -> float:
    """|s| in standard deviations that k independent checks exceed with `PROBABILITY`.

    >>> [round(quantile(k), 1) for k in (1, 8)]
    [6.8, 8.3]
    """
    return math.sqrt(float(chdtri(k, PROBABILITY)))
