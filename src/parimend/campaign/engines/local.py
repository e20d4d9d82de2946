"""Processes on this machine: joblib's, which are robust against workers that die."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from parimend.arguments import workers_of
from parimend.campaign.engines.base import Engine
from parimend.campaign.engines.bench import Bench
from parimend.campaign.stats import Row
from parimend.campaign.task import Task
from parimend.cores import cores
from parimend.errors import WorkerDiedError

_AHEAD = 4  # tasks that wait for each worker, so that none waits for tasks
_LOOK_SECONDS = 1.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


class Local(Engine):
    """Workers are processes; with one worker, this process itself.

    Args:
        workers: number of them; by default one for each core.

    Raises:
        SpecError: if ``workers`` is no number of them.
    """

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers_of(workers) or cores()
        self.folder = self.base = ""
        self.pool: Any = None

    def start(self, folder: Path, base: Path) -> Self:
        self.folder, self.base = str(folder), str(base)
        return self

    def rows(self, tasks: Sequence[Task]) -> Iterator[Row]:
        where = (self.folder, self.base)
        if self.workers == 1:
            yield from (_work(*where, task) for task in tasks)
            return
        from joblib.externals.loky import ProcessPoolExecutor

        if self.pool is None:
            self.pool = ProcessPoolExecutor(
                self.workers, env=_ONE_THREAD, initializer=_begin, initargs=(os.getpid(),)
            )
        waiting, running = deque(tasks), set[Future[Row]]()
        try:
            while waiting or running:
                while waiting and len(running) < _AHEAD * self.workers:
                    running.add(self.pool.submit(_work, *where, waiting.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done if each.exception() is None)
                for failed in done:
                    failed.result()
        except BrokenExecutor as error:
            self.pool = None
            raise WorkerDiedError(
                "a worker died, perhaps killed for want of memory: take fewer workers"
            ) from error
        finally:
            # Of workers that are gone, too, nobody ever tells that what is cancelled has ended.
            wait([each for each in running if not each.cancel()])

    def stop(self) -> None:
        _bench.cache_clear()
        if self.pool is not None:
            self.pool.shutdown(wait=True)
            self.pool = None


def _begin(parent: int) -> None:
    """Prepare a worker, before it waits for tasks."""
    from joblib.externals.loky import process_executor

    # Workers that grow by 300 MB are taken to leak, and ended; networks and compilers do grow.
    process_executor._MAX_MEMORY_LEAK_SIZE = math.inf
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Workers of a process that was killed would wait for tasks for ever."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _work(folder: str, base: str, task: Task) -> Row:
    return _bench(folder, base).work(task)


@lru_cache(maxsize=1)
def _bench(folder: str, base: str) -> Bench:
    return Bench(lambda name: Path(folder, name), base)
