"""Protections that meet the same faults: Parimend's, and the rules of others."""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["PROTECTIONS", "Network", "Protection", "protection_of"]

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


def protection_of(setting: Setting, where: str = "protection") -> Protection:
    """The protection that an entry of a spec asks for.

    Raises:
        SpecError: for an unknown kind or option; names the nearest one.

    >>> protection_of(Setting.of("mine", {"kind": "sidecar", "errors": 8})).errors
    8
    """
    return table(one_of(setting.kind, PROTECTIONS, where), dict(setting.options), where)
