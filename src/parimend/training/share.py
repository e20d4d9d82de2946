"""The part of a word that is at hand in training: tensors, or the shards of them in this process.

A word is the concatenation of its shares. Projecting it takes two passes over the weights, where
they are and in their own dtype; on the CPU no other memory of their size::

    s = sum over shares of H_share values;   y = (H H^T)^-1 s;   values -= H_share^T y
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend import kernels
from parimend.codes import Sparse
from parimend.errors import MismatchError
from parimend.lasting import cached_property
from parimend.stores.spread import Elements


@dataclass(frozen=True, eq=False)
class Share:
    """Some elements of a word and the columns of H that belong to them.

    Args:
        code: of the word.
        pieces: positions in the word, in the order of the values, of what lies together; and the
            step of their grid: the word is ``values / step``.

    Example:
        >>> code = Sparse(n=2000, m=64)
        >>> values = torch.linspace(-1, 1, 1200), torch.linspace(2, -2, 800)
        >>> share = Share(code, [(slice(0, 1200), 2.0**-16), (slice(1200, 2000), 2.0**-18)])
        >>> share.subtract_(values, code.solve_gram(share.checks(values)))
        >>> bool(np.abs(share.checks(values)).max() < 0.25)  # float32 rounds
        True
    """

    code: Sparse
    pieces: Sequence[tuple[Elements, float]]
    _kernels: dict[torch.device, tuple[list[int], Any]] = field(default_factory=dict, init=False)
    _places: list[torch.device] = field(default_factory=list, init=False)

    def checks(self, values: Sequence[torch.Tensor]) -> NDArray[np.float64]:
        """What these elements add to the checks of the word, (m,), in the scale of `Sparse.matvec`.

        Args:
            values: (k,) float32 or float64 for every piece, on any devices.

        Raises:
            MismatchError: if a piece has another length.
        """
        total = np.zeros(self.code.m)
        for numbers, products in self._on(values):
            total += products.multiply([values[k] for k in numbers])
        return total

    def subtract_(self, values: Sequence[torch.Tensor], y: NDArray[np.float64]) -> None:
        """Subtract from ``values`` what H^T ``y`` is for these elements, in place.

        Raises:
            MismatchError: if a piece has another length.
        """
        for numbers, products in self._on(values):
            products.subtract_transposed(y, [values[k] for k in numbers])

    def _on(self, values: Sequence[torch.Tensor]) -> Iterable[tuple[list[int], Any]]:
        """For every device the pieces that are there, and the kernels for their columns, made when
        they are first used there.
        """
        lengths = [len(each) for each in values]
        if lengths != self._lengths:  # compiled loops would go on in memory of others
            raise MismatchError(
                f"a word was given in pieces of {lengths} weights, and has pieces of "
                f"{self._lengths}: constrain its parameters again"
            )
        places = [each.device for each in values]
        if places != self._places:
            self._places[:] = places
            self._kernels.clear()  # what is elsewhere now is not used any more
            for device in dict.fromkeys(places):
                numbers = [k for k, place in enumerate(places) if place == device]
                self._kernels[device] = numbers, self._products(numbers, device)
        return self._kernels.values()

    @cached_property
    def _lengths(self) -> list[int]:
        return [
            each.stop - each.start if isinstance(each, slice) else len(each)
            for each, _ in self.pieces
        ]

    def _products(self, numbers: Sequence[int], device: torch.device) -> Any:
        columns = self.code.columns
        pieces = [(columns.take(self.pieces[k][0]), self.pieces[k][1]) for k in numbers]
        made = kernels.on("sparse", device.type).Products
        return made(pieces, self.code.m, self.code.unit, device)


def require_shape(name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A tensor that has the shape that was protected, as what was made of that does not fit others.

    Raises:
        MismatchError: if it has another one; says what ``name`` is.
    """
    if tensor.shape != shape:
        raise MismatchError(
            f"{name} has shape {list(tensor.shape)}, but {list(shape)} was protected: call "
            "remove(), and constrain_ again"
        )
    return tensor


def take_back_(tensor: torch.Tensor, flat: torch.Tensor) -> None:
    """Write into a tensor what became of ``tensor.reshape(-1)``, if that was a copy."""
    if flat.data_ptr() != tensor.data_ptr():  # its memory has gaps or another order
        tensor.copy_(flat.view(tensor.shape))
