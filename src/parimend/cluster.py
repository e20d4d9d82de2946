"""Work on the machines of a Ray cluster (needs the ``ray`` extra)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Self, TypeVar

from parimend.arguments import workers_of
from parimend.errors import SpecError, WorkerDiedError

T = TypeVar("T")
R = TypeVar("R")
EngineName = Literal["local", "ray"]
"""Who does work: this machine, or those of a cluster."""

_AHEAD = 2  # tasks for each worker, so that none waits for tasks
_RETRIES = 8
_RETRY_SECONDS = 1.0


class Cluster:
    """A Ray cluster, between `start` and `stop`.

    If a machine is lost, its tasks are done again on others.
    What a worker needs must be there on every machine, this package too.

    Args:
        workers: tasks that run at once; by default as many as the cluster has cores.
        address: of a cluster; by default the one that this process is connected to, or a new one on
            this machine.

    Raises:
        SpecError: if ``workers`` is no number of them.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self.workers, self.address = workers_of(workers), address
        self._own = False

    def start(self) -> Self:
        """Connect, or start one.

        Raises:
            SpecError: if Ray is not installed.
        """
        ray = loaded()
        if not ray.is_initialized():
            cores = self.workers if self.address is None else None
            ray.init(
                address=self.address, num_cpus=cores, include_dashboard=False, log_to_driver=False
            )
            self._own = True
        return self

    def stop(self) -> None:
        """End what was started."""
        if self._own:
            loaded().shutdown()
            self._own = False

    def each(self, work: Callable[[Any, T], R], shared: Any, tasks: Iterable[T]) -> Iterator[R]:
        """What a function makes of every task, in any order, as they are done.

        Args:
            work: called with ``shared`` and a task.
            shared: goes to every machine once.
            tasks: what is to be done.

        Raises:
            WorkerDiedError: if a machine or a worker is lost, and tasks with it.
            Exception: what the function raises, as `ray.exceptions.RayTaskError`.
        """
        ray = loaded()
        remote = ray.remote(max_retries=_RETRIES)(work)
        shipped = ray.put(shared)
        waiting: list[T] = list(reversed([*tasks]))
        running: list[Any] = []
        try:
            while waiting or running:
                while waiting and len(running) < self._most():
                    running.append(remote.remote(shipped, waiting.pop()))
                done, running = ray.wait(running, timeout=_RETRY_SECONDS)
                yield from (_result(each) for each in done)
        finally:
            for each in running:
                ray.cancel(each, force=False)

    def _most(self) -> int:
        cores = int(loaded().cluster_resources().get("CPU", 1))
        return _AHEAD * max(1, min(self.workers or cores, cores))


def loaded() -> Any:
    """Ray.

    Raises:
        SpecError: if it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise SpecError(
            "the engine ray needs Ray: pip install 'parimend[ray]', or take the engine local"
        ) from None
    return ray


def _result(reference: Any) -> Any:
    ray = loaded()
    try:
        return ray.get(reference)
    except (ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError) as error:
        raise WorkerDiedError(f"a worker of the cluster died: {error}") from error
    except (ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError) as error:
        raise WorkerDiedError(f"a machine of the cluster was lost: {error}") from error
