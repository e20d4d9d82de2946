"""What a training run consists of: parameters, tensors of optimizers' state, and where they are.

Both is asked for in every step, so what has not changed is seen at little cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any

import torch

from parimend.stores.spread import is_sharded, local


class State:
    """Parameters of a model and the tensors of its optimizers' state, by name.

    Attributes:
        tensors: as `find` has found them; of shards, what is held here.
        left: names of parameters that are not looked at.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> state = State(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
        >>> state.find(), state.find(), list(state.tensors)
        (True, False, ['weight', 'bias'])
        >>> model.bias.data = torch.zeros(2)
        >>> state.moved()
        {'bias'}
    """

    def __init__(self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self.tensors: dict[str, torch.Tensor] = {}
        self.left: frozenset[str] = frozenset()
        self._places: list[tuple[Any, ...]] = []
        self._given: list[torch.Tensor] = []

    def leave(self, names: set[str]) -> None:
        """Look at some parameters no more, from the next `find` on."""
        self.left |= names
        self._given = []

    def find(self) -> bool:
        """Look for all tensors again; whether there are others, or some are elsewhere."""
        given = self._all()
        known = len(given) == len(self._given) and all(map(is_, given, self._given))
        # A shard is a new tensor whenever it is asked for.
        if known and not any(map(is_sharded, given)) and not self.moved():
            return False
        tensors = dict(self._named())
        places = [_place(tensor) for tensor in tensors.values()]
        changed = places != self._places or list(tensors) != list(self.tensors)
        self.tensors, self._places, self._given = tensors, places, given
        return changed

    def moved(self) -> set[str]:
        """Tensors that are elsewhere now, or of another shape or dtype: damage does not do that."""
        places = [_place(tensor) for tensor in self.tensors.values()]
        if places == self._places:
            return set()
        pairs = zip(self.tensors, places, self._places, strict=True)
        return {name for name, now, before in pairs if now != before}

    def holds(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether one of some tensors is the memory of one that was found."""
        there = {address for address, *_ in self._places if address}
        return any(local(tensor).data_ptr() in there for tensor in tensors)

    def _all(self) -> list[torch.Tensor]:
        """Everything that there may be to watch, as it is given."""
        entries = (value for *_, state in self._states() for value in state.values())
        return [*self._model.parameters(), *(e for e in entries if isinstance(e, torch.Tensor))]

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        parameters: dict[str, torch.Tensor] = dict(self._model.named_parameters())
        names = {id(parameter): name for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            if name not in self.left:
                yield name, local(parameter)
        for number, parameter, state in self._states():
            prefix = names.get(id(parameter), f"parameter {number}")
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.layout is torch.strided:
                    yield f"{prefix} ({key})", local(value)

    def _states(self) -> Iterator[tuple[int, torch.Tensor, Mapping[str, Any]]]:
        """What each optimizer keeps of each parameter, which is one of its own with a number."""
        for optimizer in self._optimizers:
            for number, (parameter, state) in enumerate(optimizer.state.items()):
                if isinstance(state, Mapping):
                    yield number, parameter, state


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What damage to a tensor's elements cannot change."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device
