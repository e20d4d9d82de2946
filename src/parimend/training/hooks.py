"""What hooks into training loops have in common."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch.nn.parameter import UninitializedParameter
from torch.optim.optimizer import register_optimizer_step_pre_hook

from parimend.arguments import require
from parimend.errors import SpecError
from parimend.removable import runs

_STEPS = torch.optim.Optimizer.profile_hook_step.__code__.co_filename
"""Where every optimizer's hooks are called from."""


def uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that dynamo does not trace, which would make it a part of the compiled graph."""
    disabled: Callable[..., Any] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


def on_gradient(parameter: torch.Tensor, call: Callable[[], None]) -> Any:
    """Call a method whenever a gradient of a parameter is complete in a backward pass.

    The method's object is not kept for this: what hangs on a tensor is never found to be garbage.

    Returns:
        A handle with ``remove()``.
    """
    method = weakref.WeakMethod(call)

    def computed(_: torch.Tensor) -> None:
        if (here := method()) is not None:
            here()

    return parameter.register_post_accumulate_grad_hook(computed)  # type: ignore[no-untyped-call]


def in_backward() -> bool:
    """Whether this thread computes gradients: optimizers may step in hooks of parameters."""
    return torch._C._current_graph_task_id() >= 0


def after_backward(call: Callable[[], None]) -> None:
    """Call something at the end of the backward pass that this thread is in."""
    torch.autograd.Variable._execution_engine.queue_callback(call)


class Step:
    """Whether steps of optimizers are being taken, one within the other or in several threads.

    Where an exception ends a step, its last hooks are not called, so stacks are asked.

    Example:
        >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
        >>> step = Step()
        >>> hook = optimizer.register_step_pre_hook(lambda *_: print(step.begin()))
        >>> hook = optimizer.register_step_post_hook(lambda *_: print(step.end()))
        >>> optimizer.step(lambda: print(bool(step)))
        True
        True
        True
        >>> bool(step)
        False
    """

    def __init__(self) -> None:
        self._frames: dict[FrameType, int] = {}  # of steps, and the threads that take them

    def begin(self) -> bool:
        """To be called by a hook before a step; whether it is not within another one."""
        first = not self
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_filename != _STEPS:
            frame = frame.f_back
        if frame is not None:
            self._frames[frame] = threading.get_ident()
        return first

    def end(self) -> bool:
        """To be called by a hook after a step; whether no other one is being taken."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and self._frames.pop(frame, None) is None:
            frame = frame.f_back
        return not self

    def __bool__(self) -> bool:
        # In the threads that take them: closures may compute in others.
        for frame, thread in list(self._frames.items()):
            if not runs(frame, thread):
                self._frames.pop(frame, None)  # and what it holds
        return bool(self._frames)


def closure_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], Any] | None:
    """The closure among what a step was called with, the optimizer first."""
    closure: Callable[[], Any] | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
    return closure


