"""Where the redundancy lives: how words are sealed, and what their seal says later."""

from parimend.carriers.base import Tensors, diagnose, repair_, subparts
from parimend.carriers.protect import Carrier, PlannedWord, Request, plan, protect_

__all__ = [
    "Carrier",
    "PlannedWord",
    "Request",
    "Tensors",
    "diagnose",
    "plan",
    "protect_",
    "repair_",
    "subparts",
]
