"""Processes on this machine, by joblib."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

from parimend.campaign.engines.base import Engine, WorkerDiedError
from parimend.campaign.engines.bench import Bench
from parimend.campaign.stats import Row
from parimend.campaign.task import Task

_AHEAD = 4  # tasks that wait for each worker, so that none waits for tasks
_LOOK_SECONDS = 1.0


class Local(Engine):
    """Workers are processes; with one worker, this process itself.

    Args:
        workers: number of them; by default one for each core.
    """

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self.folder = self.base = ""

    def start(self, folder: Path, base: Path) -> Self:
        self.folder, self.base = str(folder), str(base)
        return self

    def rows(self, tasks: Sequence[Task]) -> Iterator[Row]:
        if self.workers == 1:
            yield from (_work(self.folder, self.base, os.getpid(), task) for task in tasks)
            return
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        parallel = Parallel(
            n_jobs=self.workers,
            return_as="generator_unordered",
            pre_dispatch=_AHEAD * self.workers,
            batch_size=1,
        )
        work = delayed(_work)
        try:
            yield from parallel(work(self.folder, self.base, os.getpid(), task) for task in tasks)
        except TerminatedWorkerError as error:
            raise WorkerDiedError(
                "a worker died, perhaps killed for want of memory: take fewer workers"
            ) from error

    def stop(self) -> None:
        _bench.cache_clear()


def _work(folder: str, base: str, parent: int, task: Task) -> Row:
    return _bench(folder, base, parent).work(task)


@lru_cache(maxsize=1)
def _bench(folder: str, base: str, parent: int) -> Bench:
    if os.getpid() != parent:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return Bench(lambda name: Path(folder, name), base)


def _end_with(parent: int) -> None:
    """Workers of a process that was killed would wait for tasks for ever."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
