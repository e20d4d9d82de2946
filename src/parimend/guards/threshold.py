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

PROBABILITY = 1e-11
"""Of a false alarm, for every check of an output: the margin."""

ROUNDING = 0.3
"""C above. Measured: 0.30 at most, for matrix products, convolutions and random inputs."""

_OWN_TERMS = 64
"""Partial sums that the check adds to those of the layer; see `parimend.kernels.screen_numba`."""

_TF32 = 2.0**-11


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to a dtype.

    >>> unit_roundoff(torch.float32) == 2**-24
    True
    """
    return float(torch.finfo(dtype).eps) / 2.0


@dataclass(frozen=True)
class Threshold:
    """How much rounding alone may do.

    Attributes:
        tau: limit of |P y - t| / S for outputs of about the sizes that the weights suggest.
        deviation: the same for one check and one output, in units of this output's size.
    """

    tau: float
    deviation: float

    @classmethod
    def of(
        cls,
        noise: Tensor,
        own: Tensor,
        fan_in: int,
        weight: torch.dtype,
        output: torch.dtype,
        tf32: bool,
    ) -> Threshold:
        """The threshold of a layer.

        Args:
            noise: (k, k) float64, covariance of the checks if all outputs err by the size that
                their weights suggest, in units of the mean square of all outputs.
            own: (k,) float64, squares of what rounding the weights has left of P W, in that unit.
            fan_in: terms of every sum.
            weight: dtype of the weights.
            output: dtype of the outputs; if it is the narrower one, the layer casts its weights.
            tf32: products of 11 bits, as CUDA may be told to use.
        """
        wide = torch.float64 if output == torch.float64 else torch.float32
        variance = ROUNDING**2 * unit_roundoff(wide) ** 2 * (fan_in + _OWN_TERMS)
        if output.itemsize < wide.itemsize:  # the sums are float32, and rounded at the end
            variance += unit_roundoff(output) ** 2 / 3.0
        if output.itemsize < weight.itemsize:  # and so were the weights before they were used
            variance += unit_roundoff(output) ** 2 / 3.0
        if tf32:
            variance += 2.0 * _TF32**2 / 3.0
        worst = float(torch.linalg.eigvalsh(variance * noise + torch.diag(own)).max())
        q = quantile(len(own))
        return cls(q * math.sqrt(worst), q * math.sqrt(variance))

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
