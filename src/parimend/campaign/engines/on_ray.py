"""A cluster, by Ray (needs the ``ray`` extra)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from parimend.campaign.engines.base import Engine
from parimend.campaign.engines.bench import Bench
from parimend.campaign.stats import Row
from parimend.campaign.task import Task
from parimend.cluster import Cluster, loaded
from parimend.errors import CampaignError, ParimendError


class Ray(Engine):
    """Workers are tasks of a Ray cluster; networks go through its object store, once to each node.

    What a worker needs must be there on every machine: this package, and the modules of the spec in
    the same folder or installed. If a machine is lost, its tasks are done again on others.

    Args:
        workers: tasks that run at once; by default as many as the cluster has cores.
        address: of a cluster; by default the one that this process is connected to, or a new one on
            this machine.

    Raises:
        SpecError: if ``workers`` is no number of them.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self.cluster = Cluster(workers, address)
        self.refs: dict[str, Any] = {}
        self.base = ""

    def start(self, folder: Path, base: Path) -> Self:
        self.cluster.start()
        self.base = str(base)
        for file in sorted(folder.iterdir()):
            self.refs[file.name] = loaded().put(np.fromfile(file, np.uint8))
        return self

    def rows(self, tasks: Sequence[Task]) -> Iterator[Row]:
        shared = self.base, {name: [ref] for name, ref in self.refs.items()}
        try:
            yield from self.cluster.each(_work, shared, tasks)
        except loaded().exceptions.RayTaskError as error:
            if isinstance(error.cause, ParimendError):
                raise CampaignError(str(error.cause)) from error
            raise

    def stop(self) -> None:
        self.refs = {}
        self.cluster.stop()


def _work(shared: tuple[str, dict[str, list[Any]]], task: Task) -> Row:
    base, refs = shared
    return _bench(base, _Refs(refs)).work(task)


class _Refs:
    """References by name; equal if they are the same, so that a worker keeps what it opened."""

    def __init__(self, refs: dict[str, list[Any]]) -> None:
        self.refs = refs
        self.names = tuple((name, ref[0].hex()) for name, ref in sorted(refs.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Refs) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __call__(self, name: str) -> io.BytesIO:
        return io.BytesIO(loaded().get(self.refs[name][0]).data)


@lru_cache(maxsize=1)
def _bench(base: str, refs: _Refs) -> Bench:
    return Bench(refs, base)
