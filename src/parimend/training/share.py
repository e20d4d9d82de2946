"""The part of a word that is at hand in training: a tensor, or the shard of it in this process.

A word is the concatenation of its shares. Projecting it takes two passes over the weights, where
they are and in their own dtype, and no other memory of their size::

    s = sum over shares of H_share values;   y = (H H^T)^-1 s;   values -= H_share^T y
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes import Sparse


@dataclass(frozen=True, eq=False)
class Share:
    """Some elements of a word and the columns of H that belong to them.

    Args:
        code: of the word.
        elements: their positions in the word, in the order of the values.
        step: of their grid: the word is ``values / step``.

    Example:
        >>> code = Sparse(n=2000, m=64)
        >>> values = torch.randn(2000)
        >>> share = Share(code, slice(0, 2000), step=2.0**-16)
        >>> share.subtract_(values, code.solve_gram(share.checks(values)))
        >>> bool(np.abs(code.matvec(values.double().numpy())).max() < 1e-5)
        True
    """

    code: Sparse
    elements: slice | NDArray[np.int64]
    step: float
    _products: dict[torch.device, Any] = field(default_factory=dict, init=False)

    def checks(self, values: torch.Tensor) -> NDArray[np.float64]:
        """What these elements add to the checks of the word, (m,), in the scale of `Sparse.matvec`.

        Args:
            values: (k,) float32 or float64, on any device.
        """
        return self._on(values.device).multiply(values) / (self.code.unit * self.step)

    def subtract_(self, values: torch.Tensor, y: NDArray[np.float64]) -> None:
        """Subtract from ``values`` what H^T ``y`` is for these elements, in place."""
        self._on(values.device).subtract_transposed(y * (self.step / self.code.unit), values)

    def _on(self, device: torch.device) -> Any:
        """The kernels for the columns of these elements, made when they are first used there."""
        if device not in self._products:
            self._products.clear()  # a model lives in one place at a time
            columns = self.code.columns.take(self.elements)
            made = kernels.on("sparse", device.type).Products(*columns, self.code.m, device)
            self._products[device] = made
        return self._products[device]
