"""The guard of one layer: a forward hook that compares P y with what it must be."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parimend.codes.output import Output
from parimend.guards.action import settle
from parimend.guards.journal import Journal, Parameters
from parimend.guards.products import Product
from parimend.guards.threshold import Threshold, unit_roundoff
from parimend.kernels.screen_numba import (
    LARGE,
    any_suspicious_plane,
    any_suspicious_product,
    any_suspicious_row,
)

_GUARDS: weakref.WeakValueDictionary[str, LayerGuard] = weakref.WeakValueDictionary()
"""For the operator below: a compiled graph can hold strings and tensors, but not a guard."""

_NUMBERS = itertools.count()
_KERNEL_DTYPES = (torch.float32, torch.float64)
_EXACT = 4.0
"""P W counts as zero if it is no more than this many roundings of the weights."""


class _Arguments(NamedTuple):
    """Of the kernels: P, P W of the first group, P b, a target (0, k, 1) for zero, tau squared."""

    P: NDArray[Any]
    PW: NDArray[Any]
    Pb: NDArray[Any]
    none: NDArray[Any]
    tau2: float


def exact_arithmetic(like: Tensor) -> AbstractContextManager[object]:
    """Switches off autocasting, which would round what checks the rounding."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class LayerGuard:
    """Checks every output of one layer.

    Args:
        name: of the layer.
        product: how it multiplies.
        code: P.
        journal: shared by the guards of a model.

    `renew` must be called before the first check.
    """

    def __init__(self, name: str, product: Product, code: Output, journal: Journal) -> None:
        self.name = name
        self.product = product
        self.code = code
        self.journal = journal
        self._calls = itertools.count()
        self._tensors: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self._taus: dict[tuple[torch.dtype, bool], Threshold] = {}
        self._arguments: dict[torch.dtype, _Arguments] = {}
        self._key = str(next(_NUMBERS))
        _GUARDS[self._key] = self

    def renew(self, weight: Tensor, bias: Tensor | None) -> None:
        """Takes over new weights: P W and P b, and the scale of rounding errors."""
        W = self.product.matrix(weight.detach()).to(torch.float64)
        P = torch.from_numpy(self.code.matrix.copy()).to(W.device)
        PW = P.reshape(len(P), W.shape[0], -1).transpose(0, 1) @ W
        Pb = P @ bias.detach().to(torch.float64) if bias is not None else P.new_zeros(len(P))
        left, u = PW.square().sum((0, 2)), unit_roundoff(weight.dtype)
        b2 = float(bias.detach().to(torch.float64).square().sum()) if bias is not None else 0.0
        square = W.square().sum(-1).flatten()
        total = float(square.sum())
        self.imposed = bool(
            (left <= (_EXACT * u) ** 2 * total).all()
            and (Pb.square() <= (_EXACT * u) ** 2 * (total + b2)).all()
        )
        if total == 0.0:  # any scale will do
            square, total = torch.ones_like(square), float(len(square))
        noise = P * square @ P.T
        if not self.imposed:
            noise = noise + torch.diag(left)
        own = left / total if self.imposed else torch.zeros_like(left)
        self._weight_dtype = weight.dtype
        self._fan_in = W.shape[-1]
        self._noise, self._own = noise.cpu() / total, own.cpu()
        self._taus.clear()
        self._tensors.clear()
        self._arguments.clear()
        self._source = {
            "P": P,
            "PW": PW,
            "Pb": Pb,
            "w2": W.square().sum(1, keepdim=True),
        }

    def tensor(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """``P`` (k, C), ``PW`` (groups, k, fan-in), ``Pb`` (k,), or ``w2`` (groups, 1, fan-in), the
        sums of the squares of the weights over the outputs.
        """
        key = name, like.device, dtype
        if key not in self._tensors:
            self._tensors[key] = self._source[name].to(like.device, dtype)
        return self._tensors[key]

    def threshold(self, y: Tensor) -> Threshold:
        """The threshold for outputs like ``y``."""
        tf32 = y.is_cuda and (
            torch.backends.cudnn.allow_tf32
            if self.product.dims
            else torch.backends.cuda.matmul.allow_tf32
        )
        key = y.dtype, tf32
        if key not in self._taus:
            self._taus[key] = Threshold.of(
                self._noise, self._own, self._fan_in, self._weight_dtype, y.dtype, tf32
            )
        return self._taus[key]

    def floor(self) -> float:
        """Size of the smallest single error that is sure to be seen, in units of the rms output."""
        like = torch.empty(0, dtype=self._weight_dtype)
        return self.threshold(like).floor(self.code.m, self.code.n)

    def retire(self) -> None:
        """From now on graphs that were compiled with this guard pass it by."""
        _GUARDS.pop(self._key, None)

    def target(self, x: Tensor, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """What P y must be, (samples, k, positions); None for zero."""
        if self.imposed:
            return None
        with torch.no_grad(), exact_arithmetic(x):
            rows, bias = self.tensor("PW", x, dtype), self.tensor("Pb", x, dtype)
            product = self.product.multiply(self.product.samples(x).to(dtype), rows, bias, size)
        return product.reshape(*product.shape[:2], size.numel())

    def syndrome(self, y: Tensor, target: Tensor | None) -> Tensor:
        """P y - target, (samples, k, positions), for ``y`` of (samples, C, positions)."""
        # Not a matrix product: on CUDA that may be one of 11 bits.
        s = torch.stack([(y * row[:, None]).sum(1) for row in self.tensor("P", y, y.dtype)], 1)
        return s if target is None else s - target

    def screen(self, y: Tensor, target: Tensor | None, tau: float) -> Tensor:
        """Which (sample, position) is to be looked at, bool; ``y`` of (samples, C, positions)."""
        energy = self.syndrome(y, target).square().sum(1)
        square = y.square().sum(1)
        # Negated, so that NaN is suspicious.
        return ~((energy <= tau**2 * square) & (square < LARGE))

    def suspicious(self, y: Tensor, x: Tensor) -> bool:
        """Whether any output is to be looked at."""
        dims = self.product.dims
        size = y.shape[y.ndim - dims :]
        if not (y.is_cpu and y.dtype in _KERNEL_DTYPES):
            dtype = torch.promote_types(y.dtype, torch.float32)
            return self._any(y, self.target(x, size, dtype), dtype)
        P, PW, Pb, none, tau2 = self._kernel_arguments(y.dtype)
        y = y.detach()
        if self.imposed:
            target = None
        elif not dims and y.is_contiguous() and x.is_contiguous() and x.dtype == y.dtype:
            rows, inputs = y.view(-1, self.code.n).numpy(), x.detach().view(-1, self._fan_in)
            return any_suspicious_product(rows, P, inputs.numpy(), PW, Pb, tau2)
        else:
            target = self.target(x, size, y.dtype)
        if dims and y.is_contiguous():
            goal = none if target is None else target.contiguous().numpy()
            planes = y.view(-1, self.code.n, size.numel()).numpy()
            return any_suspicious_plane(planes, P, goal, tau2)
        last = y.movedim(-dims - 1, -1) if dims else y
        if last.is_contiguous():
            goal = none[..., 0]
            if target is not None:
                goal = target.movedim(1, -1).reshape(-1, len(P)).numpy()
            return any_suspicious_row(last.view(-1, self.code.n).numpy(), P, goal, tau2)
        return self._any(y, target, y.dtype)

    def _any(self, y: Tensor, target: Tensor | None, dtype: torch.dtype) -> bool:
        with torch.no_grad():
            outputs = self.product.split(y).to(dtype)
            return bool(self.screen(outputs, target, self.threshold(y).tau).any())

    def _kernel_arguments(self, dtype: torch.dtype) -> _Arguments:
        if dtype not in self._arguments:
            like = torch.empty(0)
            P, PW, Pb = (self.tensor(name, like, dtype).numpy() for name in ("P", "PW", "Pb"))
            tau = self.threshold(torch.empty(0, dtype=dtype)).tau
            none = np.empty((0, len(P), 1), P.dtype)
            self._arguments[dtype] = _Arguments(P, PW[0], Pb, none, tau**2)
        return self._arguments[dtype]

    def inspect(self, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        """Checks outputs, and corrects them in place if the policy says so.

        Args:
            y: outputs.
            x: inputs.
            parameters: gives weight and bias, if they are needed.
        """
        call = next(self._calls)
        if call % self.journal.every == 0 and y.numel() and self.suspicious(y, x):
            with torch.no_grad():
                settle(self, call, y, x, parameters)

    def watch(self, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        """`inspect`, also inside a graph that is being compiled."""
        if torch.compiler.is_compiling():
            # Detached: what it writes are the values that should have been there all along.
            tensors = (None if t is None else t.detach() for t in (y, x, *parameters()))
            torch.ops.parimend.inspect_(*tensors, self._key)
        else:
            self.inspect(y, x, parameters)

    def attach_(self, module: nn.Module) -> Callable[[], None]:
        """Guards a module that is called.

        A hook does it in eager mode, so that it sees what hooks before it have made of the outputs.
        Compiled graphs do not look for new hooks, and are shared by modules that differ in hooks
        alone, but they do look for a forward of the module's own.

        Returns:
            What undoes it.
        """
        handle = module.register_forward_hook(self._hook, with_kwargs=True)
        module.forward = partial(_forward, module, self)

        def remove() -> None:
            handle.remove()
            del module.forward

        return remove

    def _hook(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if not torch.compiler.is_compiling():
            self.inspect(output, _input(args, kwargs), lambda: (module.weight, module.bias))

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerGuard:
        # The weights come with every call, so a copy of the model shares its guards.
        return self


def _forward(module: nn.Module, guard: LayerGuard, *args: Any, **kwargs: Any) -> Tensor:
    """The forward of a guarded module."""
    y: Tensor = type(module).forward(module, *args, **kwargs)
    if torch.compiler.is_compiling():
        guard.watch(y, _input(args, kwargs), lambda: (module.weight, module.bias))
    return y


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else kwargs["input"]
    return x


def _inspect(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: str) -> None:
    guard = _GUARDS.get(key)
    if guard is not None:  # otherwise removed, and the graph not compiled again yet
        guard.inspect(y, x, lambda: (weight, bias))


# Not `torch.library.custom_op`: its wrapping costs 100 us a call.
_LIBRARY = torch.library.Library("parimend", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "inspect_(Tensor(a!) y, Tensor x, Tensor weight, Tensor? bias, str key) -> ()"
)
_LIBRARY.impl("inspect_", _inspect, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("parimend::inspect_", lambda *args: None, lib=_LIBRARY)
