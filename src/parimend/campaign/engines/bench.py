"""What a worker does, whatever started it: opens what was packed, and does tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from parimend.campaign.networks import Metric
from parimend.campaign.preparing import packed_name
from parimend.campaign.protections import blaming, protection_of
from parimend.campaign.stats import Row
from parimend.campaign.subject import Subject
from parimend.campaign.task import Task
from parimend.errors import CampaignError

_SUBJECTS = 4  # that a worker keeps at hand


class Bench:
    """Does tasks; each protected network and each data set is opened once.

    Args:
        fetch: from the name of a packed file to its path, which is memory-mapped, or to the file.
        base: the folder of the spec, where modules are looked for.
    """

    def __init__(self, fetch: Callable[[str], Any], base: str) -> None:
        self.fetch, self.base = fetch, Path(base)
        if base not in sys.path:
            sys.path.append(base)
        self._data = lru_cache(maxsize=_SUBJECTS)(lambda network: self._load(packed_name(network)))
        self._subject = lru_cache(maxsize=_SUBJECTS)(self._open_subject)

    def work(self, task: Task) -> Row:
        """Do a task.

        Raises:
            CampaignError: if a trial fails; names it.
        """
        network, protection = task.network, task.protection
        with blaming(protection, f"{network} under {protection.name}"):
            subject = self._subject(network, protection.name)
        return subject.work(task)

    def _open_subject(self, network: str, protection: str) -> Subject:
        name = packed_name(network, protection)
        packed, intact = self._load(name), self._load(name)["model"]
        setting = packed["protection"]
        packed["protection"] = protection_of(setting, f"[protections.{setting.name}]", self.base)
        if packed["metric"]:
            packed["metric"] = Metric(packed["metric"], self.base, self._data(network))
        try:
            return Subject(**packed, intact=intact)
        except CampaignError as error:
            raise CampaignError(f"{network} under {protection}: {error}") from error

    def _load(self, name: str) -> Any:
        file = self.fetch(name)
        # Mapped privately: workers share the pages that damage does not strike. Where a name is no
        # text (not UTF-8), torch cannot.
        mapped = isinstance(file, Path) and str(file).isprintable()
        return torch.load(file, mmap=mapped, weights_only=False)
