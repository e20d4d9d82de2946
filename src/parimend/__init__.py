"""Parimend: error-correcting codes on the weights of neural networks.

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parimend import campaign, errors, planner, propagation
    from parimend.carriers import Carrier, LowBits, Options, PlannedWord, Real, Sidecar
    from parimend.events import Event
    from parimend.files import Protection, check_file, protect_file, repair_file
    from parimend.fingerprints import Fingerprint, fingerprint
    from parimend.guards import Guards, Policy, guard_
    from parimend.loading import (
        Receipt,
        load_file,
        load_folder,
        receipt,
        save_file,
        verified,
        verify,
    )
    from parimend.model import check, protect_, refresh, repair_
    from parimend.outcomes import Change, Report, Verdict
    from parimend.planner import Plan, plan
    from parimend.planner.balance import Balanced, balance
    from parimend.risk import Environment, Events, Service
    from parimend.scrub import Scrubber
    from parimend.seal import Seal
    from parimend.training.constraint import Constraint, constrain_
    from parimend.training.healing import Healing, heal_

__version__ = "0.1.0"

_NAMES = {
    "carriers": ("Carrier", "LowBits", "Options", "PlannedWord", "Real", "Sidecar"),
    "events": ("Event",),
    "files": ("Protection", "check_file", "protect_file", "repair_file"),
    "fingerprints": ("Fingerprint", "fingerprint"),
    "guards": ("Guards", "Policy", "guard_"),
    "loading": (
        "Receipt",
        "load_file",
        "load_folder",
        "receipt",
        "save_file",
        "verified",
        "verify",
    ),
    "model": ("check", "protect_", "refresh", "repair_"),
    "outcomes": ("Change", "Report", "Verdict"),
    "planner": ("Plan", "plan"),
    "planner.balance": ("Balanced", "balance"),
    "risk": ("Environment", "Events", "Service"),
    "scrub": ("Scrubber",),
    "seal": ("Seal",),
    "training.constraint": ("Constraint", "constrain_"),
    "training.healing": ("Healing", "heal_"),
}
"""By the modules that have them."""
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
_ROOMS = ("campaign", "errors", "planner", "propagation")
"""Rooms that are used by their names, such as ``pm.propagation.trace``."""

__all__ = [
    "Balanced",
    "Carrier",
    "Change",
    "Constraint",
    "Environment",
    "Event",
    "Events",
    "Fingerprint",
    "Guards",
    "Healing",
    "LowBits",
    "Options",
    "Plan",
    "PlannedWord",
    "Policy",
    "Protection",
    "Real",
    "Receipt",
    "Report",
    "Scrubber",
    "Seal",
    "Service",
    "Sidecar",
    "Verdict",
    "balance",
    "campaign",
    "check",
    "check_file",
    "constrain_",
    "errors",
    "fingerprint",
    "guard_",
    "heal_",
    "load_file",
    "load_folder",
    "plan",
    "planner",
    "propagation",
    "protect_",
    "protect_file",
    "receipt",
    "refresh",
    "repair_",
    "repair_file",
    "save_file",
    "verified",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"parimend.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"parimend.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'parimend' has no attribute {name!r}")


def __dir__() -> list[str]:
    # What completion shows: not what this file imports for itself.
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
