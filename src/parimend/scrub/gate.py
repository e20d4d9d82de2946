"""What keeps forward passes and changes of weights apart."""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import FrameType
from typing import Any

import torch

from parimend import removable
from parimend.errors import SpecError
from parimend.removable import Hook, runs, wrap_forward_, wrappings
from parimend.warning import warn

_DISABLED = os.path.join("torch", "_dynamo", "eval_frame.py")
LOOK_AGAIN = 0.05
"""Seconds after which whoever waits looks whether it still has to: an interrupt may have ended what
it waits for without a notice."""


@cache
def _untraced() -> type[Hook]:
    """Hooks that dynamo leaves alone: they have to be called when the graph runs. Loads dynamo."""
    why = {"reason": "a Scrubber sees every run of its model: compile that alone, after start()"}
    known = inspect.signature(torch.compiler.disable).parameters
    disable: Any = partial(torch.compiler.disable, **(why if "reason" in known else {}))

    class Untraced(Hook):
        __call__ = disable(Hook.__call__)

    return Untraced


def _hook() -> type[Hook]:
    """The hooks to use. Dynamo is not loaded for them where nobody compiles: that takes a second,
    and 140 MB. It breaks its graph at plain hooks, too, and so calls them in every run.
    """
    return _untraced() if "torch._dynamo" in sys.modules else Hook


