"""From an entry of a spec to damage: what is drawn for a seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parimend.arguments import real_number, whole_number
from parimend.campaign.bits import by_width, merged
from parimend.campaign.computing import KIND as UPSET
from parimend.campaign.computing import Computing, computing_of
from parimend.campaign.environment_damage import EnvironmentDamage
from parimend.campaign.tables import one_of, require_keys
from parimend.campaign.task import Setting, Stratum
from parimend.errors import FaultError, ParimendError, SpecError
from parimend.experiment import Faults
from parimend.faults import (
    FIELDS,
    KINDS,
    PLACEMENTS,
    FaultList,
    Words,
    options_of,
    require_options,
    select,
)
from parimend.risk.environment import ENVIRONMENTS
from parimend.rng import Stream

STRIKES = ("weights", "everything")
"""What faults strike: the weights, or also what a protection keeps beside them."""

MOST = 0.5
"""Faults for a word where they are drawn at a rate, at most: each strikes another one."""

_KEPT = Words("what is kept", np.arange(256, dtype=np.uint8), "U8")
"""Bytes as any protection keeps them."""

_OWN = ("count", "rate", "only", "placement", "stays", "strikes")
_FIELD_OWN = ("count", "only", "stays")


@dataclass(frozen=True)
class Damage:
    """Faults, and which tensors they strike.

    Attributes:
        faults: what they are; ``count`` says how many if there is no ``rate``.
        only: shell patterns of tensors; None: all of them.
        tensors: names of those that may be struck at all; none given: all of them.
        rate: probability of a fault per bit, of `bitflip` per bit that may be struck; the number of
            faults is drawn then.
        stays: whether the memory keeps the damage, so that it is there again after a repair.
        beside: whether what a protection keeps beside the weights is struck as densely as they are.
    """

    faults: Faults
    only: Sequence[str] | None = None
    tensors: Collection[str] = ()
    rate: float | None = None
    stays: bool = False
    beside: bool = False

    def draw(self, words: Iterable[Words], seed: int) -> FaultList:
        """Draw the damage of a seed for a network, which is not changed.

        Raises:
            FaultError: if there cannot be such damage.
        """
        words = tuple(each for each in words if not self.tensors or each.name in self.tensors)
        if self.rate is None:
            return self.faults.draw(words, seed, self.only)
        chosen = select(words, self.only)
        widest = max(chosen, key=self._width)
        width = self._width(widest)
        if self.rate * width > MOST:
            raise FaultError(
                f"a rate of {self.rate:g} a bit is {self.rate * width:.2g} faults for every "
                f"element of {widest.name}, and each strikes another one: at most {MOST:g} can be "
                f"drawn, which is a rate of {MOST / width:.2g} here; of narrower ones it may be "
                "higher"
            )
        return self._at(self.rate, chosen, seed)

    def draw_beside(
        self, kept: Iterable[Words], words: Iterable[Words], seed: int
    ) -> FaultList | None:
        """Draw as much damage of what is kept as its size is worth; None if there is none.

        Args:
            kept: what a protection keeps.
            words: of the network.
            seed: of the network's damage; this is drawn from another stream.
        """
        kept, seed = tuple(kept), int(Stream(seed, "campaign beside").raw(1)[0])
        if not self.beside or not kept:
            return None
        rate = self.rate or self.faults.count / self._bits(select(words, self.only))
        return self._at(min(rate, 1.0), select(kept), seed)

    def _at(self, rate: float, chosen: Sequence[Words], seed: int) -> FaultList:
        """Faults in some tensors, whose number is drawn. Any bit is as likely to be struck: of
        words as wide any that many, and areas of memory have bytes.
        """
        placement = self.faults.placement or KINDS[self.faults.kind].placement
        groups = by_width(chosen) if placement == "scattered" else [chosen]
        lists = []
        for number, group in enumerate(groups):
            own = int(Stream(seed, f"campaign width {number}").raw(1)[0]) if number else seed
            count = min(_binomial(self._bits(group), rate, own), sum(map(len, group)))
            lists.append(replace(self.faults, count=count).draw(group, own))
        if len(lists) == 1:
            return lists[0]
        return merged(lists, seed, self.faults.kind, placement)

    def _bits(self, words: Iterable[Words]) -> int:
        return sum(len(each) * self._width(each) for each in words)

    def _width(self, words: Words) -> int:
        """Bits of a word that count: all, but of `bitflip` those that may be struck."""
        lowest, highest = (self.faults.options.get(end) for end in ("lowest", "highest"))
        last = words.format.bits - 1  # bits that there are not are refused when one is drawn
        last = last if highest is None else min(highest, last)
        return max(last + 1 - max(lowest or 0, 0), 0)


def damage_of(fault: Setting, stratum: Stratum) -> Damage | EnvironmentDamage | Computing:
    """The damage that an entry of a spec asks for, in one stratum.

    >>> damage = damage_of(Setting.of("flip", {"kind": "bitflip", "count": 1}), Stratum(("w",)))
    >>> damage.faults.count, damage.tensors
    (1, ('w',))
    """
    given = dict(fault.options)
    if fault.kind == UPSET:
        return computing_of(given, f"[faults.{fault.name}]")
    beside = given.get("strikes") == "everything"
    if fault.kind in ENVIRONMENTS:
        return EnvironmentDamage(ENVIRONMENTS[fault.kind], given["days"], given.get("only"), beside)
    own = {name: given.pop(name, None) for name in _OWN}
    kind, count, stays = fault.kind, own["count"], own["stays"]
    if fault.kind in FIELDS:
        field = FIELDS[fault.kind]
        kind = field.kind
        count = field.count if count is None else count
        stays = field.stays if stays is None else stays
    if stratum.bits:
        given |= {"lowest": stratum.bits[0], "highest": stratum.bits[1]}
    faults = Faults(kind, count or 0, own["placement"], given)
    return Damage(faults, own["only"], stratum.tensors, own["rate"], bool(stays), beside)


def require_fault(fault: Setting, where: str) -> None:
    """Refuse an entry of a spec that no damage can be made of.

    Raises:
        SpecError: names the key.
    """
    given = dict(fault.options)
    one_of(fault.kind, {**KINDS, **FIELDS, **ENVIRONMENTS, UPSET: None}, where)
    if fault.kind == UPSET:
        computing_of(given, where)
        return
    if given.get("strikes", "weights") not in STRIKES:
        choices = " or ".join(map(repr, STRIKES))
        raise SpecError(f"{where}: strikes is {choices}, not {given['strikes']!r}")
    if fault.kind in ENVIRONMENTS:
        require_keys(given, ("kind", "days", "only", "strikes"), where)
        real_number(given.get("days"), f"{where}: days", "the time between two checks", least=0)
        return
    known: tuple[str, ...] = _FIELD_OWN
    if fault.kind not in FIELDS:
        known = (*_OWN, *options_of(fault.kind))
        if ("count" in given) == ("rate" in given):
            raise SpecError(f"{where}: say how many faults: either count or rate")
    require_keys(given, ("kind", *known), where)
    more = {name: value for name, value in given.items() if name not in _OWN}
    try:
        if more:
            require_options(fault.kind, more)
    except FaultError as error:
        raise SpecError(f"{where}: {error}") from None
    count, rate = given.get("count"), given.get("rate")
    if count is not None:
        whole_number(count, f"{where}: count", least=1)
    if rate is not None:
        real_number(rate, f"{where}: rate", "a probability for each bit", above=0, below=1)
    if not isinstance(given.get("stays", False), bool):
        raise SpecError(f"{where}: stays must be true or false, not {given['stays']!r}")
    placement = given.get("placement")
    if placement is not None:
        one_of(placement, PLACEMENTS, f"{where}: placement")
    if "strikes" in given and (placement or KINDS[fault.kind].placement) != "scattered":
        raise SpecError(
            f"{where}: strikes is for scattered faults and environments: areas of memory may be "
            "larger than what a protection keeps"
        )
    if given.get("strikes") == "everything":
        try:
            Faults(fault.kind, 1, None, more).draw([_KEPT], 0)
        except FaultError as error:
            raise SpecError(
                f"{where}: what is kept beside the weights are bytes: {error}"
            ) from None


def try_out(
    fault: Setting, stratum: Stratum, words: Iterable[Words], model: Any, where: str
) -> None:
    """Draw once, so that what cannot be is said before anything is done.

    Args:
        fault: of the spec.
        stratum: that is struck.
        words: of the network.
        model: the network.
        where: the network, for messages.

    Raises:
        SpecError: names the fault and the network.
    """
    damage = damage_of(fault, stratum)
    try:
        if not isinstance(damage, Computing):
            damage.draw(words, 0)
        else:
            damage.strike_(model, 0).remove()
    except ParimendError as error:
        raise SpecError(f"[faults.{fault.name}] on {where}: {error}") from None


def _binomial(bits: int, rate: float, seed: int) -> int:
    """How many of so many bits are struck, by inversion."""
    from scipy.stats import binom  # takes half a second to load

    uniform = Stream(seed, "campaign count").uniforms(1)[0] + 2.0**-54
    return int(binom.ppf(uniform, bits, rate))
