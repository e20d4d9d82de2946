"""Dense real codes: H has independent standard normal entries, H q = 0.

The codes of the first publication of the method (arXiv 2602.00076), decoded by linear programming.
Any m columns of H are independent with probability one, and the syndrome of a damage is a normal
vector whatever the damage is: what a decoder finds can be judged by a plain probability, see
`parimend.decoders.support`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.codes.dense import Dense
from parimend.hashing import stream_key, words
from parimend.lasting import cached_property
from parimend.rng import log

# Coefficients of PPND16, highest power first: numerator and denominator for the middle, for the
# tails and for the far tails (M. J. Wichura, "Algorithm AS 241: The percentage points of the normal
# distribution", Applied Statistics 37, 1988).
_MIDDLE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
     5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip
_BLOCK = 1 << 16
"""Entries made at a time: their intermediate results stay in the cache."""


def _polynomial(coefficients: tuple[float, ...], x: NDArray[np.float64]) -> NDArray[np.float64]:
    # Horner's rule in separate multiplications and additions: each is rounded on its own, so that
    # no compiler can fuse two of them and change the last bit.
    y = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y *= x
        y += c
    return y


def normal_quantile(tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """The x >= 0 that a standard normal variable exceeds with probability ``tail``.

    PPND16 of algorithm AS 241, relative error about 1e-16, from correctly rounded IEEE operations
    alone (+, -, *, /, square root): every bit of the result is fixed by this file
    and `parimend.rng.log`.

    Args:
        tail: float64, multiples of 2^-54 in (0, 1/2).

    Returns:
        float64, the shape of ``tail``.

    >>> float(normal_quantile(np.array([0.125]))[0])
    1.1503493803760079
    """
    q = 0.5 - tail
    r = 0.180625 - q * q
    x = q * _polynomial(_MIDDLE[0], r) / _polynomial(_MIDDLE[1], r)
    outer = q > 0.425
    r = np.sqrt(-log(tail[outer]))
    y = _polynomial(_TAIL[0], r - 1.6) / _polynomial(_TAIL[1], r - 1.6)
    far = r > 5.0
    y[far] = _polynomial(_FAR[0], r[far] - 5.0) / _polynomial(_FAR[1], r[far] - 5.0)
    x[outer] = y
    return x


def normals(key: np.uint64, start: int, count: int) -> NDArray[np.float64]:
    """Standard normal numbers start .. start + count - 1 of stream ``key``.

    The lowest bit of the hashed word is the sign, the upper 52 bits h give the tail
    (h + 1/2) 2^-53.

    Returns:
        (count,) float64.

    >>> [float(x).hex() for x in normals(stream_key(0), 0, 2)]
    ['-0x1.cd2c0b01eae21p-2', '0x1.88e4a85efd5afp-2']
    """
    w = words(key, start, count)
    h = (w >> np.uint64(12)).astype(np.float64)
    x = normal_quantile((h + 0.5) * 2.0**-53)
    return np.where(w & np.uint64(1), -x, x)


class Gaussian(Dense):
    """A dense real code: H[r, i] is normal number i m + r of the stream of the seed.

    H is made on first use (0.3 s and 42 MB for n = 5,120 and m = 1,024) and kept with the code.

    Args:
        n: number of words.
        m: number of checks, less than n.
        seed: selects one code of the family, 0 <= seed < 2^64.
        version: of the construction.

    Raises:
        SpecError: if no such code exists.

    >>> code = Gaussian(n=6, m=2)
    >>> word = code.project(np.arange(6.0))
    >>> bool(np.abs(code.syndrome(word)).max() < 1e-12)
    True
    """

    family: ClassVar[str] = "gaussian"

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """H, (m, n) float64, column by column in memory, read-only."""
        H = np.empty((self.m, self.n), order="F")
        step = max(1, _BLOCK // self.m)
        for i in range(0, self.n, step):
            block = H[:, i : i + step]
            block[...] = self._columns(i, block.shape[1])
        H.flags.writeable = False
        return H

    def _columns(self, start: int, count: int) -> NDArray[np.float64]:
        x = normals(stream_key(self.seed, self.version), start * self.m, count * self.m)
        return x.reshape(count, self.m).T

    @cached_property
    def gram_factor(self) -> NDArray[np.float64]:
        """Lower triangular L, (m, m) float64, with L L^T = H H^T.

        Raises:
            SpecError: if H has dependent rows.
        """
        import scipy.linalg as sl  # see RealCode.solve_gram

        try:
            return sl.cholesky(self.matrix @ self.matrix.T, lower=True)
        except sl.LinAlgError:
            raise self.dependent_rows() from None

    def solve_gram(self, residual: NDArray[np.float64], rtol: float = 1e-13) -> NDArray[np.float64]:
        """The y with H H^T y = residual, (k,) -> (k,), of the first k rows, by the Cholesky factor:
        that of the leading block is the leading block of that of all.
        """
        import scipy.linalg as sl  # see RealCode.solve_gram

        k = len(residual)
        return sl.cho_solve((self.gram_factor[:k, :k], True), residual)
