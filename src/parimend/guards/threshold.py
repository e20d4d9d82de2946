"""How large a syndrome may be from rounding alone.

The k checks of an output y are compared with the output's own size, |P y - t| <= tau S. S is |y|
or, if that is more, what inputs of this size give on average over signs, the square root of
sum_i x_i^2 sum_j w_ji^2: |y| alone would be too small for an input that the layer all but ignores.
The first needs no look at the input, so it is what every forward is screened with; only what it
stops is judged with the second, and since that threshold is never smaller, the screen loses
nothing.

With blocks, all of this is said of one block of outputs: y, S and t are its own.

tau is a quantile of what rounding does, from its variance. A sum of L terms of total size S rounds
L partial sums, most of them smaller than S; the errors are independent (N. J. Higham, T. Mary, "A
new approach to probabilistic rounding error analysis", SIAM Journal on Scientific Computing 41,
2019), so they add up to a standard deviation of C u sqrt(L) S with u the unit roundoff and
C = 1 / sqrt(12) for sums that grow like a random walk. The outputs' errors enter the syndrome
through P and are about normal, so |s|^2 is bounded by the largest eigenvalue of their covariance
times a chi-square of k degrees of freedom.

To that is added what is rounded besides: the outputs, to a narrow dtype, by up to u times the power
of two below them; the factors, where float32 is multiplied in TF32 or bfloat16. The sums P W x are
float32 sums of the inputs that the layer multiplied (autocasting has cast them, and the weights),
so their error is that of the sums alone. Errors that are no sum of independent ones, as those of
equal outputs, which all round in the same direction, are bounded by their worst case when what the
screen stopped is computed again (`parimend.guards.suspect`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from scipy.special import chdtri
from torch import Tensor

from parimend.guards.arithmetic import Arithmetic, absolute_roundoff, unit_roundoff

PROBABILITY = 1e-11
"""Of a false alarm, for every check of an output: the margin."""

ROUNDING = 0.3
"""C above. Measured: 0.30 at most, for matrix products, convolutions and random inputs."""

_OWN_TERMS, _AT_ONCE = 64, 16
"""Partial sums that the check adds to those of the layer: that many, or as many outputs as are
added up one after the other where so many sums run side by side."""

_MANTISSA = 0.5
"""Mean square of the powers of two below numbers, in units of that of the numbers: at most this for
mantissas that are spread over their range, and 1 for powers of two. What the screen stops is judged
with the powers of two themselves."""


class Noise(NamedTuple):
    """What rounding errors of outputs and of inputs make of the checks, for every block of outputs.

    Attributes:
        outputs: (blocks, k, k) float64, covariance of the checks if all outputs err by the size
            that their weights suggest, in units of the mean square of a block's outputs.
        inputs: (blocks, k, k) float64, the same if all inputs err by their size; zero if P W is.
        own: (blocks, k) float64, squares of what rounding the weights has left of P W, in that
            unit; zero if P W is kept.
        gain: largest eigenvalue of P P^T: what the checks make of errors of outputs that do not
            depend on their size.
        terms: of every sum of the layer.
        kept: terms of the sums P W x.
        width: outputs of a block.
    """

    outputs: Tensor
    inputs: Tensor
    own: Tensor
    gain: float
    terms: int
    kept: int
    width: int


@dataclass(frozen=True)
class Threshold:
    """How much rounding alone may do.

    Attributes:
        tau: limit of |P y - t| / S for outputs of about the sizes that the weights suggest.
        deviation: the same for one check and the sum of one output, in units of this output's size.
        rounding: the same for what an output errs by when it is rounded to its dtype, in units of
            the power of two below it.
        rest: limit of |P y - t| / S for what does not come from the outputs.
        least: limit of |P y - t| for outputs as small as the smallest numbers of their dtype.
        worst: largest error that rounding can make, in units of an output's sum of |w x|.
        unit: unit roundoff of the dtype to which outputs are rounded; 0 if they are not.
        roundings: to it.
    """

    tau: float
    deviation: float
    rounding: float
    rest: float
    least: float
    worst: float
    unit: float
    roundings: int

    @classmethod
    def of(cls, noise: Noise, arithmetic: Arithmetic) -> Threshold:
        """The threshold of a layer."""
        unit, least = unit_roundoff(arithmetic.output), absolute_roundoff(arithmetic.output)
        check = ROUNDING**2 * unit_roundoff(arithmetic.wide) ** 2
        factors = arithmetic.factors**2 / 3.0
        own = max(_OWN_TERMS, noise.width // _AT_ONCE)
        sums = ROUNDING**2 * arithmetic.sums**2 * noise.terms + check * own + factors
        roundings = arithmetic.roundings * unit**2 / 3.0
        inputs = check * (noise.kept + own) + arithmetic.checks**2 / 3.0
        rest = inputs * noise.inputs + torch.diag_embed(noise.own)
        # Where numbers are taken for zero, so may be every term of a sum; of sums that are rounded
        # before they are finished, what is added to them is, too.
        roundings_of_all = max(2 * arithmetic.roundings - 1, 0)
        absolute = noise.gain * (roundings_of_all or noise.terms**2)
        q = quantile(noise.own.shape[1])
        return cls(
            q * _largest((sums + _MANTISSA * roundings) * noise.outputs + rest),
            q * math.sqrt(sums),
            q * math.sqrt(roundings),
            q * _largest(rest),
            q * least * math.sqrt(absolute / 3.0),
            noise.terms * arithmetic.sums + arithmetic.roundings * unit + 2.0 * arithmetic.factors,
            unit if arithmetic.roundings else 0.0,
            arithmetic.roundings,
        )

    def floor(self, k: int, outputs: int) -> float:
        """Size of a single wrong output that is seen whatever the rounding errors happen to be.

        In units of the rms output: sqrt(k) times the error must exceed the threshold and, with a
        probability of 3e-5 to fail, rounding errors in the other direction. Of outputs of about the
        sizes that the weights suggest: what the screen stopped is judged with those there are, and
        where one is as large as all of them, the checks err by up to sqrt(k) times as much; by
        sqrt(2) more, if it is a power of two that was rounded to a narrow dtype.
        """
        return self.tau * (1.0 + 4.0 / quantile(k)) * math.sqrt(outputs / k)


@cache
def quantile(k: int) -> float:
    """|s| in standard deviations that k independent checks exceed with `PROBABILITY`.

    >>> [round(quantile(k), 1) for k in (1, 8)]
    [6.8, 8.3]
    """
    return math.sqrt(float(chdtri(k, PROBABILITY)))


def _largest(covariances: Tensor) -> float:
    """Root of the largest eigenvalue of any of them."""
    return math.sqrt(max(float(torch.linalg.eigvalsh(covariances).max()), 0.0))
