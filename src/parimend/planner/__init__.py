"""Before anything is protected: what it takes, what it gives, what an environment leaves of it."""

from parimend.planner.maps import Map, map_of
from parimend.planner.planning import Plan, PlannedFile, plan
from parimend.planner.simulation import Simulation, simulate
from parimend.planner.stake import Stake

__all__ = [
    "Map",
    "Plan",
    "PlannedFile",
    "Simulation",
    "Stake",
    "map_of",
    "plan",
    "simulate",
]