class Gate:
    """Lets forward passes go side by side, and nothing beside a change of weights.

    PyTorch calls no hook when an interrupt (Ctrl-C) ends a forward pass. So a pass is not over when
    its last hook was called, but when its frame has left the stack of its thread.

    Nor does Python call all of a ``finally`` that an interrupt comes into. It can come after every
    call; so what must not stay behind is begun within the ``try``, and ended in the ``finally``
    first of all.

    Example:
        >>> gate, model = Gate(), torch.nn.Linear(2, 2)
        >>> gate.attach(model)
        >>> with gate.exclusive() as entered:
        ...     entered, model(torch.ones(2)).shape  # the thread that changes weights may run them
        (True, torch.Size([2]))
        >>> gate.remove()
    """

    def __init__(self) -> None:
        self._model: Any = None
        self._hooks: list[Hook] = []
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        # Taken itself: an interrupt while Python takes a condition would leave that locked.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._owner: int | None = None
        # Of every thread inside: what called the model first, and how many calls are nested.
        self._inside: dict[int, tuple[FrameType, int]] = {}
        self._asking: set[int] = set()  # threads that want to change weights, maybe within a pass

    def attach(self, model: torch.nn.Module) -> None:
        """Put the gate before the forward passes of a model.

        Raises:
            SpecError: if it takes no hooks.
        """
        if isinstance(model, torch.jit.ScriptModule):
            raise SpecError(
                f"{type(model).__name__} is TorchScript, which takes no hooks that keep repairs "
                "from its forward passes: if these may go on beside repairs, seal its state_dict() "
                "and give the scrubber that"
            )
        self.remove()  # a process that was forked has those of the old one
        enter, leave = _hook()(self._enter), _hook()(self._leave)
        self._model, self._hooks = model, [enter, leave]
        model.register_forward_pre_hook(enter)
        model.register_forward_hook(leave, always_call=True)
        # Of modules of torch.nn all is compiled, hooks too, except with a forward of their own.
        # Then hooks stay outside of the graph, as those of other classes do, where they are called
        # in every run. It is left behind when the gate is removed: graphs that were compiled with
        # it would not be found again.
        of_torch = (type(model).forward.__module__ or "").startswith("torch.")  # made by exec: None
        if of_torch and _as_it_is not in wrappings(model):
            wrap_forward_(model, _as_it_is)

    def remove(self) -> None:
        """Take it away."""
        for hook in self._hooks:
            hook.remove_from(self._model)
        self._hooks = []

    @property
    def mine(self) -> bool:
        """Whether this thread is changing weights."""
        return self._owner == threading.get_ident()

    def arrive(self, *, quietly: bool = False) -> None:
        """In a forked process there are no threads but this one: no other will open the gate.

        Args:
            quietly: the caller starts or stops watching; else a warning says that nothing watches.
        """
        if self._process == os.getpid():
            return
        thread = threading.get_ident()
        owner, inside = self._owner, self._inside
        self._reset()
        if owner == thread:  # it was forked within a change, which goes on here
            self._owner = owner
        self._inside = {number: call for number, call in inside.items() if number == thread}
        if not quietly:
            warn(
                "this process was forked from one with a Scrubber, which does not run here: "
                "nothing watches these weights until start() is called in this process too",
            )

    def _enter(self, *_: Any) -> None:
        self.arrive()
        thread = threading.get_ident()
        if self._owner == thread:
            return
        caller = _caller_of_hook(sys._getframe())
        with self._lock:
            if thread in self._inside:
                first, depth = self._inside[thread]
                if runs(first, thread):
                    self._inside[thread] = first, depth + 1
                    return
                del self._inside[thread]  # a pass that was interrupted
            while self._owner is not None:
                self._condition.wait(LOOK_AGAIN)
            self._inside[thread] = caller, 1

    def _leave(self, *_: Any) -> None:
        thread = threading.get_ident()
        if self._owner == thread:
            return
        with self._lock:
            if thread not in self._inside:
                return  # it entered before the hooks were there
            first, depth = self._inside.pop(thread)
            if depth > 1:
                self._inside[thread] = first, depth - 1
            elif self._owner is not None:
                self._condition.notify_all()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """This thread waits for another, maybe within a pass, and computes nothing meanwhile: who
        changes weights may be the one that it waits for, and does not wait for that pass.
        """
        thread = threading.get_ident()
        try:
            with self._lock:
                self._asking.add(thread)
                self._condition.notify_all()
            yield
        finally:
            try:
                with self._lock:
                    while thread in self._inside and self._owner not in (None, thread):
                        self._condition.wait(LOOK_AGAIN)
            finally:
                self._asking.discard(thread)

    @contextmanager
    def exclusive(
        self, abandon: Callable[[], bool] = lambda: False, patience: float = float("inf")
    ) -> Iterator[bool]:
        """Wait until no forward pass runs in another thread, and let none begin.

        Args:
            abandon: asked while waiting: whether to give up.
            patience: seconds after which to give up.

        Yields:
            Whether they were waited for; if not, passes go on beside this.
        """
        thread, end = threading.get_ident(), time.monotonic() + patience

        def over() -> bool:
            return abandon() or time.monotonic() > end

        if self._owner == thread:  # a change within a change
            yield True
            return
        try:
            with self._lock:
                try:
                    self._asking.add(thread)
                    while self._owner is not None and not over():
                        self._condition.wait(LOOK_AGAIN)
                finally:
                    self._asking.discard(thread)
                if self._owner is None:
                    self._owner = thread
                while not (free := self._owner == thread and self._is_empty()) and not over():
                    self._condition.wait(LOOK_AGAIN)
                if not free and self._owner == thread:
                    self._owner = None
                    self._condition.notify_all()
            yield free
        finally:
            if self._owner == thread:
                self._owner = None
            with self._lock:
                self._condition.notify_all()

    def _is_empty(self) -> bool:
        """Whether no other thread is inside and goes on; forgets passes whose frames are gone."""
        if self._inside:
            self._inside = {
                thread: (first, depth)
                for thread, (first, depth) in self._inside.items()
                if runs(first, thread)
            }
        return not self._inside.keys() - self._asking - {threading.get_ident()}


def _as_it_is(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


def _caller_of_hook(frame: FrameType) -> FrameType:
    """The first frame up from ``frame`` that outlives the hook."""
    while _is_of_hook(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_of_hook(file: str) -> bool:
    """Whether a hook is called by code in this file, as also what dynamo leaves alone is."""
    return file in (__file__, removable.__file__) or file.endswith(_DISABLED)
