"""Parimend: error-correcting codes on the weights of neural networks.

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parimend.carriers import PlannedWord
    from parimend.constraint import Constraint, constrain_
    from parimend.model import check, plan, protect_, repair_
    from parimend.records import Change, Diagnosis, Repair, Verdict
    from parimend.seal import Seal

__version__ = "0.1.0"

_HOMES = {
    "Change": "records",
    "Constraint": "constraint",
    "Diagnosis": "records",
    "PlannedWord": "carriers",
    "Repair": "records",
    "Seal": "seal",
    "Verdict": "records",
    "check": "model",
    "constrain_": "constraint",
    "plan": "model",
    "protect_": "model",
    "repair_": "model",
}

__all__ = [
    "Change",
    "Constraint",
    "Diagnosis",
    "PlannedWord",
    "Repair",
    "Seal",
    "Verdict",
    "check",
    "constrain_",
    "plan",
    "protect_",
    "repair_",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"parimend.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'parimend' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
