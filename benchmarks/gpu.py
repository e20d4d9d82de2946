"""Weights on a GPU: what it costs to protect, check and repair them there, and to guard layers.

    python benchmarks/gpu.py [--gigabytes 14] [--out gpu.json] [--only large many] [--shapes]
    python benchmarks/gpu.py --device cpu --gigabytes 0.0001     # the same, small, interpreted

Every step is on its own, with a limit of time: what fails or takes too long is said so, and the
next one goes on. Results are written after each. The first compares the kernels on this card with
the processor. Bandwidths are of the weights, read once; beside them, in the same run, what
`torch.sum` and `torch.hash_tensor` read and what a copy to the host and its SHA-256 take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

if "TRITON_INTERPRET" not in os.environ:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is loaded

import numpy as np
import torch
from gpu_guards import HOW, Guards, ready
from rich.console import Console
from rich.table import Table
from training import VARIANTS, Run, fnn, wrn

import parimend as pm
from parimend.codes import PowerSums, sums_for
from parimend.demo import Network
from parimend.kernels import power_torch, power_triton, stream_triton
from parimend.words.bits import byte_view, words_of

ROUNDS = 7
DTYPES = (torch.bfloat16, torch.float32, torch.int8, torch.float64, torch.float8_e4m3fn, torch.bool)
LAYER = ((4096, 4096),) * 4 + ((11008, 4096),) * 3 + ((4096,),) * 2
"""Shapes of one of 32 layers of a language model with 6.7 billion weights."""
EMBEDDINGS = ((32000, 4096), (4096,), (32000, 4096))


class OverTime(BaseException):
    """A step has had its time; no exception that a step would catch."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise OverTime(f"over {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, where nobody may be interrupted
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def heals(run: Run) -> bool:
    """Whether training that heals sees a flipped bit, and puts it back."""
    weight = list(run.model.parameters())[-1].detach()
    before = weight.clone()
    weight.view(torch.int32)[0] ^= 1 << 30
    return bool(run.hooks[-1].check_()) and torch.equal(weight, before)


class Bench:
    """Timed steps on one device."""

    def __init__(self, device: str, gigabytes: float, errors: int, out: Path | None) -> None:
        self.device, self.errors, self.out = torch.device(device), errors, out
        self.bytes = int(gigabytes * 1e9) // 64 * 64
        self.is_gpu = self.device.type == "cuda"
        self.results: dict[str, dict[str, Any]] = {
            "card": {
                "name": torch.cuda.get_device_name() if self.is_gpu else "interpreter",
                "torch": torch.__version__,
            }
        }
        self.found: dict[str, Any] = {}  # of the step that runs, should its time run out

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], rounds: int = ROUNDS) -> float:
        """Median, after one call that does not count."""
        rounds = rounds if self.is_gpu else 1
        work()
        times = []
        for _ in range(rounds):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def step(self, name: str, seconds: float, work: Callable[[], dict[str, Any]]) -> None:
        began = time.perf_counter()
        self.found = {}
        try:
            with limit(seconds):
                found = work()
        except (Exception, OverTime):
            found = self.found | {"failed": traceback.format_exc(limit=-3)}
        self.results[name] = found | {"took": round(time.perf_counter() - began, 2)}
        print(name, json.dumps(self.results[name]), flush=True)
        if self.out:
            self.out.write_text(json.dumps(self.results, indent=1))
        if self.is_gpu:
            torch.cuda.empty_cache()

    def weights(self, shapes: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """Random weights in bfloat16."""
        torch.manual_seed(0)
        return {
            f"w{i}": torch.randn(shape, device=self.device, dtype=torch.bfloat16)
            for i, shape in enumerate(shapes)
        }

    def large(self) -> dict[str, torch.Tensor]:
        """All of them in seven tensors."""
        return self.weights([(self.bytes // 14,)] * 7)

    def many(self) -> dict[str, torch.Tensor]:
        """All of them in 291 tensors, with the proportions of a language model."""
        shapes = list(EMBEDDINGS) + 32 * list(LAYER)
        scale = self.bytes / 2 / sum(math.prod(shape) for shape in shapes)
        return self.weights([(max(round(math.prod(shape) * scale), 1),) for shape in shapes])

    def plain(self, weights: dict[str, torch.Tensor]) -> dict[str, float]:
        """Seconds of plain reads."""
        tensors = list(weights.values())
        found = {
            "torch.sum": lambda: [t.sum() for t in tensors],
            "torch.sum of int16": lambda: [t.view(torch.int16).sum() for t in tensors],
        }
        if hasattr(torch, "hash_tensor"):
            found["torch.hash_tensor"] = lambda: [torch.hash_tensor(t) for t in tensors]
        return {name: self.seconds(work) for name, work in found.items()}

    def kernels(self) -> dict[str, Any]:
        """Sums on the device are those of the processor, bit for bit."""
        sizes = (1, 1000, 262_145, 3_000_001) if self.is_gpu else (600,)
        counts = (2, 4, 20, 424, 2000) if self.is_gpu else (4, 6)
        wrong, tried = [], 0
        rng = np.random.default_rng(0)
        for size, count, (i, dtype) in product(sizes, counts, enumerate(DTYPES)):
            data = rng.integers(0, 2 if dtype is torch.bool else 256, 8 * size + 64, np.uint8)
            data[: len(data) // 3] = 1 if dtype is torch.bool else 255
            offset, start = (0, 3, 8)[i % 3], (0, 16, 48)[i // 2 % 3]  # the first, of elements
            elements = torch.from_numpy(data).view(dtype)[: size + offset]
            words = words_of(byte_view(elements[offset:]))
            code = PowerSums(start + len(words), count, seed=size)
            right = code.accumulate(code.zeros(), words, start)
            there = elements.to(self.device)[offset:]
            for kernel in (power_triton, power_torch):
                found = kernel.sums_of(code.places, count, [(there, start)])
                tried += 1
                if not np.array_equal(found, right):
                    wrong.append(f"{kernel.__name__} {dtype} {size} from {offset}, {count} sums")
        return {
            "equal": f"{tried - len(wrong)} of {tried}",
            "triton": power_triton.works(self.device),
            "wrong": wrong[:5],
        }

    def agree(self, carrier: str) -> dict[str, Any]:
        """Whether a carrier gives the same seal and the same repair as on the CPU."""
        weights = torch.randn(640, 512, generator=torch.Generator().manual_seed(0))
        here, there = {"w": weights.clone()}, {"w": weights.clone().to(self.device)}
        seals = [pm.protect_(model, 20, carrier=carrier) for model in (here, there)]
        same = seals[0].to_bytes() == seals[1].to_bytes()
        clean = pm.check(there, seals[0]).verdict is pm.Verdict.CLEAN
        flat = there["w"].view(torch.int32).view(-1)
        flat[torch.arange(20, device=self.device) * 5000] ^= 1 << 27
        seen = pm.check(there, seals[0]).verdict is pm.Verdict.CORRECTABLE
        pm.repair_(there, seals[0])
        right = torch.equal(there["w"].cpu(), here["w"])
        return {"seal": same, "clean": clean, "seen": seen, "repaired": right}

    def sums(self) -> dict[str, Any]:
        """A few sums of everything, all sums of 1 GB, without anything around them."""
        weights = self.large()
        size = 2 * sum(t.numel() for t in weights.values())
        plain = self.plain(weights)
        found = {f"{name} GB/s": round(size / took / 1e9, 1) for name, took in plain.items()}
        pieces, start = [], 0
        for tensor in weights.values():
            pieces.append((tensor, start))
            start += -(-tensor.numel() // 32) * 16
        code = sums_for(start, self.errors)
        few, every = code.parts
        for name, kernel in (("triton", power_triton), ("torch", power_torch)):
            some = pieces if name == "triton" else pieces[:1]
            took = self.seconds(
                lambda some=some, kernel=kernel: kernel.sums_of(few.places, few.m, some)
            )
            there = size * len(some) // len(pieces)
            found[f"few, {name}, GB/s"] = round(there / took / 1e9, 1)
            one = [(pieces[0][0][: min(500_000_000, len(pieces[0][0]))], 0)]
            took = self.seconds(
                lambda one=one, kernel=kernel: kernel.sums_of(every.places, every.m, one), 3
            )
            found[f"all, {name}, ms of {2e-9 * one[0][0].numel():.3g} GB"] = round(1e3 * took, 2)
        best = found["few, triton, GB/s"] / max(v for k, v in found.items() if "torch.sum" in k)
        return found | {"few of torch.sum": round(best, 3)}

    def shapes(self) -> dict[str, Any]:
        """The kernel of a few sums, with other shapes of its work."""
        (tensor,) = self.weights([(min(self.bytes, 4 << 30) // 2,)]).values()
        pieces = [(tensor.view(torch.uint8), 0)]
        points = sums_for(-(-tensor.numel() // 32) * 16, self.errors).parts[0].places
        names = ("WIDTH", "ROWS", "_WARPS", "_ITEMS")
        before = [getattr(stream_triton, name) for name in names]
        found = {}
        try:
            for values in product((256, 512, 1024), (256, 512, 1024), (4, 8), (0,)):
                if not 2 <= values[0] // (32 * values[2]) <= 4:
                    continue  # words of a row for a thread
                for name, value in zip(names, values, strict=True):
                    setattr(stream_triton, name, value)
                stream_triton._tables.cache_clear()
                took = self.seconds(lambda: stream_triton.Prepared(points, pieces).start(), 5)
                found[" ".join(map(str, values[:3]))] = round(2 * tensor.numel() / took / 1e9, 1)
        finally:
            for name, value in zip(names, before, strict=True):
                setattr(stream_triton, name, value)
            stream_triton._tables.cache_clear()
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def model(self, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Protect, check and repair, proven by sums; and with SHA-256 where that is asked for."""
        size = 2 * sum(t.numel() for t in weights.values())
        plain = min(self.plain(weights).values())
        found: dict[str, Any] = {"bytes": size, "tensors": len(weights)}
        found["torch.sum GB/s"] = round(size / plain / 1e9, 1)
        self.wait()
        began = time.perf_counter()
        by_sums = pm.Sidecar(digest=False)
        seal = pm.protect_(weights, self.errors, by_sums)
        found["protect, first, ms"] = round(1e3 * (time.perf_counter() - began), 1)
        protect = self.seconds(lambda: pm.protect_(weights, self.errors, by_sums), 3)
        found["protect ms"] = round(1e3 * protect, 1)
        base = torch.cuda.memory_allocated() if self.is_gpu else 0
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        check = self.seconds(lambda: pm.check(weights, seal))
        found["check ms"] = round(1e3 * check, 3)
        found["check GB/s"] = round(size / check / 1e9, 1)
        found["check of torch.sum"] = round(plain / check, 3)
        if self.is_gpu:
            found["extra MiB"] = round((torch.cuda.max_memory_allocated() - base) / 2**20, 1)
        flat = max(weights.values(), key=torch.numel).view(torch.int16).view(-1)
        where = torch.randperm(len(flat) // 2)[: self.errors].to(self.device) * 2
        good = flat[where].clone()
        times, right = [], 0
        rounds = 3 if self.is_gpu else 1
        for _ in range(rounds):
            flat[where] ^= 1 << 9
            self.wait()
            began = time.perf_counter()
            report = pm.repair_(weights, seal)
            times.append(time.perf_counter() - began)
            right += bool(report.verdict is pm.Verdict.CORRECTED and (flat[where] == good).all())
        found["repair ms"] = round(1e3 * statistics.median(times), 1)
        found["repaired"] = f"{right} of {rounds}"
        return found

    def host(self) -> dict[str, Any]:
        """A copy to the host and its SHA-256, and what a seal and a proof with it take."""
        weights = torch.randn(min(self.bytes // 2, 250_000_000), device=self.device).bfloat16()
        size = 2 * weights.numel()
        took = self.seconds(
            lambda: hashlib.sha256(weights.view(torch.uint8).cpu().numpy()).digest(), 1
        )
        protect = self.seconds(lambda: pm.protect_({"w": weights}, self.errors), 1)
        return {"GB/s": round(size / took / 1e9, 2), "protect GB/s": round(size / protect / 1e9, 2)}

    def scrubber(self) -> dict[str, Any]:
        """A serving loop beside a scrubber of all weights, and how much that one reads."""
        weights = self.large()
        seal = pm.protect_(weights, self.errors, pm.Sidecar(digest=False))
        width, batch, seconds, rounds = (4096, 256, 0.25, 12) if self.is_gpu else (64, 8, 0.01, 2)
        layers = [torch.nn.Linear(width, width) for _ in range(8)]
        served = torch.nn.Sequential(*layers).to(self.device, torch.bfloat16)
        x = torch.randn(batch, width, device=self.device, dtype=torch.bfloat16)
        # As a CUDA graph it is the GPU that the two share, and not the interpreter of Python.
        run, _ = ready("graph" if self.is_gpu else "eager", served, x)

        @torch.no_grad()
        def serve() -> float:
            """Forwards in a second, each waited for."""
            count, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < seconds:
                run()
                self.wait()
                count += 1
            return count / took

        serve()
        found = self.found
        for share in (0.005, 0.02, 0.07):
            logs, read, took = [], 0.0, 0.0
            for _ in range(rounds):
                alone = serve()
                with pm.Scrubber(weights, seal, share=share) as scrubber:
                    began = time.perf_counter()
                    beside = serve()
                    took += time.perf_counter() - began
                    read += scrubber.counters.bytes_read
                logs.append(math.log(beside / alone))
            mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(rounds)
            low, high = (100 * math.expm1(mean + side * 2.2 * error) for side in (-1, 1))
            found[f"share {share:g}"] = (
                f"forwards {100 * math.expm1(mean):+.2f} % ({low:+.2f} to {high:+.2f}), "
                f"{read / took / 1e9:.1f} GB/s"
            )
        return found

    def training(self) -> dict[str, Any]:
        """What `constrain_` and `heal_` add to a step, and what they take before the first one."""
        make = {"784-512-10": fnn, "WRN-22-8": partial(wrn, 8, 256)}
        if not self.is_gpu:
            make = {"8-512-10": lambda: (Network(8), torch.rand(16, 8), 1)}
        for name, model in make.items():
            runs: dict[str, Run] = {}
            for how in VARIANTS:
                self.wait()
                began = time.perf_counter()
                runs[how] = Run(model, how, self.device)
                self.wait()
                self.found[f"{name}, {how}"] = {"set-up s": round(time.perf_counter() - began, 2)}
                runs[how].steps(25)  # compile, and choose the interval
            times: dict[str, list[float]] = {how: [] for how in runs}
            for _ in range(2 * ROUNDS if self.is_gpu else 1):
                for how, run in runs.items():  # taking turns
                    every = run.handle.every if run.handle else 1
                    count = -(-run.block // every) * every
                    self.wait()
                    began = time.perf_counter()
                    run.steps(count)
                    self.wait()
                    times[how].append((time.perf_counter() - began) / count)
            plain = statistics.median(times["plain"])
            for how, run in runs.items():
                took, every = statistics.median(times[how]), run.handle.every if run.handle else 1
                self.found[f"{name}, {how}"] |= {
                    "every": every,
                    "ms a step": round(1e3 * took, 3),
                    "added %": round(100 * (took / plain - 1), 1),
                    **self.calls(lambda run=run, every=every: run.steps(every), every),
                }
                if how.startswith("heal"):
                    self.found[f"{name}, {how}"]["heals"] = heals(run)
                run.remove()
        return self.found

    def calls(self, work: Callable[[], Any], count: int) -> dict[str, float]:
        """How often one of ``count`` steps launches something and waits for the device, and how
        long that works for it.
        """
        if not self.is_gpu:
            return {}
        with torch.profiler.profile() as profile:
            work()
            self.wait()
        events = profile.key_averages()
        there = (
            e.self_device_time_total
            for e in events
            if e.device_type is torch.autograd.DeviceType.CUDA
        )
        return {"ms of the device": round(1e-3 * sum(there) / count, 3)} | {
            what: round(sum(e.count for e in events if key in e.key and "cu" in e.key) / count, 1)
            for what, key in (("launches", "Launch"), ("waits", "Synchronize"))
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gigabytes", type=float, default=14.0)
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", help="these steps")
    parser.add_argument("--shapes", action="store_true", help="also shapes of the kernel's work")
    parser.add_argument("--scale", type=float, default=1.0, help="of the limits of time")
    args = parser.parse_args()
    torch._dynamo.config.recompile_limit = 1000  # wrappers of a kind share their code
    bench = Bench(args.device, args.gigabytes, args.errors, args.out)
    guards = Guards(bench)
    steps: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {
        "kernels": (80, bench.kernels),
        "sidecar": (30, lambda: bench.agree("sidecar")),
        "real": (20, lambda: bench.agree("real")),
        "lowbits": (20, lambda: bench.agree("lowbits")),
        "sums": (40, bench.sums),
        "large": (60, lambda: bench.model(bench.large())),
        "many": (60, lambda: bench.model(bench.many())),
        "scrubber": (60, bench.scrubber),
        "screens": (40, guards.screens),
        "guards bfloat16": (60, lambda: guards.layer(torch.bfloat16)),
        "guards float32": (40, lambda: guards.layer(torch.float32)),
        "guards TF32": (40, lambda: guards.layer(torch.float32, True, HOW[:2])),
        "guards float16": (40, lambda: guards.layer(torch.float16, hows=HOW[:2])),
        "guards WRN-22-8": (90, lambda: guards.network("WRN-22-8")),
        "guards MiniLM": (60, lambda: guards.network("MiniLM")),
        "training": (90, bench.training),
        "host": (20, bench.host),
    }
    if args.shapes:
        steps["shapes"] = (90, bench.shapes)
    known = {*steps, *(name.split()[0] for name in steps)}
    if unknown := set(args.only or ()) - known:
        parser.error(f"--only: no step is called {', '.join(unknown)}: take some of {list(steps)}")
    for name, (seconds, work) in steps.items():
        if not args.only or {name, name.split()[0]} & set(args.only):
            bench.step(name, args.scale * seconds, work)
    table = Table("step", "what", "found")
    for step, found in bench.results.items():
        for what, value in found.items():
            table.add_row(step, what, str(value))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
