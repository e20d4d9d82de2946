"""Gradients along codes: for optimizers that learn from gradients how the loss bends.

L-BFGS infers curvature from how gradients changed along the steps that it took, Rprop makes steps
longer while gradients keep their signs. Weights that are moved back to a code between steps have
gone another way than these know, and what is inferred is nonsense. A gradient without its part
across the code leaves nothing to be moved back: sums of such gradients stay inside, and vanish
where the loss is least there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.carriers import Chosen
from parimend.codes.gram import Gram
from parimend.errors import SpecError
from parimend.names import some
from parimend.stores.shards import Shards
from parimend.stores.spread import local
from parimend.training.hooks import closure_of, parameters_of, with_closure
from parimend.training.share import Share, require_shape, take_back_
from parimend.words.grid import Grid

RTOL = 1e-10
"""How exactly is solved where that is done step by step, relative to what is taken away."""


def infers(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer infers from gradients how the loss bends along its steps."""
    return isinstance(optimizer, torch.optim.LBFGS | torch.optim.Rprop)


class Tangent:
    """The words of some parameters that an optimizer steps which `infers`.

    Args:
        parameters: by name; all in one piece, or all sharded alike.
        words: what is kept inside which code.
        shards: of the parameters.
        optimizer: all of a word's parameters are its, or none.

    Raises:
        SpecError: if it steps a part of a word only; names what it does not step.

    Example:
        >>> from parimend.codes import Sparse
        >>> from parimend.words.layout import Word, whole
        >>> weight = torch.nn.Parameter(torch.ones(20, 100))
        >>> code = Sparse(n=2000, m=64)
        >>> word = Chosen(code, Word((whole("w", "F32", (20, 100)),)))
        >>> optimizer = torch.optim.LBFGS([weight])
        >>> tangent = Tangent({"w": weight}, [word], Shards({"w": weight}), optimizer)
        >>> weight.grad = torch.randn(20, 100)
        >>> tangent.project_()
        >>> bool(np.abs(code.matvec(weight.grad.double().numpy().ravel())).max() < 1e-5)
        True
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        words: Sequence[Chosen],
        shards: Shards,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        stepped = {id(each) for each in parameters_of([optimizer])}
        ours = {name: each for name, each in parameters.items() if id(each) in stepped}
        words = [word for word in words if any(part.name in ours for part in word.word)]
        missing = {part.name for word in words for part in word.word} - set(ours)
        if missing:
            raise SpecError(
                f"{type(optimizer).__name__} steps a part of a word only: {some(missing)} has "
                "another optimizer; constrain the parameters of one of them, with only=..."
            )
        self._parameters, self._shards = ours, shards
        self._shapes = {name: shards.local(name).shape for name in ours}
        self._words = [_Directions(word, shards) for word in words]

    def called_with(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a step is to be called with so that it uses such gradients, which its closure
        computes or which are there already.
        """
        if (closure := closure_of(args, kwargs)) is not None:
            return with_closure(self._after(closure), args, kwargs)
        self.project_()
        return args, kwargs

    def _after(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def computed() -> Any:
            loss = closure()
            self.project_()
            return loss

        return computed

    @torch.no_grad()
    def project_(self) -> None:
        """Take from the gradients what leads out of the codes; collective if they are sharded.

        Gradients that are not finite stay as they are: they say nothing about directions.

        Raises:
            MismatchError: if one is of another shape than its parameter was; names that.
        """
        gradients = {
            name: require_shape(
                f"the gradient of {name}", local(_gradient(each)), self._shapes[name]
            )
            for name, each in self._parameters.items()
        }
        flat = {name: each.reshape(-1) for name, each in gradients.items()}
        for word in self._words:
            across = self._shards.sum(word.across(flat))
            if np.isfinite(across).all():
                word.subtract_(flat, across)
        for name, values in flat.items():
            take_back_(gradients[name], values)


class _Directions:
    """Where the gradient of one word may point.

    The word is weights / steps, so weights may move along d with A d = 0, where A is H / steps; a
    gradient loses A^T (A A^T)^-1 A of itself.
    """

    def __init__(self, chosen: Chosen, shards: Shards) -> None:
        code, word, _ = chosen
        self._held = [(part.name, shards.held(part)) for part in word]
        starts = list(zip(word.starts, word, strict=True))
        places = [held.shifted(k) for k, (_, held) in zip(word.starts, self._held, strict=True)]
        steps = [Grid(code.word_bits, part.exponent).step for part in word]
        # A share multiplies with H / step, but subtracts step times H^T.
        self._into = Share(code, list(zip(places, steps, strict=True)))
        self._back = Share(code, [(p, 1 / step) for p, step in zip(places, steps, strict=True)])
        columns = [code.columns.take(slice(k, k + part.count)) for k, part in starts]
        scales = [1 / (code.unit * step) for step in steps]
        self._gram = Gram(list(zip(columns, scales, strict=True)), code.m)

    def across(self, flat: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
        """A times what this process has of the gradient, (m,)."""
        return self._into.checks(self._of(flat))

    def subtract_(self, flat: Mapping[str, torch.Tensor], across: NDArray[np.float64]) -> None:
        """Take away what leads out, given A times the whole gradient."""
        self._back.subtract_(self._of(flat), self._gram.solve(across, RTOL))

    def _of(self, flat: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        return [flat[name][held.start : held.stop] for name, held in self._held]


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    """The gradient of a parameter, made dense; optimizers take none for zero."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    elif parameter.grad.layout is not torch.strided:
        parameter.grad = parameter.grad.to_dense()
    return parameter.grad