def with_closure(
    closure: Callable[[], Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a step is to be called with to have another closure."""
    others = {name: value for name, value in kwargs.items() if name != "closure"}
    return (args[0], closure, *args[2:]), others


def stepping(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that takes the steps, inside of wrappers that pass for optimizers themselves:
    accelerate's runs no hooks, and hooks on those of Lightning and Fabric get the one inside.
    """
    while isinstance(inside := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        lends = _hooks_of(optimizer) is _hooks_of(inside)
        if inside is optimizer or not (lends or type(optimizer).__name__ == "AcceleratedOptimizer"):
            break
        optimizer = inside
    return optimizer


def _hooks_of(optimizer: torch.optim.Optimizer) -> object:
    """What it keeps its hooks in; something of its own if it has none."""
    return getattr(optimizer, "_optimizer_step_pre_hooks", optimizer)


def several(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
) -> list[torch.optim.Optimizer]:
    """The optimizers that take the steps, of one or several that were given.

    Raises:
        SpecError: if something else was given, or one that has no parameters of its own.
    """
    what = "an optimizer of torch, or a list of several"
    given = [optimizer] if isinstance(optimizer, torch.optim.Optimizer | str) else optimizer
    require(given, "optimizer", what, Sequence)
    if not given:
        raise SpecError(f"optimizer must be {what}, not an empty one")
    for each in given:
        require(each, "optimizer", what, torch.optim.Optimizer)
        if not hasattr(each, "param_groups"):
            raise SpecError(
                f"{type(each).__name__} has no param_groups: give the one that it wraps"
            )
    return [stepping(each) for each in given]


def in_parallel() -> bool:
    """Whether other processes take part in this training."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def parameters_of(optimizers: Iterable[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """All parameters that optimizers step."""
    groups = (group for each in optimizers for group in each.param_groups)
    return [parameter for group in groups for parameter in group["params"]]


def stepped_by(
    optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, torch.Tensor]]
) -> set[str]:
    """The names of those parameters that an optimizer steps."""
    theirs = {id(parameter) for parameter in parameters_of([optimizer])}
    return {name for name, each in named if id(each) in theirs}


def on_steps_of_others(
    ours: Sequence[torch.optim.Optimizer], call: Callable[[torch.optim.Optimizer], None]
) -> Any:
    """Call a method before every step of any other optimizer, with that optimizer.

    The method's object and our optimizers may be thrown away; they are not kept for this.

    Returns:
        A handle with ``remove()``.
    """
    listener = _Listener(weakref.WeakMethod(call), [weakref.ref(each) for each in ours])
    _listen()
    _LISTENERS.add(listener)
    return listener


@dataclass(frozen=True, eq=False)
class _Listener:
    """Who wants to know of steps, and of which not."""

    method: weakref.WeakMethod[Callable[[torch.optim.Optimizer], None]]
    known: Sequence[weakref.ref[torch.optim.Optimizer]]

    def remove(self) -> None:
        _LISTENERS.discard(self)


_LISTENERS: set[_Listener] = set()


@cache
def _listen() -> None:
    """Hear of all steps, from now on for ever: a hook that went away with what it is for could do
    so while torch runs through all hooks, which ends somebody's training.
    """
    register_optimizer_step_pre_hook(uncompiled(_before_any_step))


def _before_any_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for listener in tuple(_LISTENERS):
        here = listener.method()
        if here is None:
            listener.remove()
        elif not any(optimizer is each() for each in listener.known):
            here(optimizer)


def require_ready(parameters: Mapping[str, torch.Tensor]) -> None:
    """Check that parameters have values, one beside the other.

    Raises:
        SpecError: names the first that does not.
    """
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise SpecError(
                f"{name} has no values yet, its module is lazy: run the model once on some input "
                "before this"
            )
        if parameter.layout is not torch.strided:
            raise SpecError(f"{name} is {parameter.layout}: only dense parameters can be watched")


def require_parameters(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], caller: str
) -> None:
    """Check that a model takes hooks, and that every optimizer steps some of its parameters.

    Raises:
        SpecError: if a part of it is TorchScript, or it has no parameters, or an optimizer steps
            those of another one.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise SpecError(
                f"{caller}: {name or type(model).__name__} is TorchScript, which takes no hooks: "
                "train the module that it was made from"
            )
    named = dict(model.named_parameters())
    if not named:
        raise SpecError(f"{caller}: {type(model).__name__} has no parameters to look after")
    for each in optimizers:
        if not stepped_by(each, named.items()):
            raise SpecError(
                f"{caller}: {type(each).__name__} steps no parameter of this model: make it with "
                "model.parameters(), after the model was moved, cast or sharded"
            )


def require_hooks(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Check that optimizers tell of their steps and of loading.

    Raises:
        SpecError: names the first type that does not.
    """
    for each in optimizers:
        if not hasattr(each, "_optimizer_load_state_dict_post_hooks"):
            raise SpecError(
                f"{type(each).__name__} does not have all hooks of torch.optim.Optimizer: it does "
                "not call its __init__, so its state cannot be watched"
            )
