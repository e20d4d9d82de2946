"""What a training run consists of: parameters, tensors of optimizers' state, and where they are.

Both is asked for in every step, so what has not changed is seen at little cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import torch

from parimend.stores.aliasing import address_of
from parimend.stores.naming import hides_memory, made_of
from parimend.stores.spread import is_sharded, local
from parimend.training.hooks import parameters_of


class State:
    """Parameters of a model and the tensors of its optimizers' state, by name. Of those that are
    made of others, as quantized ones are, these.

    Attributes:
        tensors: as `find` has found them; of shards, what is held here.
        weights: names of those that a forward computes with, which is no state of an optimizer.
        left: names of parameters that are not looked at.
        hidden: names of what hides its memory, and cannot be looked at.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> state = State(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
        >>> state.find(), state.find(), list(state.tensors)
        (True, False, ['weight', 'bias'])
        >>> sorted(state.weights)
        ['bias', 'weight']
        >>> model.bias.data = torch.zeros(2)
        >>> state.moved()
        {'bias'}
    """

    def __init__(self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self.tensors: dict[str, torch.Tensor] = {}
        self.weights: AbstractSet[str] = frozenset()
        self.left: frozenset[str] = frozenset()
        self.hidden: AbstractSet[str] = frozenset()
        self._keeper: dict[str, torch.optim.Optimizer] = {}  # of what is no parameter
        self._places = _places({})
        self._given: list[Any] = []
        self._sharded = False

    def leave(self, names: set[str]) -> None:
        """Look at some parameters no more, from the next `find` on."""
        self.left |= names
        self._given = []

    def find(self) -> bool:
        """Look for all tensors again; whether there are others, or some are elsewhere."""
        given = self._all()
        known = len(given) == len(self._given) and all(map(is_, given, self._given))
        # A shard is a new tensor whenever it is asked for.
        if known and not self._sharded and _places(self.tensors) == self._places:
            return False
        named = self._named()
        self.hidden = {name for name, each in named.items() if hides_memory(each)}
        tensors = {name: each for name, each in named.items() if name not in self.hidden}
        places = _places(tensors)
        changed = places != self._places or list(tensors) != list(self.tensors)
        self.weights = tensors.keys() - self._keeper.keys()
        self.tensors, self._places, self._given = tensors, places, given
        self._sharded = any(map(is_sharded, given))
        return changed

    def moved(self) -> set[str]:
        """Tensors that are elsewhere now: damage to their elements does not do that."""
        before, now = self._places.addresses, _addresses(self.tensors)
        if now == before:
            return set()
        return {name for name, a, b in zip(self.tensors, before, now, strict=True) if a != b}

    def gone(self) -> set[str]:
        """Tensors that model and optimizers do not have any more."""
        if self._sharded:  # a model has gathered ones instead, while it computes
            return set()
        there = {address_of(local(t)) for t in self._all() if t is not None and _has_memory(t)}
        places = zip(self.tensors, self._places.addresses, strict=True)
        return {name for name, address in places if address not in there}

    def holds(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether one of some tensors is the memory of one that was found."""
        return bool(self._in_memory_of(tensors))

    def moved_by(self, optimizers: Iterable[torch.optim.Optimizer]) -> set[str]:
        """The tensors that steps of some of the optimizers move: parameters and their state."""
        theirs = list(optimizers)
        state = {name for name, keeper in self._keeper.items() if keeper in theirs}
        return state | self._in_memory_of(parameters_of(theirs))

    def _in_memory_of(self, tensors: Iterable[torch.Tensor]) -> set[str]:
        addresses = {address_of(local(each)) for each in _parts(tensors)} - {0}
        if not addresses:
            return set()
        places = zip(self.tensors, self._places.addresses, strict=True)
        return {name for name, address in places if address in addresses}

    def _all(self) -> list[Any]:
        """Everything that there may be to watch, as it is given; names would take far longer."""
        found = [each for m in self._model.modules() for each in m._parameters.values()]
        states = (state.values() for *_, state in self._states())
        return _parts(found + _tensors_in(chain.from_iterable(states)))

    def _named(self) -> dict[str, torch.Tensor]:
        parameters: dict[str, torch.Tensor] = dict(self._model.named_parameters())
        names = {id(parameter): name for name, parameter in parameters.items()}
        watched = ((n, each) for n, each in parameters.items() if n not in self.left)
        tensors = {n: local(part) for each in watched for n, part in made_of(*each)}
        self._keeper = {}
        for which, number, optimizer, parameter, state in self._states():
            owner = names.get(id(parameter), f"parameter {number}")
            for key, value in _leaves(state.items()):
                name = f"{owner} ({key})"
                if name in tensors:  # of another optimizer
                    name = f"{name[:-1]} of optimizer {which})"
                tensors[name], self._keeper[name] = local(value), optimizer
        return tensors

    def _states(
        self,
    ) -> Iterator[tuple[int, int, torch.optim.Optimizer, torch.Tensor, Mapping[str, Any]]]:
        """What each optimizer keeps of each parameter: both numbers, the optimizer that is stepped,
        the parameter, and its state.
        """
        inside = ((outer, each.state) for outer in self._optimizers for each in _inside(outer))
        once = {id(states): (outer, states) for outer, states in inside}  # they may share them
        for which, (outer, states) in enumerate(once.values()):
            for number, (parameter, state) in enumerate(states.items()):
                if isinstance(state, Mapping):
                    yield which, number, outer, parameter, state


def _inside(optimizer: torch.optim.Optimizer) -> Sequence[torch.optim.Optimizer]:
    """An optimizer, and those that work inside of it, as in `ZeroRedundancyOptimizer` and SAM."""
    found = [optimizer]
    for each in found:  # which grows meanwhile
        held = [v for v in vars(each).values() if isinstance(v, torch.optim.Optimizer)]
        found += [v for v in held if v not in found]
    return found


def _leaves(
    held: Iterable[tuple[Any, Any]], prefix: str = ""
) -> Iterator[tuple[Any, torch.Tensor]]:
    """The tensors with memory in a container, given as pairs, and in those in it."""
    for key, value in held:
        if isinstance(value, torch.Tensor):
            if _has_memory(value):
                yield from made_of(f"{prefix}{key}", value)
        elif isinstance(value, Mapping | list | tuple):
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from _leaves(pairs, f"{prefix}{key} ")


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided


def _parts(tensors: Iterable[Any]) -> list[Any]:
    """What tensors are made of."""
    return [part for each in tensors for _, part in made_of("", each)]


def _tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """All tensors among values, and in the containers among them."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            found += _tensors_in(value.values())
        elif isinstance(value, list | tuple):
            found += _tensors_in(value)
    return found


class _Places(NamedTuple):
    """In which memory tensors are: what damage to their elements cannot change."""

    addresses: list[int]
    shapes: list[torch.Size]
    strides: list[tuple[int, ...]]


def _places(tensors: Mapping[str, torch.Tensor]) -> _Places:
    every = tensors.values()
    return _Places(
        _addresses(tensors), [each.shape for each in every], [each.stride() for each in every]
    )


def _addresses(tensors: Mapping[str, torch.Tensor]) -> list[int]:
    return list(map(torch.Tensor.data_ptr, tensors.values()))
