"""Which tensors a pickle of torch names, without running it.

A pickle is a program: unpickling calls what it says. Here its steps are read one by one
(`pickletools`), and what they would call is only noted. What matters of it are the functions with
which torch puts tensors together out of storages, and the dicts, lists and objects around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

from parimend.dtypes import OF_TORCH

_MOST_STEPS = 1 << 20
_LONGEST = 1000  # characters of a name
# Storages without a type hold bytes; then the tensor knows the dtype.
_STORAGES = MappingProxyType(
    {
        **{"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16"},
        **{"BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32"},
        **{"ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8"},
        **{"BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128"},
        **{"QInt8Storage": "I8", "QUInt8Storage": "U8", "QInt32Storage": "I32"},
        **{"UntypedStorage": "U8"},
    }
)
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
# What stands between a module and what it holds; in the names of a state dict there is nothing.
_UNNAMED = (None, "_parameters", "_buffers", "_modules")


class View(NamedTuple):
    """A tensor: some of the elements of a storage.

    Attributes:
        name: where it is in what was saved, in dotted form, as in ``optimizer.state.0.exp_avg``.
        storage: the key of the storage.
        dtype: as safetensors names it; empty if it is not known.
        shape: of the tensor.
        is_plain: whether it begins where its storage begins and is row-major.
    """

    name: str
    storage: str
    dtype: str
    shape: tuple[int, ...]
    is_plain: bool


class _Global(NamedTuple):
    """A function or a class that is named and not looked up."""

    module: str
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int


@dataclass(eq=False)
class _Made:
    """A dict, a list, or what a call would give."""

    call: Any = None
    args: tuple[Any, ...] = ()
    inside: list[tuple[Any, Any]] = field(default_factory=list)


_MARK = object()


class UnreadableError(ValueError):
    """A pickle that is none, or has steps that are not known here."""


def views(pickle: bytes) -> Iterator[View]:
    """The tensors in a pickle that ``torch.save`` made, each object once, in order.

    Raises:
        UnreadableError: if it is no such pickle, or has too many steps.
    """
    try:
        yield from _walk(_Machine().run(pickle))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UnreadableError(str(error)) from None


class _Machine:
    """The stack of a pickle, with nothing on it that does anything."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        """What is on the stack in the end."""
        from pickletools import genops

        for opcode, argument, _ in islice(genops(pickle), _MOST_STEPS):
            if opcode.name == "STOP":
                return self._stack[-1]
            if opcode.name in _CONSTANTS:
                self._stack.append(argument)
            elif act := _STEPS.get(opcode.name):
                act(self, argument)
            else:
                raise UnreadableError(f"{opcode.name} is not known here")
        raise UnreadableError("it has too many steps")

    def _marked(self) -> list[Any]:
        """What is above the last mark, taken from the stack with it."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise UnreadableError("a mark is missing")
        above = self._stack[at + 1 :]
        del self._stack[at:]
        return above

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise UnreadableError("the stack is empty")
        popped = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return popped

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _put(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    def _call(self, *parts: Any) -> None:
        self._push(_Made(parts[0], _arguments(parts[1:])))

    def _set(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, _Made):
            target.inside += zip(pairs[::2], pairs[1::2], strict=True)

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, _Made):
            target.inside += enumerate(values, len(target.inside))

    def _listed(self, values: list[Any]) -> None:
        self._push(_Made())
        self._append(values)

    def _mapped(self, pairs: list[Any]) -> None:
        self._push(_Made())
        self._set(pairs)

    def _persistent(self, described: Any) -> None:
        kind, storage, key, _, count = described[:5]
        if kind != "storage" or not isinstance(key, str) or type(count) is not int:
            raise UnreadableError("something is kept that is no storage")
        self._push(_Storage(key, _STORAGES.get(getattr(storage, "name", ""), ""), count))


