"""Hooks on models, and handles that take them off again."""

from __future__ import annotations

import gc
import inspect
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate, chain, repeat
from types import FrameType
from typing import Any, Self, TypeVar, cast

_T = TypeVar("_T")


class Hook:
    """A hook on a module that stays behind when the module is copied or pickled.

    A handle belongs to the module that it was made for. Copies (`copy.deepcopy`, `torch.save`,
    processes that are spawned) get `nothing` in its place: they carry no handle, and neither its
    locks nor its threads stand in their way.

    Example:
        >>> import copy
        >>> hooks = {0: Hook(print)}
        >>> hooks[0]("called")
        called
        >>> copy.deepcopy(hooks)[0] is nothing
        True
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _left_behind, ()

    def remove_from(self, module: Any) -> None:
        """Take it off a module where it is a hook of forward passes; also if an interrupt came
        before its handle was kept.

        Example:
            >>> import torch
            >>> layer, hook = torch.nn.Linear(2, 3), Hook(print)
            >>> _ = layer.register_forward_hook(hook, always_call=True)
            >>> hook.remove_from(layer)
            >>> len(layer._forward_hooks), len(layer._forward_hooks_always_called)
            (0, 0)
        """
        for kind in _HOOKS:
            hooks = getattr(module, kind)
            for number in [number for number, hook in hooks.items() if hook is self]:
                for each in (kind, *_HOOKS[kind]):
                    getattr(module, each).pop(number, None)


_HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where PyTorch keeps hooks by numbers, and what else it keeps of them by these."""


def nothing(*args: Any, **kwargs: Any) -> None:
    """What a copied module calls where the original has a `Hook`."""


def _left_behind() -> Callable[..., None]:
    return nothing


def runs(frame: FrameType, thread: int) -> bool:
    """Whether a call still runs; PyTorch calls no hook where an exception ends one.

    The stack of a thread that runs on must not be kept: up to Python 3.11 the frame of a call that
    is just ending is memory that is used anew, and to ask it for the next one ends the process. So
    no bytecode is run from taking the stack to the end of it, and no other thread.

    Args:
        frame: of the call.
        thread: that it was made in.

    Example:
        >>> import sys, threading
        >>> runs(sys._getframe(), threading.get_ident()), runs(sys._getframe(), -1)
        (True, False)
    """
    return _at_once(partial(operator.contains, _stack(thread), frame))


def is_called(function: Callable[..., Any]) -> bool:
    """Whether some thread is within a call of a function that is written in Python.

    Example:
        >>> def asks():
        ...     return is_called(asks)
        >>> asks(), is_called(asks)
        (True, False)
    """
    threads: Callable[[], list[int]] = partial(list, chain.from_iterable(_stacks()))
    for thread in _at_once(threads):
        codes: Any = map(operator.attrgetter("f_code"), _stack(thread))
        if _at_once(partial(operator.contains, codes, function.__code__)):
            return True
    return False


def _stacks() -> Iterator[dict[int, FrameType]]:
    """The last call of every thread, once, and as it is when it is asked for."""
    return map(operator.call, (sys._current_frames,))


def _stack(thread: int) -> Any:
    """An iterator of a thread's calls, the last one first, as they are when they are asked for, see
    `runs`; of none if there is no such thread.
    """
    links: Iterator[Any] = chain(map(dict.get, _stacks(), (thread,)), repeat("f_back"))
    return iter(accumulate(links, getattr).__next__, None)  # which is above the first call


def _at_once(look: Callable[[], _T]) -> _T:
    """What a look at stacks gives, of which no part is written in Python.

    Up to Python 3.11 garbage may be collected while frames are gathered. A finalizer that lets
    other threads run then is the end of all of them, as soon as one begins or ends. So nothing is
    collected meanwhile, and as no bytecode is run either, no other thread sees that.
    """
    if not gc.isenabled():
        return look()
    steps: tuple[Callable[[], Any], ...] = (gc.disable, look, gc.enable)
    _, found, _ = map(operator.call, steps)
    return cast(_T, found)


