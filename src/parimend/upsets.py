"""Seeded faults in computation: wrong outputs of chosen layers of a running model.

`parimend.faults` damages what is stored; here the weights are right and what is computed from them
is wrong. Knows nothing of guards, and strikes before they look.
"""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from parimend.arguments import real_number, require, seed_of, whole_number
from parimend.dtypes import named
from parimend.errors import FaultError
from parimend.layers.nesting import unpack_
from parimend.layers.registry import declared_product
from parimend.names import select, takes_in, texts
from parimend.removable import Hook, Removable, wrap_forward_

Kind = Literal["bitflip", "relative", "offset", "row", "tile", "stuck"]
"""``bitflip``: random bits of single outputs are flipped. ``relative``: single outputs are wrong by
a part of themselves; ``offset``: by a part of the rms output, up or down. ``row``: all outputs of
one position of one sample are random. ``tile``: so is a square of the matrix of all products, with
a row for every sample and position. ``stuck``: one output always has the same value."""


@dataclass(frozen=True)
class Upset:
    """One way to compute wrongly.

    Args:
        kind: see `Kind`.
        count: wrong outputs in every sample, for ``bitflip``, ``relative`` and ``offset``.
        bits: distinct bits that are flipped in each.
        size: of the error, for ``relative`` and ``offset``; of a stuck output in units of the rms
            output; of the side of a tile.

    Raises:
        FaultError: for another kind, or numbers that make no sense.
    """

    kind: Kind
    count: int = 1
    bits: int = 1
    size: float = 1.0

    def __post_init__(self) -> None:
        require(self.kind, "kind", "a name", str)
        if self.kind not in get_args(Kind):
            raise FaultError(
                f"unknown kind of upset {self.kind!r}: take one of {', '.join(get_args(Kind))}"
            )
        whole_number(self.count, "count", least=1, error=FaultError)
        whole_number(self.bits, "bits", least=1, error=FaultError)
        real_number(self.size, "size", finite=self.kind != "stuck", error=FaultError)
        if self.kind in ("relative", "offset") and not self.size:
            raise FaultError(f"an error of size 0 is none: give {self.kind!r} another size")
        if self.kind == "tile":
            real_number(self.size, "the side of a tile", least=1, error=FaultError)

    @property
    def alike(self) -> bool:
        """Whether one draw strikes several samples together.

        >>> Upset("bitflip").alike, Upset("stuck").alike
        (False, True)
        """
        return self.kind in ("tile", "stuck")

    def strike(self, y: Tensor, axis: int, rng: np.random.Generator) -> Tensor:
        """Outputs as they would have been.

        Args:
            y: outputs, samples first; those of one sample where ``axis`` is the first one.
                Unchanged.
            axis: along which the outputs of one product lie.
            rng: decides what is struck.

        Returns:
            A new tensor.

        Raises:
            FaultError: if it is not a dense tensor of floating-point numbers, or has fewer outputs
                or bits than are to be struck.
        """
        if (
            y.is_nested
            or y.layout is not torch.strided
            or not (y.is_floating_point() or y.is_complex())
        ):
            kind = "nested" if y.is_nested else f"{y.dtype}, {y.layout}"
            raise FaultError(f"outputs are {kind}: only dense floating-point numbers can be struck")
        if not y.numel():
            return y.detach().clone()
        if y.dim() == 0:
            return self.strike(y.reshape(1), -1, rng).reshape(())
        if axis % y.dim() == 0:
            return self.strike(y.unsqueeze(0), axis % y.dim() + 1, rng).squeeze(0)
        # (samples, positions, C): one row is one product.
        rows = y.detach().movedim(axis, -1)
        shape = rows.shape
        rows = rows.reshape(shape[0], -1, shape[-1]).clone(memory_format=torch.contiguous_format)
        wide = torch.complex128 if rows.is_complex() else torch.float64
        rms = float(rows.to(wide).abs().square().mean().sqrt())
        getattr(self, f"_{self.kind}")(rows, rms, rng)
        return rows.reshape(shape).movedim(-1, axis)

    def _places(self, rows: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """``count`` distinct outputs of every sample: (samples, count) each."""
        width = rows[0].numel()
        if self.count > width:
            raise FaultError(f"a sample has {width} outputs, not {self.count}: lower count=")
        flat = np.stack([rng.choice(width, self.count, replace=False) for _ in rows])
        sample = np.arange(len(rows))[:, None].repeat(self.count, 1)
        return torch.from_numpy(sample), torch.from_numpy(flat)

    def _bitflip(self, rows: Tensor, rms: float, rng: np.random.Generator) -> None:
        width = 8 * rows.element_size()
        if width > 64:
            raise FaultError(f"bits of {rows.dtype} cannot be flipped: take another kind of upset")
        if self.bits > width:
            raise FaultError(f"{rows.dtype} has {width} bits, not {self.bits}: lower bits=")
        sample, place = self._places(rows, rng)
        flips = [rng.choice(width, self.bits, replace=False) for _ in range(place.numel())]
        masks = np.array([sum(1 << int(bit) for bit in bits) for bits in flips], np.uint64)
        signed = masks.astype(f"u{rows.element_size()}").view(f"i{rows.element_size()}")
        signed = signed.reshape(place.shape)
        words = rows.flatten(1).view(named(f"I{8 * rows.element_size()}").torch_dtype())
        words[sample, place] ^= torch.from_numpy(signed).to(rows.device)

    def _relative(self, rows: Tensor, rms: float, rng: np.random.Generator) -> None:
        where = self._places(rows, rng)
        rows.flatten(1)[where] *= 1.0 + self.size

    def _offset(self, rows: Tensor, rms: float, rng: np.random.Generator) -> None:
        where = self._places(rows, rng)
        sign = torch.from_numpy(rng.choice([-1.0, 1.0], where[0].shape)).to(rows)
        rows.flatten(1)[where] += sign * (self.size * rms)

    def _row(self, rows: Tensor, rms: float, rng: np.random.Generator) -> None:
        sample, position = rng.integers(rows.shape[0]), rng.integers(rows.shape[1])
        rows[sample, position] = _normal(rng, rows[sample, position], rms)

    def _tile(self, rows: Tensor, rms: float, rng: np.random.Generator) -> None:
        matrix, side = rows.flatten(0, 1), int(self.size)
        first, left = (int(rng.integers(max(n - side, 0) + 1)) for n in matrix.shape)
        tile = matrix[first : first + side, left : left + side]
        tile.copy_(_normal(rng, tile, rms))

    def _stuck(self, rows: Tensor, rms: float, rng: np.random.Generator) -> None:
        rows[..., rng.integers(rows.shape[-1])] = self.size * rms


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in what a module takes or gives; None if there is none.

    >>> first_tensor(({}, [None, torch.ones(2)])).tolist()
    [1.0, 1.0]
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return None
    return next((found for each in value if (found := first_tensor(each)) is not None), None)


def with_first(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What a module gives with another tensor in the place of its `first_tensor`.

    >>> with_first(({}, [None, torch.ones(2)], "x"), torch.neg)
    ({}, [None, tensor([-1., -1.])], 'x')
    """
    if isinstance(value, Tensor):
        return change(value)
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    key, inner = next((k, each) for k, each in pairs if first_tensor(each) is not None)
    changed = with_first(inner, change)
    if isinstance(value, tuple):
        items = (*value[:key], changed, *value[key + 1 :])
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    value = copy.copy(value)
    value[key] = changed
    return value


def axis_of(module: nn.Module) -> int:
    """Along which the outputs lie that a module computes from the same inputs.

    >>> axis_of(nn.Linear(2, 2)), axis_of(nn.Conv2d(2, 2, 1)), axis_of(nn.ReLU())
    (-1, -3, -1)
    """
    product = declared_product(module)
    if product is not None:
        return product.axis
    return 1 if isinstance(module, nn.modules.batchnorm._BatchNorm) else -1


def _normal(rng: np.random.Generator, like: Tensor, rms: float) -> Tensor:
    return torch.from_numpy(rng.normal(scale=rms, size=tuple(like.shape))).to(like)


class Upsets(Removable):
    """Faults that strike a running model; as a context manager it ends them.

    Attributes:
        struck: (layer or operation, call) of every output that was made wrong. Empty if none of
            them was called, or had an output.
    """

    def __init__(self, upset: Upset, seed: int, every: int) -> None:
        self.struck: list[tuple[str, int]] = []
        self._upset = upset
        self._seed = seed
        self._every = every
        self._removers = ExitStack()

    def _striker(self, name: str) -> Callable[[Tensor, int], None]:
        """What makes one output in so many wrong, in place, given the axis of a product."""
        calls = itertools.count()

        def strike(y: Tensor, axis: int) -> None:
            call = next(calls)
            if (call + 1) % self._every or not y.numel():
                return
            # Seeded by what it strikes, so that threads and other layers change nothing.
            rng = np.random.default_rng([self._seed, zlib.crc32(name.encode()), call])
            with torch.no_grad():
                try:
                    y.copy_(self._upset.strike(y, axis, rng))
                except FaultError as error:
                    raise FaultError(f"{name or 'the model'}: {error}") from None
            self.struck.append((name, call))

        return strike

    def _strike_module_(self, name: str, module: nn.Module) -> None:
        axis = axis_of(module)
        strike = self._striker(name)

        # Before all other hooks, so that guards see what the layer is made to compute.
        def struck(module: nn.Module, args: Any, output: Any) -> Any:
            if first_tensor(output) is None:
                raise FaultError(
                    f"{name or 'the model'} gives a {type(output).__name__} without a tensor: "
                    "leave it out of only="
                )
            return with_first(output, partial(wrong, module))

        def wrong(module: Any, y: Tensor) -> Tensor:
            y = y.clone()  # it may be the input or a weight, and be needed in a backward pass
            of_sequences = isinstance(module, nn.MultiheadAttention | nn.RNNBase)
            late = of_sequences and not module.batch_first and y.dim() == 3
            strike(y.transpose(0, 1) if late else y, axis)
            return y

        hook = Hook(struck)
        self._removers.callback(hook.remove_from, module)
        module.register_forward_hook(hook, prepend=True)

    def _strike_operations_(self, model: nn.Module, names: Sequence[str]) -> None:
        strikers = {name: self._striker(name) for name in names}

        def struck(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with _Operations(strikers):
                return forward(*args, **kwargs)

        self._removers.callback(wrap_forward_(model, struck))

    def remove(self) -> None:
        """From now on the model computes as it should."""
        self._removers.close()


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, whether a module, a function or an operator calls it.

    Of several results the first one is struck; the others are statistics or indices.
    """

    def __init__(self, strikers: dict[str, Callable[[Tensor, int], None]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._strikers = strikers

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = operation(*args, **(kwargs or {}))
        strike = self._strikers.get(_name(operation))
        first = output[0] if isinstance(output, tuple) else output
        if strike is not None and isinstance(first, Tensor) and first.is_floating_point():
            strike(first, 1 if first.dim() > 3 else -1)
        return output


def _name(operation: Any) -> str:
    """``add`` for ``aten::add.Tensor`` and for ``aten::add_.Tensor``."""
    return str(operation._schema.name).removeprefix("aten::").removesuffix("_")


def _gives_view(name: str) -> bool:
    """Whether an operation's result is the memory of an argument that it does not change."""
    packet = getattr(torch.ops.aten, name)
    schemas = [getattr(packet, each)._schema for each in packet.overloads()]
    aliases = [schema.returns[0].alias_info for schema in schemas if schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def upset_(
    model: nn.Module,
    upset: Upset,
    *,
    seed: int = 0,
    only: str | Sequence[str] | None = None,
    operations: str | Sequence[str] | None = None,
    every: int = 1,
) -> Upsets:
    """Makes layers or operations of a model compute wrongly from now on.

    Args:
        model: to strike. Only modules that are called can be struck; of several tensors that one
            gives, the first. `Upsets.struck` tells what was.
        upset: what happens to an output.
        seed: the same seed strikes the same outputs in the same calls.
        only: shell patterns; strikes the modules whose names match one of them. By default all
            linear layers and convolutions, or none if operations are named. `nn.MultiheadAttention`
            calls no layer: name it itself, and the output of its ``out_proj`` is struck, behind
            what guards see of it.
        operations: names of PyTorch's own (`torch.ops.aten`), such as ``add``, ``relu`` or
            ``bmm``: whatever calls them while the model runs in eager mode is struck. Not those
            that give views, such as ``transpose``.
        every: strikes one call of a layer, or of an operation, in so many, the last one of them.

    Returns:
        The handle that ends it.

    Raises:
        FaultError: if a pattern matches nothing, or only what is never called, or TorchScript, an
            operation does not exist or gives a view, or nothing is left to be struck.

    Example:
        >>> model = nn.Linear(8, 4)
        >>> x = torch.ones(2, 8)
        >>> right = model(x)
        >>> with upset_(model, Upset("bitflip"), seed=1) as upsets:
        ...     wrong = model(x)
        >>> int((right != wrong).sum()), upsets.struck
        (2, [('', 0)])
    """
    require(model, "model", "a torch.nn.Module", nn.Module)
    require(upset, "upset", "an Upset", Upset)
    every = whole_number(every, "every", least=1, error=FaultError)
    seed = seed_of(seed, error=FaultError)
    operators = texts(operations or (), "operations", "the name of an operation or a list of them")
    for name in operators:
        if not hasattr(torch.ops.aten, name):
            raise FaultError(f"operations={name!r} is no operation of torch.ops.aten")
        if _gives_view(name):
            raise FaultError(
                f"operations={name!r} gives a view of what it is called with, which would be "
                "damaged for good: name the operation that computes it, or what is computed next"
            )
    modules = dict(model.named_modules())
    there: list[str] = []
    if takes_in(only):
        there = list(modules)
    elif operations is None:
        there = [name for name, each in modules.items() if declared_product(each) is not None]
    asked = select(there, only, what="module", error=FaultError)
    inside = _never_called(modules)
    chosen = [name for name in asked if name not in inside]
    if asked and not chosen:
        raise FaultError(
            f"{asked[0]} is never called: its attention uses the weight alone; name that with "
            f"only={inside[asked[0]]!r}"
        )
    if not chosen and not operators:
        raise FaultError("the model has no linear layers or convolutions: name modules with only=")
    for name in chosen:
        if isinstance(modules[name], torch.jit.ScriptModule):
            raise FaultError(
                f"{name or 'the model'} is TorchScript, which takes no hooks: leave it out of only="
            )
    upsets = Upsets(upset, seed, every)
    try:
        if chosen:
            upsets._removers.callback(unpack_(model))
        for name in chosen:
            upsets._strike_module_(name, modules[name])
        if operators:
            upsets._strike_operations_(model, operators)
    except BaseException:  # an interrupt: nobody has what would end them
        upsets.remove()
        raise
    return upsets


def _never_called(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Projections that attentions have as modules and do not call, and the attention of each."""
    return {
        f"{name}.out_proj" if name else "out_proj": name
        for name, each in modules.items()
        if isinstance(each, nn.MultiheadAttention)
    }
