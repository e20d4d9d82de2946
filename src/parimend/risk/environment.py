"""Where a model runs: how often something strikes a bit of its memory, and how that is known.

Where a source was "not read in full", an abstract or a secondary text was. Each figure can be
replaced by one's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches

from parimend.arguments import flag, real_number, require
from parimend.errors import SpecError
from parimend.record import Record
from parimend.risk.events import Events

DAYS = 365.25
"""In a year."""


@dataclass(frozen=True, repr=False)
class Environment(Record):
    """What happens to memory.

    Attributes:
        name: of the environment.
        rate: events per bit and day that change what is stored, until it is written anew.
        events: how many words one of them strikes.
        hard_rate: cells per bit and day that fail for good.
        read_rate: events per bit and read, whatever the time between reads.
        told: whether it is known what events strike and which cells fail, as a disk tells what it
            cannot read: all of that are erasures, and none is missed. Events of several words
            count one more then, as they may begin within a word.
        source: where the figures are from.

    Raises:
        SpecError: if a rate is not in 0 .. 1, or events are no `Events`.

    Example:
        >>> Environment("mine", rate=1e-12, events=Events.of("1:0.9,2:0.1")).expected(1e9, days=2)
        0.002
    """

    name: str
    rate: float = 0.0
    events: Events = field(default_factory=Events)
    hard_rate: float = 0.0
    read_rate: float = 0.0
    told: bool = False
    source: str = "given"

    def __post_init__(self) -> None:
        for name in ("rate", "hard_rate", "read_rate"):
            real_number(getattr(self, name), name, "a probability per bit", least=0, most=1)
        flag(self.told, "told")
        require(self.events, "events", "an Events, as Events.of({1: 0.9, 2: 0.1}) makes it", Events)

    def expected(self, bits: float, days: float) -> float:
        """Number of events in so many bits between two checks so many days apart."""
        return bits * (self.rate * days + self.read_rate)

    def expected_hard(self, bits: float, days: float) -> float:
        """Number of cells that fail for good in so many bits and days."""
        return bits * self.hard_rate * days


def _fit(fit: float, bits: float) -> float:
    """Failures in 10^9 hours of so many bits, as events per bit and day."""
    return fit * 24e-9 / bits


_MBIT, _GBIT, _GB = 2.0**20, 2.0**30, 8.0 * 2**30

_TRANSIENT = {1: 14.2, 2: 1.4, 4096: 1.4 + 0.2 + 0.8 + 0.3 + 0.9}
"""FIT per device by words of 32 bits: bits, words of 64 bits; columns, rows, banks and more."""

ENVIRONMENTS = {
    each.name: each
    for each in (
        Environment(
            "sea-level-dram",
            rate=_fit(sum(_TRANSIENT.values()), _GBIT),
            events=Events.of({n: x / sum(_TRANSIENT.values()) for n, x in _TRANSIENT.items()}),
            hard_rate=_fit(18.6, _GBIT),
            source="DRAM without ECC on the ground: Sridharan and Liberty, A study of DRAM "
            "failures in the field, SC 2012 (not read in full): 19.2 FIT of transient faults per "
            "device, of which 14.2 strike a bit, 1.4 a word and 3.6 a column, a row, a bank or "
            "more; 18.6 FIT of bits that fail for good. Taken here as 1 Gbit a device, and 4,096 "
            "words for columns and more.",
        ),
        Environment(
            "sea-level-sram",
            rate=_fit(1_000, _MBIT),
            events=Events.of({1: 0.95, 2: 0.05}),
            source="memory on a chip, on the ground: IEC 61508-2 (not read in full): 700 "
            "to 1,200 FIT per Mbit of soft errors; 1,000 here. That 5 % of them strike two words "
            "is an assumption.",
        ),
        Environment(
            "leo",
            rate=4.04e-7,
            events=Events.of({1: 0.9878, 2: 0.0122}),
            source="low Earth orbit, memory without ECC, Alsat-1 (not read in full): 4.04e-7 "
            "upsets per bit and day, 98.6 % single bits, 1.22 % double bytes; the rest counted as "
            "single.",
        ),
        Environment(
            "hbm",
            rate=_fit(3_400, 80 * _GB),
            events=Events.of({1: 0.5, 2: 0.3, 16: 0.2}),
            source="what passes the ECC of HBM3: training of Llama 3 (not read in full), "
            "72 interruptions by memory on 16,384 GPUs of 80 GB in 54 days, about 3,400 FIT each. "
            "The sizes, up to a line of 64 bytes, are an assumption.",
        ),
        Environment(
            "disk",
            read_rate=1e-14,
            events=Events.of({1025: 1.0}),  # it may begin within a word
            told=True,
            source="consumer disks (Elling): one unrecoverable error in 1e14 bits read, a sector "
            "of 4 KiB, which the disk tells; enterprise disks 1e-15.",
        ),
    )
}
"""What is known by name."""


def environment(wanted: Environment | str) -> Environment:
    """An environment, by its name.

    Raises:
        SpecError: if there is none of that name; names those there are.

    Example:
        >>> environment("leo").rate
        4.04e-07
    """
    if isinstance(wanted, Environment):
        return wanted
    require(wanted, "environment", "a name, or an Environment", str)
    if wanted in ENVIRONMENTS:
        return ENVIRONMENTS[wanted]
    near = get_close_matches(wanted, ENVIRONMENTS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SpecError(f"unknown environment {wanted!r}: there are {', '.join(ENVIRONMENTS)}{hint}")