class _Wrapper:
    """A forward of a module's own, around the one that it had before.

    Attributes:
        module: that is called.
        inner: the forward around which it was put; None for that of the module's type.
        around: called with the inner forward and the arguments; None once it is removed.
    """

    def __init__(self, module: Any, inner: Callable[..., Any] | None, around: Any) -> None:
        self.module = module
        self.inner = inner
        self.around = around

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner = self.inner or partial(type(self.module).forward, self.module)
        around = self.around  # another thread may remove it now
        return inner(*args, **kwargs) if around is None else around(inner, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """Where `torch.export` and trainers look for the names of arguments."""
        return inspect.signature(self.inner or partial(type(self.module).forward, self.module))

    @property
    def __code__(self) -> Any:
        """Where tracers look for the number of arguments."""
        return (self.inner or type(self.module).forward).__code__

    def __reduce__(self) -> tuple[Any, ...]:  # in what another library keeps of it
        return _Wrapper, (self.module, self.inner, None)


def wrap_forward_(module: Any, around: Callable[..., Any]) -> Callable[[], None]:
    """Gives a module a forward of its own that calls the one it has.

    It is not in the way of anybody: copies of the module (`copy.deepcopy`, `torch.save`, replicas
    on other devices) have the forward from before, and wrappers that others put around the module
    before or afterwards stay when this one is removed, in whatever order.

    Args:
        module: a `torch.nn.Module`.
        around: called with the forward from before and the arguments of the call.

    Returns:
        What undoes it.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 3)
        >>> remove = wrap_forward_(layer, lambda forward, x: 0 * forward(x))
        >>> layer(torch.ones(2)).any().item()
        False
        >>> remove()
        >>> "forward" in vars(layer)
        False
    """
    wrapper = _Wrapper(module, vars(module).get("forward"), around)
    module.forward = wrapper
    module.__reduce_ex__ = partial(_reduce_without, module)
    module._replicate_for_data_parallel = partial(_replicate_without, module)

    def remove() -> None:
        wrapper.around = None
        own = vars(module)
        forward = _without_removed(own.get("forward"))
        if forward is None:
            own.pop("forward", None)
        else:
            own["forward"] = forward
        if not isinstance(forward, _Wrapper):
            for name in _COPYING:
                own.pop(name, None)

    return remove


def foreign_forward(module: Any) -> Callable[..., Any] | None:
    """The forward that someone else has given to a module; None if it has that of its type."""
    forward = module.__dict__.get("forward")
    while type(forward) is _Wrapper:
        forward = forward.inner
    return forward


def wrappings(module: Any) -> Iterator[Callable[..., Any]]:
    """What was put around a module's forward by `wrap_forward_` and not removed, outermost first.

    Not what others have wrapped again.
    """
    forward = vars(module).get("forward")
    while isinstance(forward, _Wrapper):
        if forward.around is not None:
            yield forward.around
        forward = forward.inner


_COPYING = ("__reduce_ex__", "_replicate_for_data_parallel")
"""What a wrapped module has of its own besides its forward: how it is copied."""


def _without_removed(forward: Any) -> Any:
    """The outermost forward in a chain of wrappers that is still in use."""
    if not isinstance(forward, _Wrapper):
        return forward
    forward.inner = _without_removed(forward.inner)
    return forward if forward.around is not None else forward.inner


def _reduce_without(module: Any, protocol: Any) -> tuple[Any, ...]:
    """As `object.__reduce_ex__`."""
    reduced: Any = type(module).__reduce_ex__
    function, args, state, *rest = reduced(module, protocol)
    if isinstance(state, dict):  # and not what a class of its own makes of it
        state = _state_without(module, state)
    return function, args, state, *rest


def _replicate_without(module: Any) -> Any:
    replica = type(module)._replicate_for_data_parallel(module)
    replica.__dict__ = _state_without(module, replica.__dict__)
    return replica


def _state_without(module: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a module that go with a copy."""
    kept = {name: value for name, value in state.items() if name not in (*_COPYING, "forward")}
    if (forward := foreign_forward(module)) is not None:
        kept["forward"] = forward
    for name in _HOOKS:
        hooks = state[name]
        kept[name] = type(hooks)((i, h) for i, h in hooks.items() if not isinstance(h, Hook))
    return kept


class Handle:
    """What watches one model. Where a model keeps it as an attribute, copies of the model (see
    `Hook`) have None there: nothing watches them.

    Example:
        >>> import copy
        >>> copy.deepcopy({"weights": [1.0], "handle": Handle()})
        {'weights': [1.0], 'handle': None}
    """

    def __reduce__(self) -> tuple[Callable[..., None], tuple[()]]:
        return type(None), ()  # by a name that is known wherever the copy is read


class Removable(Handle, ABC):
    """Something with hooks, as a context manager: leaving it removes them."""

    @abstractmethod
    def remove(self) -> None:
        """Take the hooks off; the weights stay as they are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
