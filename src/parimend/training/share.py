"""The part of a word that is at hand in training: a tensor, or the shard of it in this process.

A word is the concatenation of its shares. Projecting it takes two passes over the weights, where
they are and in their own dtype, and no other memory of their size::

    s = sum over shares of H_share values;   y = (H H^T)^-1 s;   values -= H_share^T y
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.codes import Sparse
from parimend.codes.structure import Columns
from parimend.kernels.sparse_torch import Rectangles


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
    _rectangles: dict[torch.device, Rectangles] = field(default_factory=dict, init=False)

    def checks(self, values: torch.Tensor) -> NDArray[np.float64]:
        """What these elements add to the checks of the word, (m,), in the scale of `Sparse.matvec`.

        Args:
            values: (k,) float32 or float64, on any device.
        """
        if values.device.type == "cpu":
            y = self.columns.multiply(values.numpy(), np.zeros(self.code.m))
        else:
            y = self.rectangles(values.device).multiply(values)
        return y / (self.code.unit * self.step)

    def subtract_(self, values: torch.Tensor, y: NDArray[np.float64]) -> None:
        """Subtract from ``values`` what H^T ``y`` is for these elements, in place."""
        y = y * (self.step / self.code.unit)
        if values.device.type == "cpu":
            self.columns.subtract_transposed(y, values.numpy())
        else:
            self.rectangles(values.device).subtract_transposed(y, values)

    @cached_property
    def columns(self) -> Columns:
        """The columns of H that belong to these elements."""
        return self.code.columns.take(self.elements)

    def rectangles(self, device: torch.device) -> Rectangles:
        """The same on a device, made when it is first used there."""
        if device not in self._rectangles:
            self._rectangles.clear()  # a model lives in one place at a time
            self._rectangles[device] = Rectangles(*self.columns, self.code.m, device)
        return self._rectangles[device]
