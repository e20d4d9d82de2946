"""Lists of faults: damage as data, to apply, revert, store and replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from parimend.faults.errors import FaultError, StaleFaultError
from parimend.faults.fault import Fault
from parimend.faults.formats import format_of
from parimend.faults.storage import Header, read, write
from parimend.faults.words import Tensors, Words, named

__all__ = ["FaultList"]

_COLUMNS = {"tensor": np.int64, "index": np.int64, "before": np.uint64, "after": np.uint64}


@dataclass(frozen=True, eq=False)
class FaultList:
    """Faults in columns, ordered by tensor name and flat index; no word occurs twice.

    Attributes:
        seed: the seed they were drawn with.
        kind: the kind of damage.
        placement: the placement.
        names: names of the damaged tensors, ascending, shape (k,).
        dtypes: their safetensors dtypes, shape (k,).
        tensor: position of each fault's tensor in ``names``: int64, shape (count,).
        index: flat index of each word in its tensor: int64, shape (count,).
        before: bit patterns before the damage: uint64, shape (count,).
        after: bit patterns after it: uint64, shape (count,).

    Raises:
        FaultError: the columns do not fit together.

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
    tensor: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    before: npt.NDArray[np.uint64]
    after: npt.NDArray[np.uint64]

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
            StaleFaultError: a word does not hold the pattern from before the damage.
            FaultError: a tensor is missing, too short, of another dtype, or cannot be changed in
                place (read-only, or not C-contiguous).
        """
        self._write(words, "before", "after", force)

    def revert_(self, words: Tensors, *, force: bool = False) -> None:
        """Undo :meth:`apply_`, bit for bit; arguments, checks and errors are the same."""
        self._write(words, "after", "before", force)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the list as JSON lines: a header, then one line per fault.

        The file appears complete or not at all, and replaces one of the same name.

        Raises:
            OSError: it cannot be written.
        """
        tensors = dict(zip(self.names, self.dtypes, strict=True))
        write(Path(path), Header(self.seed, self.kind, self.placement, len(self), tensors), self)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FaultList:
        """Read what :meth:`save` wrote.

        Raises:
            FaultFileError: the file is not a complete, valid list; the message names the line.
            OSError: it cannot be read.
        """
        header, faults = read(Path(path))
        number = {name: position for position, name in enumerate(header.tensors)}
        return cls(
            seed=header.seed,
            kind=header.kind,
            placement=header.placement,
            names=tuple(header.tensors),
            dtypes=tuple(header.tensors.values()),
            tensor=np.array([number[fault.tensor] for fault in faults], dtype=np.int64),
            index=np.array([fault.index for fault in faults], dtype=np.int64),
            before=np.array([fault.before for fault in faults], dtype=np.uint64),
            after=np.array([fault.after for fault in faults], dtype=np.uint64),
        )

    def _write(
        self,
        tensors: Tensors,
        old: Literal["before", "after"],
        new: Literal["before", "after"],
        force: bool,
    ) -> None:
        given = named(tensors, self.names)
        cuts = np.searchsorted(self.tensor, np.arange(len(self.names) + 1)).tolist()
        parts = [slice(*ends) for ends in pairwise(cuts)]
        for words, dtype, part in zip(given, self.dtypes, parts, strict=True):
            _check_target(words, dtype, int(self.index[part][-1]))
            if not force:
                _check_present(words, self.index[part], getattr(self, old)[part], old)
        for words, part in zip(given, parts, strict=True):
            words.bits[self.index[part]] = getattr(self, new)[part].astype(words.bits.dtype)


def _check_target(words: Words, dtype: str, last: int) -> None:
    if words.dtype != dtype:
        raise FaultError(
            f"tensor {words.name!r} is {words.dtype}, but the faults were drawn for {dtype}"
        )
    if last >= len(words):
        raise FaultError(
            f"tensor {words.name!r} has {len(words)} words, but a fault is at index {last}; "
            f"give the tensors that the faults were drawn for"
        )
    if not words.bits.flags.writeable:
        raise FaultError(
            f"tensor {words.name!r} cannot be changed in place: it is read-only or not "
            f"C-contiguous; give a writable array, such as numpy.array(array, order='C')"
        )


def _check_present(
    words: Words, index: npt.NDArray[np.int64], expected: npt.NDArray[np.uint64], old: str
) -> None:
    present = words.bits[index]
    wrong = np.flatnonzero(present != expected)
    if wrong.size:
        first = int(wrong[0])
        shown = words.format.hex
        raise StaleFaultError(
            f"{words.name}[{int(index[first])}] holds {shown(int(present[first]))} and not "
            f"{shown(int(expected[first]))}, its pattern {old} the damage ({wrong.size} of "
            f"{index.size} words of this tensor differ); give the tensor in that state, or "
            f"force=True to overwrite it"
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
    top = np.array([(1 << format_of(dtype).width) - 1 for dtype in faults.dtypes], dtype=np.uint64)
    if (np.maximum(faults.before, faults.after) > top[faults.tensor]).any():
        raise FaultError("a bit pattern is wider than the words of its tensor")
    if (faults.before == faults.after).any():
        raise FaultError("a fault must change its word: before and after are equal")
