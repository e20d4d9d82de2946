"""Operations that no layer does: activations, sums, normalization, attention, functions.

Most are not linear, and take a few operations per element where a layer takes thousands: doing them
again and comparing the bits sees every error, however small. Products by functions are done again
only where their sums say so (`parimend.guards.matmul`). Functions count as much as modules: what
``F.relu(x)`` and ``x + y`` compute is seen by a `TorchFunctionMode` that is active while the model
runs.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import (
    TorchFunctionMode,
    _pop_mode_temporarily,
)
from torch.overrides import _get_current_function_mode as _function_mode

from parimend.errors import ComputationError
from parimend.events import GuardKind
from parimend.guards import matmul
from parimend.guards.journal import GuardEvent, Journal, Parameters
from parimend.guards.layer import LayerGuard
from parimend.guards.observing import observable, unseen
from parimend.removable import wrap_forward_

REPEATED: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax,
    nn.LogSoftmax, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.RMSNorm,
    nn.GroupNorm, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Embedding,
)  # fmt: skip
"""Modules that compute by functions below alone."""

_MAY_BE_IN_PLACE = {
    "relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "silu", "mish", "hardswish",
    "hardsigmoid",
}  # fmt: skip
_CONVERSIONS = {"to", "type", "type_as", "float", "double", "half", "bfloat16"}
_FUNCTIONS = _MAY_BE_IN_PLACE | _CONVERSIONS | matmul.FUNCTIONS | {
    "add", "sub", "subtract", "rsub", "__rsub__", "mul", "multiply", "div", "divide",
    "true_divide", "__rdiv__", "neg", "negative", "abs", "pow", "__rpow__", "square", "sqrt",
    "rsqrt", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos",
    "erf", "clamp", "clip", "clamp_min", "clamp_max", "maximum", "minimum", "where", "masked_fill",
    "lerp", "addcmul", "addcdiv", "sum", "mean", "var", "std", "norm", "logsumexp", "max", "min",
    "amax", "amin", "cat", "stack", "prelu", "gelu", "glu", "sigmoid", "tanh",
    "softplus", "softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "special_softmax", "special_log_softmax", "special_expit", "embedding",
    "scaled_dot_product_attention", "einsum",
}  # fmt: skip
"""Names of functions and of methods of tensors; with an underscore behind, they work in place."""

_NAMELESS = (F.batch_norm, F.max_pool1d, F.max_pool2d, F.max_pool3d)


def why_not(module: nn.Module) -> str:
    """The reason why a module cannot be repeated; empty if it can."""
    if isinstance(module, nn.Embedding):
        return "" if module.max_norm is None else "changes its weight (max_norm)"
    return "returns indices too" if getattr(module, "return_indices", False) else ""


def _apart() -> AbstractContextManager[object]:
    """Where a layer computes what a guard of its own checks: nothing is done again there."""
    watched = isinstance(_function_mode(), _Twice)  # type: ignore[no-untyped-call]
    return _pop_mode_temporarily() if watched else nullcontext()


class LayerBeside(LayerGuard):
    """The guard of a layer in a model with a `RepeatGuard`, which leaves the layer to it."""

    def inspect(self, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        with _apart():
            super().inspect(y, x, parameters)

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with _apart():
            return function(*args, **kwargs)


class RepeatGuard:
    """Does the cheap operations of a model again, while the model runs.

    Args:
        model: to guard.
        journal: shared by the guards of a model.
    """

    def __init__(self, model: nn.Module, journal: Journal) -> None:
        self._model = model
        self._journal = journal
        self._calls = itertools.count()
        self._within = threading.local()  # `twice`, the mode that waits while an encoder decides

    def attach_(self) -> Callable[[], None]:
        """Guards the model.

        Returns:
            What undoes it.
        """
        removers = ExitStack()
        for encoder in self._model.modules():
            if isinstance(encoder, nn.TransformerEncoder):
                removers.callback(wrap_forward_(encoder, self._unwatched))
                for each in (*encoder.layers, *filter(None, [encoder.norm])):
                    removers.callback(wrap_forward_(each, self._watched))
        removers.callback(wrap_forward_(self._model, self.forward))
        return removers.close

    def forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The forward of the guarded model."""
        if torch.compiler.is_compiling():  # a compiled graph would merge both
            return forward(*args, **kwargs)
        call = next(self._calls)
        # Attention has a way of its own for nested tensors, and does not take it if it is watched.
        nested = any(isinstance(x, Tensor) and x.is_nested for x in (*args, *kwargs.values()))
        if nested or call % self._journal.every:
            return forward(*args, **kwargs)
        with _Twice(self._model, call, self._journal):
            return forward(*args, **kwargs)

    def _unwatched(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The forward of an encoder, which would not pack padded samples if it were watched, and
        then padded positions of its output would not be zero.
        """
        if torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        twice = _function_mode()  # type: ignore[no-untyped-call]
        if not isinstance(twice, _Twice):
            return forward(*args, **kwargs)
        before, self._within.twice = getattr(self._within, "twice", None), twice
        try:
            with _pop_mode_temporarily():
                return forward(*args, **kwargs)
        finally:
            self._within.twice = before

    def _watched(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The forward of what an encoder calls."""
        if torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        with getattr(self._within, "twice", None) or nullcontext():
            return forward(*args, **kwargs)


class _Twice(TorchFunctionMode):
    """One forward of a model."""

    def __init__(self, model: nn.Module, call: int, journal: Journal) -> None:
        super().__init__()
        self._model = model
        self._call = call
        self._journal = journal

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # A part of the model that is compiled on its own, of which this would become a part.
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        plain = name if name.endswith("__") else name.removesuffix("_")
        known = plain in _FUNCTIONS or function in _NAMELESS
        # An operator of somebody else may have any name, and do anything.
        known = known and not isinstance(function, torch._ops.OpOverloadPacket)
        if not known or kwargs.get("out") is not None or _never_the_same(function, *args, **kwargs):
            return function(*args, **kwargs)
        in_place = plain != name or kwargs.get("inplace", False)
        if plain in _MAY_BE_IN_PLACE:
            in_place = in_place or any(argument is True for argument in args[1:])
        changed: Any = (args[0] if args else kwargs["input"]) if in_place else None
        if in_place and not observable(changed):
            return function(*args, **kwargs)
        if in_place and any(_shares(x, changed) for x in (*args, *kwargs.values())):
            return function(*args, **kwargs)  # what the others were is not known afterwards
        saved = changed.detach().clone() if in_place else None

        def again() -> Any:
            if saved is None:
                return function(*args, **kwargs)
            # It lies in memory as the other: vectorized code may round differently. Once also where
            # it is an operand twice, as in x *= x.
            size, stride = changed.size(), changed.stride()
            fresh = torch.empty_strided(size, stride, dtype=saved.dtype, device=saved.device)
            fresh.copy_(saved)
            return function(
                *(fresh if x is changed else x for x in args),
                **{name: fresh if x is changed else x for name, x in kwargs.items()},
            )

        output = function(*args, **kwargs)
        if not observable(output) or (plain in _CONVERSIONS and _is_moved(output, *args)):
            return output
        with unseen():
            if plain in matmul.FUNCTIONS and not in_place:
                product = matmul.operands(plain, args, kwargs)
                right = self._multiplied(plain, output, again, product)
            else:
                right = self._repeated(plain, output, again)
            if right is None:
                return output
            # Past autograd, which would take the right values for a change of what it has saved;
            # also where it is not the output that goes on: a checkpoint may keep it.
            output.data.copy_(right)
        return output if in_place else right

    def _repeated(self, name: str, output: Tensor, again: Callable[[], Tensor]) -> Tensor | None:
        """What is to be taken instead of an output; None if it is as it should be."""
        # Nothing is kept for a backward pass: activations may be checkpointed.
        with torch.no_grad():
            second = again()
        if _same(output, second):
            return None
        third = _uncounted(again)
        two_agree = _same(second, third) or _same(output, third)
        return third if self._settle(name, _off(output, third), two_agree) else None

    def _multiplied(
        self,
        name: str,
        output: Tensor,
        again: Callable[[], Tensor],
        product: matmul.Operands | None,
    ) -> Tensor | None:
        """The same for a product, whose sums are known."""
        if product is None or not output.numel():
            return None
        if not product.suspicious(output) or product.is_near(output):
            return None
        third = _uncounted(again)
        # What is off every time, and not by more than rounding can make it, is due to the order.
        if _same(output, third) and product.is_possible(output):
            return None
        is_right = product.is_possible(third)
        off = _off(product.own(output), product.exact(output))
        return third if self._settle(name, off, is_right) else None

    def _settle(self, name: str, off: Tensor, is_right: bool) -> bool:
        """Whether the third result is to be taken.

        Args:
            name: of the function.
            off: how far outputs are off, as `_off` gives it.
            is_right: whether the third result is known to be right.
        """
        answer = self._journal.policy.answer
        action: GuardKind
        if answer in ("raise", "record"):
            action = "raised" if answer == "raise" else "recorded"
        else:
            action = "recomputed" if is_right else "suspect"
        index = [int(i) for i in torch.unravel_index(off.argmax(), off.shape)]
        event = GuardEvent(
            action,
            self._call,
            layer=self._layer(),
            sample=tuple(index[:1]),
            positions=(tuple(index[2:]),),
            channels=tuple(index[1:2]),
            magnitude=float(off.max()),
            function=name,
        )
        self._journal.note([event])
        if action == "raised":
            raise ComputationError(f"wrong outputs: {event}; run it again")
        self._journal.warn_of([event])
        return action != "recorded"

    def _layer(self) -> str:
        """Name of the innermost module that is running; looked up only when something is wrong."""
        names = {id(module): name for name, module in self._model.named_modules()}
        frame = sys._getframe()
        while (frame := frame.f_back) is not None:  # type: ignore[assignment]
            if (name := names.get(id(frame.f_locals.get("self")))) is not None:
                return name
        return ""


def _uncounted(again: Callable[[], Tensor]) -> Tensor:
    """A run that keeps what its backward pass needs by itself: where activations are checkpointed,
    what is kept is counted, and computed anew without this run.
    """
    with saved_tensors_hooks(lambda x: x, lambda x: x):
        return again()


def _never_the_same(function: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether a function does something else each time: it draws, or changes what it is given, or
    goes another way without gradients.
    """
    if function is F.batch_norm:
        return _updates(*args, **kwargs)
    if function is F.embedding:
        return (args[3] if len(args) > 3 else kwargs.get("max_norm")) is not None
    if function is F.scaled_dot_product_attention:
        draws = args[4] if len(args) > 4 else kwargs.get("dropout_p")
        given = (*args, *kwargs.values())
        return bool(draws) or (torch.is_grad_enabled() and any(map(_requires_grad, given)))
    return False


def _is_moved(output: Tensor, x: Tensor, *_: Any) -> bool:
    """Whether nothing was converted: it is what was given, or comes from another device."""
    return output is x or x.device != output.device


def _requires_grad(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _updates(
    x: Any, mean: Any = None, var: Any = None, *rest: Any, training: bool | None = None, **_: Any
) -> bool:
    """Whether `F.batch_norm` updates its statistics, as every run of it would."""
    if training is None:
        training = len(rest) > 2 and rest[2]
    return bool(training) and mean is not None


def _shares(x: Any, changed: Tensor) -> bool:
    """Whether another argument lies in the memory of the one that is changed."""
    if x is changed or not isinstance(x, Tensor) or {x.layout, changed.layout} != {torch.strided}:
        return False
    return x.untyped_storage().data_ptr() == changed.untyped_storage().data_ptr()


def _off(y: Tensor, right: Tensor) -> Tensor:
    """How far outputs are off, in units of the rms of what they should be; infinity for NaN."""
    with torch.no_grad():
        y, right = y.to(torch.float64), right.to(torch.float64)
        off = torch.where(_equal(y, right), 0.0, (y - right).abs() / right.square().mean().sqrt())
        return off.nan_to_num(torch.inf, torch.inf)


def _same(a: Tensor, b: Tensor) -> bool:
    # NaN equals itself here: it is what the operation gives.
    return bool(torch.equal(a, b) or _equal(a, b).all())


def _equal(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())
