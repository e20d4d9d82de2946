"""Running a campaign: from a spec to the rows of all its tasks, and going on after any end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parimend.atomic import PathLike, hidden
from parimend.campaign.facts import Reach
from parimend.campaign.rounds import Unit, units
from parimend.campaign.spec import Spec
from parimend.campaign.stats import Statistics
from parimend.campaign.store import Store, Writer
from parimend.campaign.task import Task
from parimend.errors import CampaignError, WorkerDiedError
from parimend.record import Record

if TYPE_CHECKING:
    from parimend.campaign.engines import Engine

Progress = Callable[[int, int], None]
"""Called with the trials that are done, and with all of those known to be necessary."""

_TRIES = 3
"""Times that workers may die one after the other without a task being done."""


@dataclass(frozen=True, repr=False)
class Status(Record):
    """How far a campaign is.

    Attributes:
        path: of its folder.
        tasks: that are done.
        trials: that are done.
        finished: whether the rows of all tasks are there, and the statistics file of them.
        running: whether a process is probably at work.
        damaged: lines of the rows that do not count, since they are torn or damaged.
        reach: how much of each network is struck and protected; of none before it was loaded.
    """

    path: str
    tasks: int
    trials: int
    finished: bool
    running: bool
    damaged: int
    reach: tuple[Reach, ...]


def run(
    spec: Spec | Mapping[str, Any] | PathLike,
    out: PathLike,
    engine: str | Engine = "local",
    workers: int | None = None,
    progress: Progress = lambda done, known: None,
) -> Status:
    """Run a campaign, or go on with it.

    Whatever ends it, what is done stays, and the same call goes on. Numbers do not depend on
    engine, workers or interruptions.

    Args:
        spec: a `Spec`, the path of a TOML file, or its tables; see docs/campaigns.md.
        out: the folder of the results; made if it is not there.
        engine: ``local``, ``ray``, or one of `parimend.campaign.engines`.
        workers: of the engine; by default all cores.
        progress: told about trials.

    Raises:
        SpecError: if the spec says something that cannot be, which it names, or there is no such
            engine, or ``workers`` is no number of them.
        MismatchError: if the folder is another campaign's, or a network is not what it was.
        BusyError: if another process runs this campaign.
        CampaignError: if a network, a metric or the workers fail.
        FormatError: if the folder is of another version.
        OSError: if something cannot be written.

    Example:
        >>> import tempfile
        >>> from safetensors.numpy import save_file
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "model.safetensors")
        ...     save_file({"w": np.ones(500, np.float32)}, file)
        ...     spec = {
        ...         "networks": {"ones": {"file": str(file)}},
        ...         "protections": {"none": {}, "sidecar": {"errors": 4}},
        ...         "faults": {"flips": {"kind": "bitflip", "count": 4}},
        ...         "stop": {"trials": 30},
        ...     }
        ...     status = run(spec, Path(folder, "out"), workers=1)
        >>> status.trials, status.finished
        (60, True)
    """
    from parimend.campaign.engines import engine_of

    chosen = engine_of(engine, workers)  # before a folder is made
    return _run(Store.make(out, _spec_of(spec)), chosen, progress)


def resume(
    out: PathLike,
    engine: str | Engine = "local",
    workers: int | None = None,
    progress: Progress = lambda done, known: None,
) -> Status:
    """Go on with the campaign of a folder; see `run`."""
    from parimend.campaign.engines import engine_of

    return _run(Store(out), engine_of(engine, workers), progress)


def status(out: PathLike) -> Status:
    """How far a campaign is.

    Raises:
        FormatError: if there is none, or one of another version.
    """
    store = Store(out)
    return _status(store, store.statistics())


def _spec_of(spec: Any) -> Spec:
    if isinstance(spec, Spec):  # put together by hand it may say anything
        return Spec.of(spec.as_dict(), spec.base)
    return Spec.of(spec) if isinstance(spec, Mapping) else Spec.load(spec)


def _status(store: Store, done: Statistics) -> Status:
    trials = _trials(row.task for row in done.rows.values())
    finished, reach = False, tuple[Reach, ...]()
    if store.prepared is not None:
        reach = store.prepared.reach
        # Rows may have been lost since the statistics were written.
        finished = store.has_statistics and not _missing(units(store.spec, store.prepared), done)
    path = str(store.path)
    return Status(path, len(done), trials, finished, store.running, store.damaged, reach)


def _missing(all_units: Sequence[Unit], done: Statistics) -> list[Task]:
    """What the next rounds lack; nothing if there is enough of all."""
    return [task for unit in all_units for task in unit.advance(done)[1]]


def _run(store: Store, engine: Engine, progress: Progress) -> Status:
    from parimend.campaign.preparing import prepare

    with store.writing() as writer, _workspace(store.path) as folder:
        prepared = prepare(store.spec, folder)
        store.note(prepared)
        done = store.statistics()
        every = units(store.spec, prepared)
        with engine.start(folder, store.spec.base):
            _work(every, engine, done, writer, progress)
        store.finish(_wanted(every, done))
    return _status(store, done)


def _work(
    all_units: Sequence[Unit],
    engine: Engine,
    done: Statistics,
    writer: Writer,
    progress: Progress,
) -> None:
    """Do rounds until there is nothing missing."""
    failed = 0
    while missing := _missing(all_units, done):
        known = _trials(row.task for row in done.rows.values())
        total = known + _trials(missing)
        progress(known, total)
        before = len(done)
        try:
            for row in engine.rows(missing):
                writer.add(row)
                done.add_(row)
                known += row.task.stop - row.task.start
                progress(known, total)
        except WorkerDiedError as error:
            failed = 0 if len(done) > before else failed + 1
            if failed == _TRIES:
                raise CampaignError(
                    f"{error} ({_TRIES} times without a task being done; what was done is kept, "
                    "and the campaign can be resumed)"
                ) from error


def _trials(tasks: Iterable[Task]) -> int:
    return sum(task.stop - task.start for task in tasks)


def _wanted(all_units: Sequence[Unit], done: Statistics) -> Statistics:
    """The rows of this campaign's tasks."""
    rounds = ((unit, round_) for unit in all_units for round_ in unit.advance(done)[0])
    return Statistics(done[task] for unit, round_ in rounds for task in unit.tasks(round_))


@contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A new folder for what workers read; what a killed run left is removed, and nothing else."""
    folder = hidden(out / "rows.jsonl", "packed")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
