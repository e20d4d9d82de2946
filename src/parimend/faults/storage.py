"""Fault lists on disk: JSON lines, version 1.

The first line is the header; every other line is a fault. Patterns are hexadecimal, as wide as the
word, because JSON readers may round integers above 2^53::

    {"format": "parimend.faults", "version": 1, "seed": 0, "kind": "bitflip",
     "placement": "scattered", "count": 1, "tensors": {"fc.weight": "F32"}}     (one line)
    {"tensor": "fc.weight", "index": 3, "before": "3f000000", "after": "3f000001"}
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parimend.faults.errors import FaultError, FaultFileError
from parimend.faults.fault import Fault
from parimend.faults.formats import format_of

__all__ = ["Header", "read", "write"]

_FORMAT, _VERSION = "parimend.faults", 1


@dataclass(frozen=True)
class Header:
    """First line of a stored list.

    Attributes:
        seed: as drawn with.
        kind: as drawn.
        placement: as drawn.
        count: number of faults in the file.
        tensors: safetensors dtypes of the damaged tensors by their names, ascending.
    """

    seed: int
    kind: str
    placement: str
    count: int
    tensors: Mapping[str, str]


def write(path: Path, header: Header, faults: Iterable[Fault]) -> None:
    """Write a list so that the file is there complete or not at all.

    Raises:
        FaultFileError: something else than a regular file is there.
    """
    if path.exists() and not path.is_file():
        raise FaultFileError(f"{path}: not a regular file")
    # Beside the target, because a rename is atomic within one file system only.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x", encoding="ascii", newline="\n") as file:
            first = {"format": _FORMAT, "version": _VERSION} | vars(header)
            file.write(json.dumps(first) + "\n")
            for fault in faults:
                shown = format_of(fault.dtype).hex
                row = {
                    "tensor": fault.tensor,
                    "index": fault.index,
                    "before": shown(fault.before),
                    "after": shown(fault.after),
                }
                file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a directory cannot be opened, nor need be synced
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read(path: Path) -> tuple[Header, list[Fault]]:
    """Read a list, checking all of it.

    Raises:
        FaultFileError: anything is not as :func:`write` writes it.
    """
    if path.exists() and not path.is_file():
        raise FaultFileError(f"{path}: not a regular file")
    try:
        lines = path.read_bytes().decode("ascii").split("\n")
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
            faults.append(_fault(line, header, faults[-1] if faults else None))
    except (FaultError, RecursionError, ValueError) as error:
        raise FaultFileError(f"{path}, line {number}: {error}") from error
    if len(faults) != header.count:
        raise FaultFileError(
            f"{path}: the header promises {header.count} faults, {len(faults)} are there"
        )
    if unstruck := header.tensors.keys() - {fault.tensor for fault in faults}:
        raise FaultFileError(f"{path}, line 1: no fault strikes tensor {min(unstruck)!r}")
    return header, faults


def _header(line: str) -> Header:
    data = json.loads(line)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise FaultError(f'not the header of a fault list ("format": "{_FORMAT}" is missing)')
    if data.get("version") != _VERSION:
        raise FaultError(
            f"version {data.get('version')!r} of the format; this release reads version {_VERSION}"
        )
    keys = ("format", "version", "seed", "kind", "placement", "count", "tensors")
    seed, kind, placement, count, tensors = _values(data, keys)[2:]
    _integer("seed", seed, 1 << 64)
    _integer("count", count, 1 << 63)
    for key, text in (("kind", kind), ("placement", placement)):
        if not isinstance(text, str) or not text:
            raise FaultError(f"{key} must be a name, not {text!r}")
    if not isinstance(tensors, dict) or list(tensors) != sorted(tensors):
        raise FaultError("tensors must be an object of names, ascending, and their dtypes")
    for name, dtype in tensors.items():
        if not isinstance(dtype, str):
            raise FaultError(f"dtype of tensor {name!r} must be a name, not {dtype!r}")
        format_of(dtype)
    return Header(seed, kind, placement, count, tensors)


def _fault(line: str, header: Header, previous: Fault | None) -> Fault:
    tensor, index, before, after = _values(json.loads(line), ("tensor", "index", "before", "after"))
    if not isinstance(tensor, str) or tensor not in header.tensors:
        raise FaultError(f"tensor {tensor!r} is not in the header")
    _integer("index", index, 1 << 63)
    dtype = header.tensors[tensor]
    digits = format_of(dtype).width // 4
    for key, text in (("before", before), ("after", after)):
        if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", text):
            raise FaultError(f"{key} must be {digits} hexadecimal digits ({dtype}), not {text!r}")
    if before == after:
        raise FaultError(f"before and after are both {before}; a fault must change its word")
    if previous is not None and (previous.tensor, previous.index) >= (tensor, index):
        raise FaultError(f"{tensor}[{index}] is out of order or repeated")
    return Fault(tensor, index, int(before, 16), int(after, 16), dtype)


def _values(data: Any, keys: tuple[str, ...]) -> list[Any]:
    if not isinstance(data, dict) or data.keys() != set(keys):
        raise FaultError(f"needs an object with exactly the keys {', '.join(keys)}")
    return [data[key] for key in keys]


def _integer(key: str, value: object, bound: int) -> None:
    # bool is an int in Python, but true is no number in JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < bound:
        raise FaultError(f"{key} must be an integer from 0 to {bound - 1}, not {value!r}")
