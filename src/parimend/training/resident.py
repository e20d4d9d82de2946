"""What stays on a device: sums of tensors there, begun after a step and compared before the next.

A host that waits for a device lets it run dry, which costs more than the sums themselves. So
nothing is read of them but whether a few have changed, of all words and together with whatever
else a step has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.codes import SumsCode
from parimend.kernels.reading_torch import read as read_back

_Start = Callable[[], list[torch.Tensor]]


class Resident:
    """Sums of those parts of a word that are on a device. Only `kept` waits for it.

    Args:
        code: of the word.
        few, all: what begins to compute a few sums, and all; see `SumsCode.prepare_resident`.
    """

    def __init__(self, code: SumsCode, few: _Start, all: _Start) -> None:
        self._code, self._few, self._all = code, few, all
        self._kept: list[torch.Tensor] = []

    @classmethod
    def of(
        cls, code: SumsCode, pieces: Sequence[tuple[torch.Tensor, int]], only_few: bool = False
    ) -> Resident | None:
        """The sums of pieces that stay where they are; None where they have to be waited for."""
        few = code.prepare_resident(pieces, few=True)
        all = few if only_few else code.prepare_resident(pieces)
        return None if few is None or all is None else cls(code, few, all)

    def keep(self) -> None:
        """Begin to compute the sums of what is there now, which `differ` compares with."""
        self._kept = self._all()

    def differ(self) -> torch.Tensor:
        """() bool, on the device: whether a few sums are no longer those that were kept."""
        [few] = self._few()
        return ((few - self._kept[0]) % self._code.prime).any()

    def compare_with(self, other: Resident) -> None:
        """Take over what another one has kept."""
        self._kept = other._kept

    def kept(self) -> NDArray[np.uint64]:
        """All sums that were kept."""
        sums = torch.cat(self._kept).cpu().numpy() % self._code.prime
        return sums.astype(np.uint64).reshape(self._code.syndrome_shape)


def read(
    flags: Sequence[bool | torch.Tensor], norm: torch.Tensor | None = None
) -> tuple[list[bool], float | None]:
    """Flags and a norm, some of them on a device, which is waited for once.

    Example:
        >>> read([False, torch.tensor(True)], torch.tensor(0.5))
        ([False, True], 0.5)
    """
    there = [flag for flag in flags if isinstance(flag, torch.Tensor)]
    together = there if norm is None else [*there, norm]
    if not together:
        return [bool(flag) for flag in flags], None
    # Of the norm's type, whatever the device has of numbers.
    values = read_back(torch.stack([each.to(together[-1]) for each in together]))
    found = iter(values)
    answers = [bool(next(found)) if isinstance(f, torch.Tensor) else f for f in flags]
    return answers, None if norm is None else float(values[-1])
