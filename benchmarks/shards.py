"""Checking a folder of shards: one after the other, and several at a time.

    python benchmarks/shards.py [--shards 20] [--megabytes 40] [--errors 210] [--workers 2]
                                [--rounds 9] [--folder FOLDER]

Writes Markdown: the time to check all of them, clean and with a wrong word in each, the best of
some rounds in which they take turns: by the few sums that a check compares, and by SHA-256, as
small files are checked by a command that has just been started. "One core" is one worker on one
core; one worker on all cores shares the work on a large file among them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.numpy

from parimend import check_file, protect_file
from parimend.files import checking

ALL = os.sched_getaffinity(0)


def make(folder: Path, shards: int, megabytes: float, errors: int) -> None:
    rng = np.random.default_rng(0)
    shape = 10, int(megabytes * 25_000)
    for number in range(1, shards + 1):
        values = rng.standard_normal(shape, dtype=np.float32)
        arrays = {f"{number}.{row}": values[row] for row in range(10)}
        safetensors.numpy.save_file(arrays, folder / f"m-{number:05}-of-{shards:05}.safetensors")
    protect_file(folder, errors)


def hurt(folder: Path) -> None:
    """Flip a bit of the last word of every shard."""
    for path in folder.glob("*.safetensors"):
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            [last] = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))


def seconds(do: Callable[[], object], cores: Sequence[int]) -> float:
    os.sched_setaffinity(0, cores)
    began = time.perf_counter()
    do()
    took = time.perf_counter() - began
    os.sched_setaffinity(0, ALL)
    return took


def row(what: str, check: Callable[[int], object], workers: int, rounds: int) -> str:
    ways = {
        "one core": (partial(check, 1), sorted(ALL)[:1]),
        "one worker": (partial(check, 1), sorted(ALL)),
        "workers": (partial(check, workers), sorted(ALL)),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best[name], seconds(*way))
    shown = " | ".join(f"{best[name]:.3f} s" for name in ways)
    gain = " | ".join(f"{best[name] / best['workers']:.2f}" for name in ("one core", "one worker"))
    return f"| {what} | {shown} | {gain} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where to make them; a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        make(folder, given.shards, given.megabytes, given.errors)

        def check(workers: int) -> None:
            check_file(folder, workers=workers)

        def hash_(workers: int) -> None:
            known, checking.kernels.loaded = checking.kernels.loaded, lambda: False
            check(workers)
            checking.kernels.loaded = known

        print(f"| {given.shards} x {given.megabytes:g} MB | one core | one worker | ", end="")
        print(f"{given.workers} workers | x one core | x one worker |")
        print("|---|---|---|---|---|---|")
        check(1)
        print(row("clean, sums", check, given.workers, given.rounds), flush=True)
        if given.shards * given.megabytes < checking._HASHED / 1e6:
            print(row("clean, SHA-256", hash_, given.workers, given.rounds), flush=True)
        hurt(folder)
        print(row("a wrong word in each", check, given.workers, given.rounds), flush=True)


if __name__ == "__main__":
    main()
