"""Checks on outputs: wrong computations are caught and corrected while the model runs."""

from parimend.guards.handle import Guards, guard_
from parimend.guards.journal import Coverage, GuardEvent, Policy

__all__ = ["Coverage", "GuardEvent", "Guards", "Policy", "guard_"]
