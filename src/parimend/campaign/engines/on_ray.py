"""A cluster, by Ray (needs the ``ray`` extra)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from parimend.campaign.engines.base import Engine, WorkerDiedError
from parimend.campaign.engines.bench import Bench
from parimend.campaign.stats import Row
from parimend.campaign.task import Task
from parimend.errors import CampaignError, ParimendError

_AHEAD = 2
_RETRIES = 8
_RETRY_SECONDS = 1.0


class Ray(Engine):
    """Workers are tasks of a Ray cluster; networks go through its object store, once to each node.

    What a worker needs must be there on every machine: this package, and the modules of the spec in
    the same folder or installed. If a machine is lost, its tasks are done again on others.

    Args:
        workers: tasks that run at once; by default as many as the cluster has cores.
        address: of a cluster; by default the one that this process is connected to, or a new one on
            this machine.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self.workers, self.address = workers, address
        self.refs: dict[str, Any] = {}
        self.base, self.own = "", False

    def start(self, folder: Path, base: Path) -> Self:
        ray = _ray()
        if not ray.is_initialized():
            cores = self.workers if self.address is None else None
            ray.init(
                address=self.address, num_cpus=cores, include_dashboard=False, log_to_driver=False
            )
            self.own = True
        self.base = str(base)
        for file in sorted(folder.iterdir()):
            self.refs[file.name] = ray.put(np.fromfile(file, np.uint8))
        return self

    def rows(self, tasks: Sequence[Task]) -> Iterator[Row]:
        ray = _ray()
        remote = ray.remote(max_retries=_RETRIES)(_work)
        shipped = ray.put((self.base, {name: [ref] for name, ref in self.refs.items()}))
        waiting: list[Task] = list(reversed(tasks))
        running: list[Any] = []
        try:
            while waiting or running:
                while waiting and len(running) < self._most():
                    running.append(remote.remote(shipped, waiting.pop()))
                done, running = ray.wait(running, timeout=_RETRY_SECONDS)
                yield from (self._result(each) for each in done)
        finally:
            for each in running:
                ray.cancel(each, force=False)

    def stop(self) -> None:
        self.refs = {}
        if self.own:
            _ray().shutdown()

    def _most(self) -> int:
        cores = int(_ray().cluster_resources().get("CPU", 1))
        return _AHEAD * max(1, min(self.workers or cores, cores))

    def _result(self, reference: Any) -> Row:
        ray = _ray()
        try:
            row: Row = ray.get(reference)
            return row
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ParimendError):
                raise CampaignError(str(error.cause)) from error
            raise
        except (ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError) as error:
            raise WorkerDiedError(f"a worker of the cluster died: {error}") from error
        except (ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError) as error:
            raise WorkerDiedError(f"a machine of the cluster was lost: {error}") from error


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise CampaignError(
            "the engine ray needs Ray: pip install 'parimend[ray]', or take the engine local"
        ) from None
    return ray


def _work(shipped: tuple[str, dict[str, list[Any]]], task: Task) -> Row:
    base, refs = shipped
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
        return io.BytesIO(_ray().get(self.refs[name][0]).data)


@lru_cache(maxsize=1)
def _bench(base: str, refs: _Refs) -> Bench:
    return Bench(refs, base)
