"""Where the redundancy lives: how words are sealed, and what their seal says later."""

from parimend.carriers.base import Tensors, diagnose, repair_, subparts
from parimend.carriers.protect import (
    Carrier,
    PlannedWord,
    Request,
    choose_codes,
    plan,
    protect_,
    refresh,
    seal_,
)

__all__ = [
    "Carrier",
    "PlannedWord",
    "Request",
    "Tensors",
    "choose_codes",
    "diagnose",
    "plan",
    "protect_",
    "refresh",
    "repair_",
    "seal_",
    "subparts",
]
