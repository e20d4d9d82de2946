"""A live model with its seal as a target."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parimend.dtypes import of_torch
from parimend.errors import SpecError
from parimend.experiment.trials import Answer, Faults
from parimend.faults import Words
from parimend.seal import Seal
from parimend.words.bits import byte_view
from parimend.words.grid import Grid

if TYPE_CHECKING:
    import torch

    Model = torch.nn.Module | Mapping[str, torch.Tensor]


def on_grid(grid: Grid) -> dict[str, float]:
    """Options of the kind ``replace``: other values of the same grid, as valid as the right ones.

    >>> on_grid(Grid(18, -19))
    {'step': 1.9073486328125e-06, 'limit': 0.2499980926513672}
    """
    return {"step": grid.step, "limit": grid.step * (grid.limit - 1)}


def grid_of(seal: Seal, tensor: str) -> Grid:
    """The grid of a tensor that the real carrier protects.

    Raises:
        SpecError: if the seal names no such tensor.
    """
    for word in seal.words:
        for part in word.parts:
            if part.name == tensor:
                code: Any = word.code
                return Grid(code.word_bits, part.exponent)
    raise SpecError(f"the seal does not protect {tensor}: name a tensor that it does")


def bit_patterns(model: Model) -> list[Words]:
    """The parameters of a module, or the tensors of a state dict, as bit patterns that share their
    memory. Those of tensors that are not contiguous, or not on the CPU, are read-only copies.

    Raises:
        WordError: if a tensor has no plain bytes, as quantized and sparse ones; names it.
    """
    import torch

    found = []
    named = model.named_parameters() if isinstance(model, torch.nn.Module) else model.items()
    for name, tensor in named:
        data = byte_view(tensor.detach(), name)
        words = Words.of_bytes(name, data, of_torch(tensor.dtype, name).name)
        words.bits.flags.writeable &= tensor.is_cpu and tensor.is_contiguous()
        found.append(words)
    return found


def same_bits(a: Model, b: Model) -> bool:
    """Whether two models of one kind have the same bits, parameters and buffers."""
    import torch

    left, right = (m.state_dict() if isinstance(m, torch.nn.Module) else m for m in (a, b))
    return left.keys() == right.keys() and all(
        np.array_equal(byte_view(left[name], name), byte_view(right[name], name)) for name in left
    )


class ModelTarget:
    """A live model with its seal; a state is a copy of the model.

    Args:
        intact: a module or a state dict on the CPU, as it was sealed; not changed.
        seal: of any carrier.
        only: shell patterns; only the parameters whose names match one of them are damaged.
    """

    def __init__(self, intact: Model, seal: Seal, only: Sequence[str] | None = None) -> None:
        self.intact, self.seal, self.only = intact, seal, only

    def damaged(self, faults: Faults, seed: int) -> Any:
        state = copy.deepcopy(self.intact)
        words = bit_patterns(state)
        faults.draw(words, seed, self.only).apply_(words)
        return state

    def repair_(self, state: Any) -> Answer:
        from parimend.model import repair_  # here: the other targets need no torch

        repair = repair_(state, self.seal)
        return Answer(repair.verdict, len(repair.changes))

    def same(self, state: Any) -> bool:
        return same_bits(state, self.intact)
