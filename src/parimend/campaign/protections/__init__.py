"""Protections that meet the same faults: Parimend's, and the rules of others."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from parimend.errors import CampaignError, ParimendError, SpecError
from parimend.functions import function_of

__all__ = ["PROTECTIONS", "Network", "Protection", "blaming", "is_own", "protection_of"]

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


@contextmanager
def blaming(setting: Setting, where: str) -> Iterator[None]:
    """Let whatever a protection raises, which may be a user's, say whose it is.

    Raises:
        CampaignError: names the class, and the line that failed.

    >>> with blaming(Setting.of("own", {"kind": "rules:Clipped"}), "[protections.own]"):
    ...     {}["margin"]
    Traceback (most recent call last):
    parimend.errors.CampaignError: [protections.own]: rules:Clipped fails: KeyError: 'margin' ...
    """
    try:
        yield
    except ParimendError:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
        raise CampaignError(f"{where}: {setting.kind} fails: {said}") from error


def _own(kind: str, where: str, base: Path) -> type[Protection]:
    found = function_of(kind, base, where, "class")
    if not (isinstance(found, type) and issubclass(found, Protection)):
        raise SpecError(
            f"{where}: {kind!r} is no class derived from parimend.campaign.protections.Protection"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise SpecError(f"{where}: {kind!r} has no {missing}")
    return found
