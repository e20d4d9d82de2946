"""Checks on outputs: wrong computations are caught and corrected while the model runs."""

from parimend.guards.handle import Guards, guard_
from parimend.guards.journal import Coverage, Event, Policy

__all__ = ["Coverage", "Event", "Guards", "Policy", "guard_"]
