"""Engines: what does the tasks of a campaign."""

from __future__ import annotations

from parimend.campaign.engines.base import Engine
from parimend.campaign.engines.local import Local
from parimend.campaign.engines.on_ray import Ray
from parimend.campaign.tables import one_of

__all__ = ["ENGINES", "Engine", "Local", "Ray", "engine_of"]

ENGINES: dict[str, type[Local] | type[Ray]] = {each.name: each for each in (Local, Ray)}
"""Engines by name."""


def engine_of(wanted: str | Engine, workers: int | None) -> Engine:
    """An engine, by its name.

    Raises:
        SpecError: if there is none of that name, or ``workers`` is no number of them.
    """
    if isinstance(wanted, Engine):
        return wanted
    return one_of(wanted, ENGINES, "engine")(workers)
