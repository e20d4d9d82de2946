"""What a campaign costs beyond the bare loop of damage, repair and evaluation.

    python benchmarks/campaign.py
    python benchmarks/campaign.py --engine ray

Two networks: one that evaluates in milliseconds, for the throughput, and bare weights without a
metric, whose trials take next to nothing, for the overhead of a task. Bare loops and campaigns take
turns, each with the same number of processes and one thread in each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.numpy import save_file

from parimend.campaign import Spec, Store, run
from parimend.campaign.engines import Local, Ray
from parimend.campaign.engines.bench import Bench
from parimend.campaign.preparing import prepare
from parimend.campaign.rounds import units
from parimend.campaign.stats import Statistics


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(784, 512), torch.nn.LeakyReLU(), torch.nn.Linear(512, 10)
    )


def pictures():
    torch.manual_seed(1)
    return torch.rand(2000, 784)


def sameness(model, data):
    return float((model(data).argmax(1) == 0).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`\n")
    with tempfile.TemporaryDirectory() as folder:
        _throughput(args, Path(folder))
        _overhead(args, Path(folder))


def _engine(args):
    return Local(args.workers) if args.engine == "local" else Ray(args.workers)


def _throughput(args, folder: Path) -> None:
    """A campaign against bare loops in as many processes, in turns."""
    spec = Spec.of(
        {
            "networks": {
                "net": {
                    "build": "campaign:network",
                    "data": "campaign:pictures",
                    "metric": "campaign:sameness",
                }
            },
            "protections": {"none": {}},
            "faults": {"flips": {"kind": "bitflip", "count": 20}},
            "stop": {"trials": args.trials},
            "block": 10,
        },
        Path(__file__).parent,
    )
    packed = folder / "packed"
    packed.mkdir()
    tasks = [t for u in units(spec, prepare(spec, packed)) for t in u.advance(Statistics())[1]]
    bare, whole = [], []
    with _engine(args).start(packed, spec.base) as engine:
        list(engine.rows(tasks[: 4 * args.workers]))  # start the workers
        for _ in range(args.repeats):
            bare.append(_bare(packed, spec, tasks, args.workers))
            began = time.perf_counter()
            store = Store.make(folder / f"out{len(whole)}", spec)
            with store.writing() as writer:
                for row in engine.rows(tasks):
                    writer.add(row)
            whole.append(time.perf_counter() - began)
    rates = [args.trials / median(each) for each in (bare, whole)]
    share = median(a / b for a, b in zip(bare, whole, strict=True))
    print(f"bare loop     {rates[0]:8.1f} trials/s on {args.workers} processes")
    print(f"campaign      {rates[1]:8.1f} trials/s, {share:.1%} (median of {args.repeats} turns)")


def _bare(packed: Path, spec: Spec, tasks, workers: int) -> float:
    """Seconds that the slowest of some processes takes for its part, without its start."""
    context = multiprocessing.get_context("spawn")
    seconds = context.Queue()
    parts = [
        context.Process(target=_loop, args=(packed, spec.base, tasks[i::workers], seconds))
        for i in range(workers)
    ]
    for part in parts:
        part.start()
    found = [seconds.get() for _ in parts]
    for part in parts:
        part.join()
    return max(found)


def _loop(packed: Path, base: Path, tasks, seconds) -> None:
    bench = Bench(lambda name: packed / name, str(base))
    bench.work(tasks[0])
    began = time.perf_counter()
    for task in tasks:
        bench.work(task)
    seconds.put(time.perf_counter() - began)


def _overhead(args, folder: Path) -> None:
    """Tasks of one trial that does next to nothing."""
    save_file({"w": np.zeros(10, np.float32)}, folder / "w.safetensors")
    spec = {
        "networks": {"weights": {"file": str(folder / "w.safetensors")}},
        "protections": {"none": {}},
        "faults": {"flip": {"kind": "bitflip", "count": 1}},
        "stop": {"trials": 2000},
        "block": 1,
    }
    began = time.perf_counter()
    run({**spec, "stop": {"trials": 1}}, folder / "one", engine=_engine(args))
    start = time.perf_counter() - began
    began, busy = time.perf_counter(), time.process_time()
    run(spec, folder / "many", engine=_engine(args))
    task = (time.perf_counter() - began - start) / 2000
    here = (time.process_time() - busy) / 2000
    print(
        f"a task        {1e3 * task:8.2f} ms beyond its trials, {1e3 * here:.2f} ms of processor "
        f"time of the process that deals tasks out; {start:.1f} s to start"
    )


if __name__ == "__main__":
    main()
