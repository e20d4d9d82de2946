"""Who looks at several files: one after the other, some at the same time, or other machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Self, TypeVar, get_args

from parimend.arguments import require, workers_of
from parimend.cluster import Cluster, EngineName
from parimend.cores import cores
from parimend.errors import ParimendError, SpecError

R = TypeVar("R")
Look = Callable[[Path], R]
Attempt = tuple[int, R | ParimendError | OSError]
"""The number of a path, and what a look at it gives, or the exception that says why nothing."""


class Engine(ABC):
    """Looks at files, used as a context. What is found does not depend on who looks."""

    cluster: Cluster | None = None
    """The machines that look, if it is not this one; they cannot tell how far they are."""

    def __enter__(self) -> Self:
        if self.cluster:
            self.cluster.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.cluster:
            self.cluster.stop()

    @abstractmethod
    def threads(self, files: int) -> int:
        """The threads that a look at one of so many files may take."""

    @abstractmethod
    def each(self, look: Look[R], paths: Sequence[Path]) -> Iterator[Attempt[R]]:
        """Look at every path, in any order."""


class Threads(Engine):
    """Threads of this process; with one worker, one file after the other.

    Sums, hashing and reading do not hold the interpreter's lock, and threads need no time to start.
    """

    def __init__(self, workers: int | None) -> None:
        self.cores = cores()
        self.workers = workers_of(workers) or self.cores

    def threads(self, files: int) -> int:
        return max(1, self.cores // max(1, min(self.workers, files)))

    def each(self, look: Look[R], paths: Sequence[Path]) -> Iterator[Attempt[R]]:
        if self.workers == 1 or len(paths) == 1:
            yield from (_attempt(look, task) for task in enumerate(paths))
            return
        with ThreadPoolExecutor(self.workers) as pool:
            todo = [pool.submit(_attempt, look, task) for task in enumerate(paths)]
            try:
                yield from (done.result() for done in as_completed(todo))
            finally:
                pool.shutdown(cancel_futures=True)


class Machines(Engine):
    """Tasks of a Ray cluster, on whose machines the files have the same paths."""

    cluster: Cluster

    def __init__(self, workers: int | None) -> None:
        self.cluster = Cluster(workers)

    def threads(self, files: int) -> int:
        return 1  # the core that a task has

    def each(self, look: Look[R], paths: Sequence[Path]) -> Iterator[Attempt[R]]:
        return self.cluster.each(_attempt, look, enumerate(path.absolute() for path in paths))


def engine_of(name: str, workers: int | None) -> Engine:
    """An engine, by its name.

    Args:
        name: one of `EngineName`.
        workers: files that are looked at at the same time; by default one for each core.

    Raises:
        SpecError: if there is none of that name, or workers are no number of them.
    """
    require(name, "engine", "a name", str)
    if name not in get_args(EngineName):
        raise SpecError(f"unknown engine {name!r}: there are {', '.join(get_args(EngineName))}")
    return Machines(workers) if name == "ray" else Threads(workers)


def _attempt(look: Look[R], task: tuple[int, Path]) -> Attempt[R]:
    number, path = task
    try:
        return number, look(path)
    except (ParimendError, OSError) as error:
        return number, error
