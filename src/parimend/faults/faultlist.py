"""Lists of faults: damage as data, to apply, revert, store and replay.

A stored list is JSON lines. The first line is the header; every other line is a fault. Patterns are
hexadecimal, as wide as the word, because JSON readers may round integers above 2^53::

    {"format": "parimend.faults", "version": 1, "seed": 0, "kind": "bitflip",
     "placement": "scattered", "count": 1, "tensors": {"fc.weight": "F32"}}     (one line)
    {"tensor": "fc.weight", "index": 3, "before": "3f000000", "after": "3f000001"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import SEEDS
from parimend.atomic import atomic
from parimend.errors import FaultError, FaultFileError, StaleFaultError
from parimend.faults.words import Tensors, Words, format_of, named
from parimend.regular import read_regular

_FORMAT, _VERSION = "parimend.faults", 1
_MOST_BYTES = 1 << 32
_COLUMNS = {"tensor": np.int64, "index": np.int64, "before": np.uint64, "after": np.uint64}


@dataclass(frozen=True)
class Fault:
    """One changed element.

    Attributes:
        tensor: its name.
        index: flat index of the element, in row-major order.
        before: bit pattern before the damage.
        after: bit pattern after it.
        dtype: of the element, as safetensors names it.

    Example:
        >>> print(Fault("fc.bias", 7, 0x3E00, 0xBE00, "BF16"))
        fc.bias[7]: 3e00 -> be00
    """

    tensor: str
    index: int
    before: int
    after: int
    dtype: str

    def __str__(self) -> str:
        before, after = (_hex(pattern, self.dtype) for pattern in (self.before, self.after))
        return f"{self.tensor}[{self.index}]: {before} -> {after}"


@dataclass(frozen=True, eq=False)
class FaultList:
    """Faults in columns, ordered by tensor name and flat index; no element occurs twice.

    Attributes:
        seed: they were drawn with.
        kind: of damage.
        placement: of the damage.
        names: of the damaged tensors, ascending, shape (k,).
        dtypes: of these tensors, as safetensors names them, shape (k,).
        tensor: position of each fault's tensor in ``names``: int64, shape (count,).
        index: flat index of each word in its tensor: int64, shape (count,).
        before: bit patterns before the damage: uint64, shape (count,).
        after: bit patterns after it: uint64, shape (count,).

    Raises:
        FaultError: if the columns do not fit together.

    Example:
        >>> import numpy as np
        >>> from parimend.faults import draw
        >>> faults = draw("zero", {"bias": np.ones(3, np.float32)}, count=2, seed=1)
        >>> len(faults), faults.index.tolist(), next(iter(faults)).after
        (2, [1, 2], 0)
    """

    seed: int
    kind: str
    placement: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    tensor: NDArray[np.int64]
    index: NDArray[np.int64]
    before: NDArray[np.uint64]
    after: NDArray[np.uint64]

    def __post_init__(self) -> None:
        for column, dtype in _COLUMNS.items():
            # A copy: a frozen record must not change with the arrays it was made from.
            own = np.array(getattr(self, column), dtype=dtype)
            own.flags.writeable = False
            object.__setattr__(self, column, own)
        _check_columns(self)

    def __len__(self) -> int:
        return int(self.index.size)

    def __iter__(self) -> Iterator[Fault]:
        columns = (self.tensor, self.index, self.before, self.after)
        for tensor, index, before, after in zip(*(c.tolist() for c in columns), strict=True):
            yield Fault(self.names[tensor], index, before, after, self.dtypes[tensor])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FaultList):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]  # columns can be long; nothing needs the hash

    def apply_(self, words: Tensors, *, force: bool = False) -> None:
        """Damage the tensors in place.

        Every word is checked first; unless all pass, none is changed.

        Args:
            words: tensors like those the faults were drawn for, under the same names; others may
                be among them.
            force: write even over words that are not as they were when the faults were drawn.

        Raises:
            StaleFaultError: if a word does not hold the pattern from before the damage.
            FaultError: if a tensor is missing, too short, of another dtype, or cannot be changed
                in place (read-only, or not contiguous).
        """
        self._write(words, "before", "after", force)

    def revert_(self, words: Tensors, *, force: bool = False) -> None:
        """Undo `apply_`, bit for bit; arguments, checks and errors are the same."""
        self._write(words, "after", "before", force)

    def hold_(self, words: Tensors) -> None:
        """Give the bits that `apply_` changes their damaged values, whatever the words hold by now,
        as cells of a memory do that are stuck; the other bits stay.

        Raises:
            FaultError: as `apply_` does.

        Example:
            >>> import numpy as np
            >>> from parimend.faults import draw
            >>> memory = {"w": np.array([1], np.uint8)}
            >>> faults = draw("bitflip", memory, count=1, seed=0, lowest=3, highest=3)
            >>> memory["w"][0] = 4
            >>> faults.hold_(memory)
            >>> memory["w"].tolist()
            [12]
        """
        changed = self.before ^ self.after
        for each, part in self._struck(words):
            mask, after = (of[part].astype(each.bits.dtype) for of in (changed, self.after))
            each.bits[self.index[part]] = each.bits[self.index[part]] & ~mask | after & mask

    def save(self, path: str | PathLike[str]) -> None:
        """Write the list as JSON lines: a header, then one line per fault.

        The file appears complete or not at all, and replaces one of the same name.

        Raises:
            BusyError: if another process is writing the same file.
            OSError: if it cannot be written.
        """
        with atomic(path) as file:
            file.writelines(json.dumps(row).encode("ascii") + b"\n" for row in self._rows())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FaultList:
        """Read what `save` wrote.

        Raises:
            FaultFileError: if the file is not a complete, valid list; names the line.
            OSError: if it cannot be read.
        """
        header, faults = _read(Path(path))
        names = tuple(header["tensors"])
        number = {name: position for position, name in enumerate(names)}
        return cls(
            seed=header["seed"],
            kind=header["kind"],
            placement=header["placement"],
            names=names,
            dtypes=tuple(header["tensors"].values()),
            tensor=np.array([number[fault.tensor] for fault in faults], dtype=np.int64),
            index=np.array([fault.index for fault in faults], dtype=np.int64),
            before=np.array([fault.before for fault in faults], dtype=np.uint64),
            after=np.array([fault.after for fault in faults], dtype=np.uint64),
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        yield {
            "format": _FORMAT,
            "version": _VERSION,
            "seed": self.seed,
            "kind": self.kind,
            "placement": self.placement,
            "count": len(self),
            "tensors": dict(zip(self.names, self.dtypes, strict=True)),
        }
        for fault in self:
            yield {
                "tensor": fault.tensor,
                "index": fault.index,
                "before": _hex(fault.before, fault.dtype),
                "after": _hex(fault.after, fault.dtype),
            }

    def _write(self, tensors: Tensors, old: str, new: str, force: bool) -> None:
        struck = self._struck(tensors)
        for words, part in struck if not force else ():
            _check_present(words, self.index[part], getattr(self, old)[part], old)
        for words, part in struck:
            words.bits[self.index[part]] = getattr(self, new)[part].astype(words.bits.dtype)

    def _struck(self, tensors: Tensors) -> list[tuple[Words, slice]]:
        """The tensors that are struck, and which of the faults are theirs."""
        cuts = np.searchsorted(self.tensor, np.arange(len(self.names) + 1)).tolist()
        parts = [slice(*ends) for ends in pairwise(cuts)]
        struck = list(zip(named(tensors, self.names), parts, strict=True))
        for (words, part), dtype in zip(struck, self.dtypes, strict=True):
            _check_target(words, dtype, int(self.index[part][-1]))
        return struck


def _check_target(words: Words, dtype: str, last: int) -> None:
    if words.dtype != dtype:
        raise FaultError(
            f"tensor {words.name!r} is {words.dtype}, but the faults were drawn for {dtype}"
        )
    if last >= len(words):
        raise FaultError(
            f"tensor {words.name!r} has {len(words)} elements, but a fault is at index {last}; "
            f"give the tensors that the faults were drawn for"
        )
    if not words.bits.flags.writeable:
        raise FaultError(
            f"tensor {words.name!r} cannot be changed in place: it is read-only or not "
            f"C-contiguous; give a writable array, such as numpy.array(array, order='C')"
        )


def _check_present(
    words: Words, index: NDArray[np.int64], expected: NDArray[np.uint64], old: str
) -> None:
    present = words.bits[index]
    wrong = np.flatnonzero(present != expected)
    if wrong.size:
        first = int(wrong[0])
        found, wanted = (_hex(int(of[first]), words.dtype) for of in (present, expected))
        raise StaleFaultError(
            f"{words.name}[{int(index[first])}] holds {found} and not "
            f"{wanted}, its pattern {old} the damage ({wrong.size} of "
            f"{index.size} elements of this tensor differ); give the tensor in that state "
            "(in Python, force=True overwrites it)"
        )


def _check_columns(faults: FaultList) -> None:
    count, names = faults.index.size, faults.names
    if any(getattr(faults, column).shape != (count,) for column in _COLUMNS):
        raise FaultError("the columns of a fault list must be flat and of equal length")
    if list(names) != sorted(set(names)) or len(faults.dtypes) != len(names):
        raise FaultError("a fault list needs ascending tensor names, and one dtype for each")
    if not np.array_equal(np.unique(faults.tensor), np.arange(len(names))):
        raise FaultError(f"every tensor named must be struck, and no other: {list(names)}")
    forward, along = np.diff(faults.tensor), np.diff(faults.index)
    if (faults.index < 0).any() or not ((forward > 0) | ((forward == 0) & (along > 0))).all():
        raise FaultError("faults must be ordered by tensor and index, each word at most once")
    top = np.array([(1 << format_of(dtype).bits) - 1 for dtype in faults.dtypes], dtype=np.uint64)
    if (np.maximum(faults.before, faults.after) > top[faults.tensor]).any():
        raise FaultError("a bit pattern is wider than the words of its tensor")
    if (faults.before == faults.after).any():
        raise FaultError("a fault must change its word: before and after are equal")


def _read(path: Path) -> tuple[dict[str, Any], list[Fault]]:
    """Header and faults of a stored list, all of it checked."""
    try:
        lines = read_regular(path, _MOST_BYTES).decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FaultFileError(f"{path}: not a fault list, it holds bytes beyond ASCII") from error
    if lines.pop():
        raise FaultFileError(f"{path}, line {len(lines) + 1}: cut off; the file is truncated")
    if not lines:
        raise FaultFileError(f"{path}: empty; a fault list has at least a header line")
    faults: list[Fault] = []
    number = 1
    try:
        header = _header(lines[0])
        for line in lines[1:]:
            number += 1
            faults.append(_fault(line, header["tensors"], faults[-1] if faults else None))
    except (RecursionError, ValueError) as error:  # a FaultError is a ValueError
        raise FaultFileError(f"{path}, line {number}: {error}") from error
    if len(faults) != header["count"]:
        raise FaultFileError(
            f"{path}: the header promises {header['count']} faults, {len(faults)} are there"
        )
    if unstruck := header["tensors"].keys() - {fault.tensor for fault in faults}:
        raise FaultFileError(f"{path}, line 1: no fault strikes tensor {min(unstruck)!r}")
    return header, faults


def _header(line: str) -> dict[str, Any]:
    data = json.loads(line)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise FaultError(f'not the header of a fault list ("format": "{_FORMAT}" is missing)')
    if data.get("version") != _VERSION:
        raise FaultError(
            f"version {data.get('version')!r} of the format; this release reads version {_VERSION}"
        )
    _check_keys(data, ("format", "version", "seed", "kind", "placement", "count", "tensors"))
    _check_integer("seed", data["seed"], SEEDS)
    _check_integer("count", data["count"], 1 << 63)
    for key in ("kind", "placement"):
        if not isinstance(data[key], str) or not data[key]:
            raise FaultError(f"{key} must be a name, not {data[key]!r}")
    tensors = data["tensors"]
    if not isinstance(tensors, dict) or list(tensors) != sorted(tensors):
        raise FaultError("tensors must be an object of names, ascending, and their dtypes")
    for name, dtype in tensors.items():
        if not isinstance(dtype, str):
            raise FaultError(f"dtype of tensor {name!r} must be a name, not {dtype!r}")
        format_of(dtype)
    return data


def _fault(line: str, dtypes: dict[str, str], previous: Fault | None) -> Fault:
    data = json.loads(line)
    _check_keys(data, ("tensor", "index", "before", "after"))
    tensor, index, before, after = (data[key] for key in ("tensor", "index", "before", "after"))
    if not isinstance(tensor, str) or tensor not in dtypes:
        raise FaultError(f"tensor {tensor!r} is not in the header")
    _check_integer("index", index, 1 << 63)
    dtype = dtypes[tensor]
    digits = _digits(dtype)
    for key, text in (("before", before), ("after", after)):
        if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", text):
            raise FaultError(f"{key} must be {digits} hexadecimal digits ({dtype}), not {text!r}")
    if before == after:
        raise FaultError(f"before and after are both {before}; a fault must change its word")
    if previous is not None and (previous.tensor, previous.index) >= (tensor, index):
        raise FaultError(f"{tensor}[{index}] is out of order or repeated")
    return Fault(tensor, index, int(before, 16), int(after, 16), dtype)


def _check_keys(data: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(data, dict) or data.keys() != set(keys):
        raise FaultError(f"needs an object with exactly the keys {', '.join(keys)}")


def _check_integer(key: str, value: object, bound: int) -> None:
    # bool is an int in Python, but true is no number in JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < bound:
        raise FaultError(f"{key} must be an integer from 0 to {bound - 1}, not {value!r}")


def _digits(dtype: str) -> int:
    return format_of(dtype).bits // 4


def _hex(pattern: int, dtype: str) -> str:
    """The pattern in hexadecimal, as wide as the word."""
    return f"{pattern:0{_digits(dtype)}x}"
