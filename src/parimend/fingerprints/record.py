"""Fingerprints as records: compared, written as JSON, read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from parimend import strict_json
from parimend.arguments import require
from parimend.errors import FormatError
from parimend.kernels.field import PRIME
from parimend.names import listed, select
from parimend.record import Record
from parimend.showing import counted

VERSION = 2
"""Of what is summed up: fingerprints of another version are not compared. Up to 1 what was kept of
archives of torch and numpy was their storages, and not the tensors in them."""
SUMS = 4
"""Of every tensor: any four wrong words always change one of them."""

Kind = Literal["missing", "surplus", "dtype", "shape", "bits"]
"""``missing``: the other one does not have the tensor. ``surplus``: only the other one has it."""


@dataclass(frozen=True, repr=False)
class Print(Record):
    """What a fingerprint keeps of one tensor.

    Attributes:
        dtype: as safetensors files name it.
        shape: of the tensor.
        sums: four power sums of its bits, for every 16 GiB of it.
    """

    dtype: str
    shape: tuple[int, ...]
    sums: tuple[int, ...]

    @property
    def digits(self) -> str:
        """The sums in hexadecimal, for people."""
        return " ".join(f"{value:09x}" for value in self.sums)


@dataclass(frozen=True, repr=False)
class Difference(Record):
    """A tensor that is not the same in two places.

    Attributes:
        name: of the tensor.
        kind: see `Kind`.
        here: what differs: the dtype, the shape, or the sums; empty where there is no tensor.
        there: the same of the other one.
    """

    COLUMNS: ClassVar = ("tensor", "differs in", "here", "there")

    name: str
    kind: Kind
    here: str
    there: str

    @property
    def row(self) -> tuple[str, ...]:
        """The difference in a table with `COLUMNS`."""
        return self.name, self.kind, self.here or "-", self.there or "-"


@dataclass(frozen=True, repr=False)
class Comparison(Record):
    """In what two fingerprints differ.

    Attributes:
        differences: by name of the tensor.
        tensors: number of tensors that were compared.
    """

    differences: tuple[Difference, ...]
    tensors: int

    @property
    def equal(self) -> bool:
        """Whether they differ in nothing."""
        return not self.differences

    def as_dict(self) -> dict[str, Any]:
        """See `Record.as_dict`."""
        return {"equal": self.equal, **super().as_dict()}

    def __repr__(self) -> str:
        names = listed([found.name for found in self.differences], most=3)
        found = "equal" if self.equal else f"{len(self.differences)} differ: {names}"
        return f"<Comparison: {counted(self.tensors, 'tensor')}, {found}>"


@dataclass(frozen=True, repr=False, eq=False)
class Fingerprint(Record):
    """A few sums of every tensor: equal where the bits are, whoever holds them.

    ``a == b`` if `compare` finds no difference.

    Attributes:
        tensors: what is kept of every tensor, by its name.
        tied: names of tensors that are the memory of another one, and its name.
        version: `VERSION`.

    Example:
        >>> import torch, parimend as pm
        >>> a = pm.fingerprint({"w": torch.ones(3), "b": torch.zeros(2)})
        >>> b = pm.fingerprint({"w": torch.tensor([1.0, 1.0, 2.0]), "b": torch.zeros(2)})
        >>> a == b, [(found.name, found.kind) for found in a.compare(b).differences]
        (False, [('w', 'bits')])
    """

    tensors: Mapping[str, Print]
    tied: Mapping[str, str]
    version: int = VERSION

    @property
    def digest(self) -> str:
        """One short text for all of it, for a log: SHA-256 of names, dtypes, shapes and sums."""
        tensors = self.as_dict()["tensors"]
        text = json.dumps(tensors, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def chosen(self, only: str | Sequence[str] | None) -> Fingerprint:
        """The same of some tensors.

        Args:
            only: shell patterns of their names; None for all.

        Raises:
            WordError: if a pattern matches nothing.
        """
        names = set(select(self.tensors, only))
        tensors = {name: each for name, each in self.tensors.items() if name in names}
        groups = ([name for name in tensors if name in group] for group in self._groups())
        tied = {name: first for first, *more in filter(None, groups) for name in more}
        return Fingerprint(tensors, tied, self.version)

    def compare(self, other: Fingerprint) -> Comparison:
        """In what another fingerprint differs.

        A tensor that is the memory of another one, as tied weights are, need not be in the other
        fingerprint: files of many libraries keep such memory once, under either name.

        Raises:
            FormatError: if it is of another version.
            SpecError: if it is no fingerprint.
        """
        require(other, "other", "a Fingerprint (fingerprint takes one)", Fingerprint)
        if self.version != other.version:
            raise FormatError(
                f"fingerprints of versions {self.version} and {other.version} cannot be compared: "
                "take both again, with the same parimend"
            )
        here, there = self._against(other), other._against(self)
        names = sorted({*here, *there})
        found = (_difference(name, here.get(name), there.get(name)) for name in names)
        return Comparison(tuple(each for each in found if each), len(names))

    def _against(self, other: Fingerprint) -> dict[str, Print]:
        """The tensors that the other one has to have, too."""
        needless = set()
        for group in self._groups():
            if common := group & set(other.tensors):
                needless |= group - common
        return {name: each for name, each in self.tensors.items() if name not in needless}

    def _groups(self) -> Iterator[set[str]]:
        """Names of one and the same memory."""
        for first in set(self.tied.values()):
            yield {first, *(name for name, of in self.tied.items() if of == first)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return self.version == other.version and self.compare(other).equal

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "the text") -> Fingerprint:
        """The inverse of `to_json`; keys that it does not know are left out.

        Args:
            text: JSON.
            name: of where it comes from, for messages.

        Raises:
            FormatError: if it is no fingerprint, or damaged: its digest is not that of the rest.
        """
        try:
            given = strict_json.loads(text)
            tensors = {each: _print(found) for each, found in given["tensors"].items()}
            tied = {str(each): str(of) for each, of in given["tied"].items()}
            made = cls(tensors, tied, int(given["version"]))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise FormatError(
                f"{name} is no fingerprint: make one with parimend fingerprint --json"
            ) from None
        digest = made.digest
        if made.version == VERSION and given.get("digest", digest) != digest:
            raise FormatError(
                f"{name} is damaged: its digest is not that of the sums in it: make it again with "
                "parimend fingerprint --json"
            )
        return made

    def __repr__(self) -> str:
        return f"<Fingerprint: {self.digest[:16]}, {counted(len(self.tensors), 'tensor')}>"


def _print(given: Mapping[str, Any]) -> Print:
    """What is kept of a tensor.

    Raises:
        ValueError, TypeError, LookupError: if it is something else.
    """
    dtype, shape, sums = (given[key] for key in ("dtype", "shape", "sums"))
    if [type(each) for each in (dtype, shape, sums)] != [str, list, list]:
        raise TypeError("a dtype, and lists of numbers")
    for numbers, most in ((shape, 1 << 63), (sums, PRIME)):
        if not all(type(n) is int and 0 <= n < most for n in numbers):
            raise ValueError(f"numbers that no tensor has: {numbers}")
    if not sums or len(sums) % SUMS:
        raise ValueError(f"{len(sums)} sums")
    return Print(dtype, tuple(shape), tuple(sums))


def _difference(name: str, here: Print | None, there: Print | None) -> Difference | None:
    if here is None or there is None:
        return Difference(name, "missing" if here else "surplus", *map(_facts, (here, there)))
    kind: Kind
    if here.dtype != there.dtype:
        kind, facts = "dtype", (here.dtype, there.dtype)
    elif here.shape != there.shape:
        kind, facts = "shape", (str([*here.shape]), str([*there.shape]))
    elif here.sums != there.sums:
        kind, facts = "bits", (here.digits, there.digits)
    else:
        return None
    return Difference(name, kind, *facts)


def _facts(found: Print | None) -> str:
    return "" if found is None else f"{found.dtype} {[*found.shape]}"
