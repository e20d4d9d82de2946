"""Guards in compiled graphs, which can hold strings and tensors, but no guard.

The check is a part of the graph, so that the compiler fuses it with what comes before and after;
what is done on an alarm is an operator with the guard's key. Keys are known to the whole process,
as operators are; they hold no guard alive.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parimend.errors import GuardError

if TYPE_CHECKING:
    from parimend.guards.known import Standing
    from parimend.guards.latch import Latch
    from parimend.guards.layer import LayerGuard

Constants = tuple[Tensor, Tensor, Tensor, Tensor]
"""P of a block, P W, P b, and the squares of the threshold."""


_ADMITTED: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()
_CALLS: dict[str, tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]] = {}
"""Arguments of calls in graphs, by name; in the place of a tensor stands `_TENSOR`."""
_TENSOR = "\0tensor"


def admit(inspector: LayerGuard | Latch) -> str:
    """Lets graphs call it; its key, which no other has or will have."""
    key = str(next(_NUMBERS))
    _ADMITTED[key] = inspector
    return key


def dismiss(key: str) -> None:
    """From now on graphs pass it by."""
    _ADMITTED.pop(key, None)


def _once(function: Any) -> Any:
    """Lets a function be called while a graph is compiled; the graph has its result as a constant.

    What `torch.compiler.assume_constant_result` does, without loading the compiler for it.
    """
    function._dynamo_marked_constant = True
    return function


@_once
def constants(key: str, dtype: torch.dtype, device: torch.device) -> Constants:
    """What a graph needs to check outputs: tensors whose values the guard keeps up to date."""
    found: Constants = _ADMITTED[key].constants(dtype, device)
    return found


@_once
def pass_by(key: str, standing: Standing) -> None:
    """Notes, when a graph is compiled, that it does not check a layer: its weights were replaced by
    others, or its outputs are none that can be looked at.
    """
    _ADMITTED[key].pass_by(standing=standing)


def answer_(
    alarm: Tensor, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: str
) -> None:
    """Puts what is done on an alarm into the graph that is being compiled."""
    # Detached: what it writes are the values that should have been there all along.
    tensors = (None if t is None else t.detach() for t in (y, x, weight, bias))
    torch.ops.parimend.answer_(alarm, *tensors, key)


def judge(
    alarm: Tensor, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: str
) -> Tensor:
    """Puts into the graph that is being compiled what makes of the stop of a screen the alarm of
    what is wrong, () bool. It reads what the device has computed.
    """
    tensors = (None if t is None else t.detach() for t in (y, x, weight, bias))
    judged: Tensor = torch.ops.parimend.judge(alarm, *tensors, key)
    return judged


def conclude_(
    outputs: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    alarm: Tensor,
    stops: list[Tensor],
    layers: list[int],
    key: str,
) -> None:
    """Puts what is done on an alarm at the end of a model into the graph that is being compiled."""
    inputs = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    changed = made(outputs, inputs)
    there = [_TENSOR if isinstance(each, Tensor) else each for each in args]
    named = [(n, _TENSOR if isinstance(each, Tensor) else each) for n, each in kwargs.items()]
    call = _call(tuple(there), tuple(named))
    torch.ops.parimend.conclude_(changed, inputs, alarm, stops, layers, call, key)


def made(outputs: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that a forward gives and did not get."""
    return [t for t in tensors_in(outputs) if not any(t is each for each in inputs)]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in what a forward gives, each once."""
    found: list[Tensor] = []
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            found += [t for t in tensors_in(each) if not any(t is other for other in found)]
    return found


@_once
def _call(args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> str:
    """Keeps the arguments of a call; their name."""
    name = repr((args, kwargs))
    _CALLS[name] = args, kwargs
    return name


def require_own_capture() -> None:
    """Refuse a capture that may not be the user's, who would not know that alarms are to be read.

    Raises:
        GuardError: if this PyTorch cannot tell compilers to leave an operator out of CUDA graphs.
    """
    if not _TAGS:
        raise GuardError(
            "this PyTorch captures compiled graphs unasked, and alarms would wait there unseen: "
            "capture the model without compiling it, or use a newer PyTorch"
        )


def _answer(
    alarm: Tensor, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: str
) -> None:
    inspector = _ADMITTED.get(key)
    if inspector is not None:  # otherwise removed, and the graph not compiled again yet
        inspector.answer(alarm, y, x, lambda: (weight, bias))


def _judge(
    alarm: Tensor, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: str
) -> Tensor:
    inspector = _ADMITTED.get(key)
    found = inspector is not None and inspector.judge(alarm, y, x, lambda: (weight, bias))
    return alarm.new_full((), found)


def _conclude(
    outputs: list[Tensor],
    inputs: list[Tensor],
    alarm: Tensor,
    stops: list[Tensor],
    layers: list[int],
    call: str,
    key: str,
) -> None:
    latch = _ADMITTED.get(key)
    if latch is not None:
        args, kwargs = _CALLS[call]
        tensors = iter(inputs)
        given = [next(tensors) if each == _TENSOR else each for each in args]
        named = {n: next(tensors) if each == _TENSOR else each for n, each in kwargs}
        latch.conclude(outputs, inputs, given, named, alarm, stops, layers)


# Not `torch.library.custom_op`: its wrapping costs 100 us a call.
_LIBRARY = torch.library.Library("parimend", "FRAGMENT")  # type: ignore[no-untyped-call]
# They read what a device has computed, which no CUDA graph can do.
_TAGS = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, "cudagraph_unsafe") else []
for _schema, _function, _fake in (
    (
        "answer_(Tensor alarm, Tensor(a!) y, Tensor x, Tensor weight, Tensor? bias, str key) -> ()",
        _answer,
        lambda *args: None,
    ),
    (
        "judge(Tensor alarm, Tensor y, Tensor x, Tensor weight, Tensor? bias, str key) -> Tensor",
        _judge,
        lambda alarm, *args: torch.empty_like(alarm),
    ),
    (
        "conclude_(Tensor(a!)[] outputs, Tensor[] inputs, Tensor alarm, Tensor[] stops, "
        "int[] layers, str call, str key) -> ()",
        _conclude,
        lambda *args: None,
    ),
):
    _name = _schema.partition("(")[0]
    _LIBRARY.define(_schema, tags=_TAGS)  # type: ignore[no-untyped-call]
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"parimend::{_name}", _fake, lib=_LIBRARY)