def _arguments(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those of a call: a tuple, or a tuple and names with values."""
    first, *more = parts
    return (*(first if isinstance(first, tuple) else (first,)), *more)


_CONSTANTS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "NONE"),
        *("NEWTRUE", "NEWFALSE"),
    }
)
_STEPS: Mapping[str, Callable[[_Machine, Any], object]] = MappingProxyType(
    {
        **dict.fromkeys(("PROTO", "FRAME"), lambda m, x: None),
        "MARK": lambda m, x: m._push(_MARK),
        "POP": lambda m, x: m._pop(1),
        "POP_MARK": lambda m, x: m._marked(),
        "DUP": lambda m, x: m._push(m._stack[-1]),
        "EMPTY_TUPLE": lambda m, x: m._push(()),
        "TUPLE1": lambda m, x: m._push(tuple(m._pop(1))),
        "TUPLE2": lambda m, x: m._push(tuple(m._pop(2))),
        "TUPLE3": lambda m, x: m._push(tuple(m._pop(3))),
        "TUPLE": lambda m, x: m._push(tuple(m._marked())),
        **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda m, x: m._push(_Made())),
        **dict.fromkeys(("LIST", "FROZENSET"), lambda m, x: m._listed(m._marked())),
        "DICT": lambda m, x: m._mapped(m._marked()),
        "APPEND": lambda m, x: m._append(m._pop(1)),
        **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, x: m._append(m._marked())),
        "SETITEM": lambda m, x: m._set(m._pop(2)),
        "SETITEMS": lambda m, x: m._set(m._marked()),
        "GLOBAL": lambda m, x: m._push(_Global(*x.split(" ", 1))),
        "STACK_GLOBAL": lambda m, x: m._push(_Global(*m._pop(2))),
        **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, x: m._call(*m._pop(2))),
        "NEWOBJ_EX": lambda m, x: m._call(*m._pop(3)),
        "BUILD": lambda m, x: m._set([None, *m._pop(1)]),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, x: m._put(x)),
        "MEMOIZE": lambda m, x: m._put(len(m._memo)),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, x: m._push(m._memo[x])),
        "BINPERSID": lambda m, x: m._persistent(*m._pop(1)),
    }
)


def _walk(top: Any) -> Iterator[View]:
    seen: set[int] = set()
    todo = [("", top)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, _Storage):
            yield View(name, value.key, value.dtype, (value.size,), True)
        elif isinstance(value, _Made | tuple) and not isinstance(value, _Global):
            if id(value) in seen:  # also a circle
                continue
            seen.add(id(value))
            if view := _view(name, value):
                yield view
            else:
                todo += [(_joined(name, key), each) for key, each in _inside(value)][::-1]


def _inside(value: _Made | tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """What is in a container, by keys; the first argument of a call has the name of the result."""
    if isinstance(value, tuple):
        return list(enumerate(value))
    return [(i or None, each) for i, each in enumerate(value.args)] + value.inside


def _joined(name: str, key: Any) -> str:
    if key in _UNNAMED:
        return name
    text = key if isinstance(key, str) else str(key) if isinstance(key, int | float) else "?"
    return f"{name}.{text}"[:_LONGEST] if name else text[:_LONGEST]


def _view(name: str, value: Any) -> View | None:
    """The tensor that a call would give; None if it gives something else."""
    if not isinstance(value, _Made) or not isinstance(value.call, _Global):
        return None
    if value.call.module != "torch._utils" or value.call.name not in _TENSORS:
        return None
    storage, offset, shape, strides, *more = value.args
    if not isinstance(storage, _Storage):
        return None
    dtype = storage.dtype
    if value.call.name == "_rebuild_tensor_v3" and isinstance(more[-1], _Global):
        known = OF_TORCH.get(more[-1].name)
        dtype = known.name if known else ""
    if any(type(size) is not int or size < 0 for size in (*shape, *strides)):
        return None
    is_plain = offset == 0 and _is_row_major(shape, strides)
    return View(name, storage.key, dtype, shape, is_plain)


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
