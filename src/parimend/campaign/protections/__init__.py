"""Protections that meet the same faults: Parimend's, and the rules of others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from parimend.campaign.protections.abft import Abft
from parimend.campaign.protections.base import Network, Protection
from parimend.campaign.protections.carried import LowBits, Nothing, Real, Sidecar
from parimend.campaign.protections.copies import Copies, Reload
from parimend.campaign.protections.embedded import Cep, Mset
from parimend.campaign.protections.guards import Guarded
from parimend.campaign.protections.par2 import Par2
from parimend.campaign.protections.radar import Radar
from parimend.campaign.protections.ranger import Ranger
from parimend.campaign.protections.secded import Secded
from parimend.campaign.tables import one_of, table
from parimend.campaign.task import Setting
from parimend.errors import SpecError
from parimend.functions import function_of

__all__ = ["PROTECTIONS", "Network", "Protection", "is_own", "protection_of"]

PROTECTIONS: Mapping[str, type[Protection]] = MappingProxyType(
    {
        each.kind: each
        for each in (
            *(Nothing, Secded, Cep, Mset, Radar, Ranger, Copies, Reload, Par2, Abft),
            *(Sidecar, Real, LowBits, Guarded),
        )
    }
)
"""Protections by kind."""


def is_own(kind: object) -> bool:
    """Whether a kind names a class of a user's: ``MODULE:CLASS``."""
    return isinstance(kind, str) and ":" in kind


def protection_of(
    setting: Setting, where: str = "protection", base: Path | None = None
) -> Protection:
    """The protection that an entry of a spec asks for.

    Args:
        setting: the entry.
        where: it is, for messages.
        base: the folder of the spec, where modules of users' classes are looked for.

    Raises:
        SpecError: for an unknown kind or option; names the nearest one. Also if a user's class
            cannot be found, or is no protection.

    >>> protection_of(Setting.of("mine", {"kind": "sidecar", "errors": 8})).errors
    8
    """
    if is_own(setting.kind):
        rule = _own(setting.kind, where, base or Path())
    else:
        rule = one_of(setting.kind, PROTECTIONS, where)
    return table(rule, dict(setting.options), where)


def _own(kind: str, where: str, base: Path) -> type[Protection]:
    found = function_of(kind, base, where)
    if not (isinstance(found, type) and issubclass(found, Protection)):
        raise SpecError(
            f"{where}: {kind!r} is no class derived from parimend.campaign.protections.Protection"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise SpecError(f"{where}: {kind!r} has no {missing}")
    return found
