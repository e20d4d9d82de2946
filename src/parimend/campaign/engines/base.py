"""What an engine is: something that does tasks, somewhere, in some order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

from parimend.campaign.stats import Row
from parimend.campaign.task import Task


class Engine(ABC):
    """Does tasks. It never changes a number: these depend on the tasks alone.

    It is used as a context, which starts and ends what it needs.
    """

    name: ClassVar[str]

    @abstractmethod
    def rows(self, tasks: Sequence[Task]) -> Iterator[Row]:
        """The rows of the tasks, in any order, as they are done.

        Raises:
            WorkerDiedError: if a worker died.
            CampaignError: if a trial fails; names it.
        """

    @abstractmethod
    def start(self, folder: Path, base: Path) -> Self:
        """Make ready.

        Args:
            folder: of what was packed for the workers.
            base: the folder of the spec.
        """

    @abstractmethod
    def stop(self) -> None:
        """End what was started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
