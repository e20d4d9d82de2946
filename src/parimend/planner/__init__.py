"""Before anything is protected: what it takes, what it gives, what an environment leaves of it."""

from parimend.planner.planning import Plan, PlannedFile, plan
from parimend.planner.simulation import Simulation, simulate
from parimend.planner.stake import Stake

__all__ = ["Plan", "PlannedFile", "Simulation", "Stake", "plan", "simulate"]
