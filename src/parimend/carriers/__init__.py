"""Where the redundancy lives: how words are sealed, and what their seal says later."""

from parimend.carriers.balance import Balance, Share
from parimend.carriers.base import diagnose, repair_
from parimend.carriers.carrier import (
    Carrier,
    Chosen,
    Options,
    PlannedWord,
    carrier,
    carrier_of,
)
from parimend.carriers.lowbits import LowBits
from parimend.carriers.protect import Planned, Request, choose, plan, protect_, refresh, seal_
from parimend.carriers.real import Real
from parimend.carriers.sidecar import Sidecar
from parimend.seal import CarrierName

__all__ = [
    "Balance",
    "Carrier",
    "CarrierName",
    "Chosen",
    "LowBits",
    "Options",
    "Planned",
    "PlannedWord",
    "Real",
    "Request",
    "Share",
    "Sidecar",
    "carrier",
    "carrier_of",
    "choose",
    "diagnose",
    "plan",
    "protect_",
    "refresh",
    "repair_",
    "seal_",
]
