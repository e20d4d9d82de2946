"""What the constraint and healing add to a training step, side by side in one run.

    python benchmarks/training.py                      # FNN and WRN-22-2, a few minutes
    python benchmarks/training.py fnn --rounds 40
    python benchmarks/training.py setup                # all of WRN-22-8 in one word, a minute

Variants take turns in short blocks of steps, so that whatever else the machine does strikes all
of them. A ratio is that of medians over blocks of the processor time, with the middle half of the
ratios of neighbouring blocks. Intervals between projections are chosen by cost, as by default.
`benchmarks/gpu.py --only training` does the same on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import parimend as pm
from parimend.demo import Network

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from cifar10_wrn import WideResNet

VARIANTS = ("plain", "head", "all", "heal", "heal, copies", "heal, closure")


def fnn() -> tuple[torch.nn.Module, torch.Tensor, int]:
    return Network(784), torch.rand(128, 784), 20


def wrn(width: int = 2, batch: int = 64) -> tuple[torch.nn.Module, torch.Tensor, int]:
    model = WideResNet(22, width).to(memory_format=torch.channels_last)
    return model, torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last), 2


MODELS = {"fnn": fnn, "wrn": wrn}


class Run:
    """One variant: a model and its optimizer, ready for more steps."""

    def __init__(
        self,
        make: Callable[[], tuple[torch.nn.Module, torch.Tensor, int]],
        how: str,
        device: str | torch.device = "cpu",
    ) -> None:
        torch.manual_seed(0)
        self.model, self.x, self.block = make()
        self.model.to(device)
        self.x, self.y = self.x.to(device), torch.randint(0, 10, (len(self.x),)).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.handle: pm.Constraint | None = None
        self.hooks: list[Any] = []
        if how in ("head", "all"):
            only = ["head.*"] if how == "head" else None
            self.handle = pm.constrain_(self.model, self.optimizer, 210, only=only)
            self.hooks.append(self.handle)
        elif how.startswith("heal"):
            errors = None if "copies" in how else 100
            self.hooks.append(pm.heal_(self.model, self.optimizer, errors))
        self.closure = "closure" in how  # computes all, as in Lightning
        self.times: list[float] = []
        # As recipes/cifar10_wrn.py does; on a CPU bfloat16 is slower.
        self.amp = torch.device(device).type == "cuda" and self.x.ndim == 4

    def remove(self) -> None:
        for each in self.hooks:
            each.remove()

    def steps(self, count: int) -> None:
        for _ in range(count):
            if self.closure:
                self.optimizer.step(self.compute)
            else:
                self.compute()
                self.optimizer.step()

    def compute(self) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.amp):
            loss = torch.nn.functional.cross_entropy(self.model(self.x), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        return loss

    def measure(self) -> None:
        # A whole number of intervals, so that every block has its share of projections.
        every = self.handle.every if self.handle else 1
        count = -(-self.block // every) * every
        began = time.process_time()
        self.steps(count)
        self.times.append((time.process_time() - began) / count)


def set_up(threads: int) -> None:
    """What constraining all layers of WRN-22-8 in one word takes before the first step."""
    pm.constrain_(small := torch.nn.Linear(512, 10), torch.optim.SGD(small.parameters()), 210)
    model, *_ = wrn(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    began = time.process_time(), time.perf_counter()
    constraint = pm.constrain_(model, optimizer, 210)
    took, passed = time.process_time() - began[0], time.perf_counter() - began[1]
    [code] = constraint.codes
    print(
        f"{code.n:,} weights, {code.m} checks, {threads} threads: {took:.1f} s of processor time, "
        f"{passed:.1f} s; residual {constraint.residual():.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="fnn|wrn|setup")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "setup" in args.models:
        set_up(args.threads)
        args.models.remove("setup")
    if not args.models:
        return
    print("| model | variant | weights | every | ms per step | added (middle half) |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        runs = {how: Run(MODELS[name], how) for how in VARIANTS}
        for run in runs.values():
            run.steps(25)  # compile, and choose the interval
        for _ in range(args.rounds):
            for run in runs.values():
                run.measure()
        plain = runs["plain"].times
        for how, run in runs.items():
            ratios = sorted(a / b for a, b in zip(run.times, plain, strict=True))
            quarter = len(ratios) // 4
            added = statistics.median(run.times) / statistics.median(plain) - 1.0
            handle = run.handle
            weights = f"{sum(code.n for code in handle.codes):,}" if handle else "-"
            print(
                f"| {name} | {how} | {weights} | {handle.every if handle else '-'} | "
                f"{1e3 * statistics.median(run.times):.2f} | {added:+.1%} "
                f"({ratios[quarter] - 1:+.1%} .. {ratios[-1 - quarter] - 1:+.1%}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
