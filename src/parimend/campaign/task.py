"""What a campaign is made of: tasks, frozen and named by what they contain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parimend.hashing import stream_key, words
from parimend.lasting import cached_property
from parimend.record import Record

RULES = 8
"""Version of what a task means: how faults are drawn, what protections do, what outcomes are. It is
part of every hash, so that results of other rules are never counted."""


def canonical(value: Any) -> bytes:
    """JSON in its one form: sorted keys, no spaces.

    >>> canonical({"b": (1, 2), "a": None})
    b'{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def content_hash(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON, its first 32 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()[:32]


@dataclass(frozen=True, repr=False)
class Setting(Record):
    """One entry of a spec: a protection or a kind of fault, with its options.

    Attributes:
        name: that the spec gives it.
        kind: what it is.
        options: names and values, sorted by name.

    >>> Setting.of("mine", {"kind": "sidecar", "errors": 8}).label
    'sidecar(errors=8)'
    """

    name: str
    kind: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, table: Mapping[str, Any]) -> Setting:
        """From a table of a spec, in which ``kind`` is its name where it is left out."""
        options = {key: _frozen(value) for key, value in table.items() if key != "kind"}
        return cls(name, table.get("kind", name), tuple(sorted(options.items())))

    @property
    def label(self) -> str:
        """What it is, without its name: equal settings have equal labels."""
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in self.options)})"


@dataclass(frozen=True, repr=False)
class Stratum(Record):
    """A part of all places that a fault can strike.

    Attributes:
        tensors: names of its tensors; none given: all of them.
        bits: the lowest and the highest bit, counted from the least significant; None: all.
        weight: its share of all places: of the words, times the share of their bits.
    """

    tensors: tuple[str, ...] = ()
    bits: tuple[int, int] | None = None
    weight: float = 1.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Stratum:
        """From `as_dict`."""
        return cls(**{key: _frozen(value) for key, value in given.items()})

    @property
    def name(self) -> str:
        """Of its tensors and bits; ``all`` if there is one stratum."""
        tensors = ",".join(self.tensors)
        bits = f"[{self.bits[0]}:{self.bits[1]}]" if self.bits else ""
        return tensors + bits or "all"


@dataclass(frozen=True, repr=False)
class Task(Record):
    """Some trials: one network under one protection, one kind of fault, a range of seeds.

    Attributes:
        network: its name in the spec.
        weights: SHA-256 of what is protected.
        metric: ``module:function`` that scores it; empty without one.
        protection: of the network.
        fault: that strikes it.
        stratum: where.
        seed: of the campaign.
        start, stop: number of the first trial, and of the one after the last.
    """

    network: str
    weights: str
    metric: str
    protection: Setting
    fault: Setting
    stratum: Stratum
    seed: int
    start: int
    stop: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Task:
        """From `as_dict`.

        Raises:
            KeyError, TypeError: if it is something else.
        """
        parts = dict(given)
        for name in ("protection", "fault"):
            setting = parts[name]
            options = tuple((key, _frozen(value)) for key, value in setting["options"])
            parts[name] = Setting(setting["name"], setting["kind"], options)
        return cls(**{**parts, "stratum": Stratum.of(parts["stratum"])})

    @cached_property
    def key(self) -> str:
        """The content hash: the same task has the same key everywhere."""
        return content_hash({"rules": RULES, **self.as_dict()})

    def seeds(self) -> list[int]:
        """Of the faults, one for each trial.

        They depend on the campaign's seed, the fault, the stratum and the number of the trial, and
        so are the same for every protection.
        """
        tag = hashlib.blake2b(f"{self.fault.label} {self.stratum.name}".encode(), digest_size=8)
        key = stream_key(self.seed, int.from_bytes(tag.digest(), "little"))
        return [int(seed) for seed in words(key, self.start, self.stop - self.start)]


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(each) for each in value)
    return value
