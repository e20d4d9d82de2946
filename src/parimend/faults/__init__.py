"""Seeded damage for tensors: drawn as data, then applied, reverted, stored and replayed.

>>> import numpy as np
>>> from parimend.faults import draw
>>> model = {"fc.weight": np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)}
>>> faults = draw("bitflip", model, count=3, seed=7)
>>> faults.apply_(model)
>>> [(fault.tensor, fault.index) for fault in faults]
[('fc.weight', 7), ('fc.weight', 9), ('fc.weight', 10)]
>>> faults.revert_(model)
"""

from parimend.errors import FaultError
from parimend.faults.drawing import (
    KINDS,
    PATTERNS,
    PLACEMENTS,
    draw,
    options_of,
    require_options,
)
from parimend.faults.faultlist import Fault, FaultList
from parimend.faults.fields import FIELDS
from parimend.faults.words import Tensors, Words, select

__all__ = [
    "FIELDS",
    "KINDS",
    "PATTERNS",
    "PLACEMENTS",
    "Fault",
    "FaultError",
    "FaultList",
    "Tensors",
    "Words",
    "draw",
    "options_of",
    "require_options",
    "select",
]
