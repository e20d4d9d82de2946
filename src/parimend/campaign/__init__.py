"""Campaigns: many seeded faults, under several protections, with statistics that hold.

A *task* is some trials of one network under one protection and one kind of fault, frozen and named
by its content. Its *row* says what came of them. A campaign is done when all rows are there,
whoever made them: so it can be interrupted at any moment, run on many machines, and added to
others.
"""

from parimend.campaign.facts import Fact, Prepared, Reach
from parimend.campaign.filed import filled
from parimend.campaign.reporting import Comparison, Line, compare, confidence_of, lines
from parimend.campaign.running import Status, resume, run, status
from parimend.campaign.spec import Source, Spec, Stop, Strata
from parimend.campaign.stats import Row, Statistics
from parimend.campaign.store import Store
from parimend.campaign.task import Setting, Stratum, Task

__all__ = [
    "Comparison",
    "Fact",
    "Line",
    "Prepared",
    "Reach",
    "Row",
    "Setting",
    "Source",
    "Spec",
    "Statistics",
    "Status",
    "Stop",
    "Store",
    "Strata",
    "Stratum",
    "Task",
    "compare",
    "confidence_of",
    "filled",
    "lines",
    "resume",
    "run",
    "status",
]
