"""Training while bits flip: unprotected, detecting and reloading, and healing, side by side.

    python benchmarks/healing.py --root DIR              # MNIST, 784-512-10, some minutes
    python benchmarks/healing.py --data digits           # half a minute

All layers are inside a code. At every step single bits of the constrained weights flip, at the
given rate; half of them before the forward and half between the gradient and the step.

*unprotected* goes on as it is. *reload* compares CRC-32 sums of weights and optimizer state before
every forward and every step, and on a mismatch goes back to its last checkpoint, of which it makes
one every 50 steps. *healing* is `parimend.heal_` beside `parimend.constrain_`.
"""

from __future__ import annotations

import argparse
import copy
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import parimend as pm
from parimend import datasets, demo
from parimend.datasets import DataSet

RUNS = ("unprotected", "reload", "healing")
CHECKPOINT_EVERY = 50


class Reload:
    """What people do who know that weights went wrong, and not which."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.lost = 0
        self.sum = self.sums()
        self.save(0)

    def sums(self) -> int:
        total = 0
        state = [t for s in self.optimizer.state.values() for t in s.values()]
        for tensor in [*self.model.parameters(), *state]:
            total = zlib.crc32(tensor.detach().numpy().reshape(-1).view(np.uint8), total)
        return total

    def save(self, step: int) -> None:
        self.step = step
        self.saved = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    def back(self, step: int) -> int:
        self.model.load_state_dict(self.saved[0])
        self.optimizer.load_state_dict(copy.deepcopy(self.saved[1]))
        self.lost += step - self.step
        self.sum = self.sums()
        return self.step


def flip(model: torch.nn.Module, draw: np.random.Generator) -> None:
    """Flip one bit of one weight, all of them equally likely."""
    parameters = list(model.parameters())
    at = int(draw.integers(sum(p.numel() for p in parameters)))
    for parameter in parameters:
        if at < parameter.numel():
            bits = parameter.detach().view(-1).view(torch.int32).numpy().view(np.uint32)
            bits[at] ^= np.uint32(1) << np.uint32(draw.integers(32))
            return
        at -= parameter.numel()


def train(args: argparse.Namespace, data: DataSet, how: str, rate: float, seed: int) -> Any:
    torch.manual_seed(seed)
    model = demo.Network(data.train_x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    steps = args.epochs * (len(x) // args.batch)
    constraint = pm.constrain_(model, optimizer, args.errors, every=16, seed=seed)
    healing = pm.heal_(model, optimizer) if how == "healing" else None
    reload = Reload(model, optimizer) if how == "reload" else None
    faults, gave_up, step, taken = 0, "", 0, 0
    began = time.perf_counter()
    while step < steps and taken < 5 * steps:
        taken += 1
        # Faults do not repeat when a step does: they depend on time, and batches on the step.
        draw = np.random.default_rng([seed, taken])
        strikes = draw.poisson(rate / 2, 2)
        faults += int(strikes.sum())
        for _ in range(strikes[0]):
            flip(model, draw)
        if reload and reload.sums() != reload.sum:
            step = reload.back(step)
        batch = np.random.default_rng([seed, step, 1]).integers(len(x), size=args.batch)
        try:
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            for _ in range(strikes[1]):
                flip(model, draw)
            if reload and reload.sums() != reload.sum:
                step = reload.back(step)
                continue
            optimizer.step()
        except pm.errors.ParimendError as error:
            gave_up = f"stopped at step {step}: {error}"
            break
        step += 1
        if reload:
            reload.sum = reload.sums()
            if step % CHECKPOINT_EVERY == 0:
                reload.save(step)
    seconds = time.perf_counter() - began
    events: Counter[str] = Counter(e.kind for e in healing.events) if healing else Counter()
    inside = Counter(e.kind for e in constraint.events)
    if healing:
        healing.remove()
    if not gave_up:
        try:
            constraint.seal_()
        except pm.errors.ParimendError as error:  # what has become of a run that goes on as it is
            gave_up = f"not sealed: {error}"
    return {
        "accuracy": demo.accuracy(model, data),
        "faults": faults,
        "lost": reload.lost if reload else events["skipped"],
        "steps": steps,
        "seconds": seconds,
        "finished": step == steps and not gave_up,
        "note": gave_up,
        "events": dict(events),
        "in steps": dict(inside),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=["digits", "mnist", "fashion-mnist"], default="mnist")
    parser.add_argument("--root", type=Path, help="folder of the IDX files")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.01, 0.1, 1.0])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--errors", type=int, default=210)
    args = parser.parse_args()
    data = datasets.load(args.data, args.root)
    print(f"{data.name}, {args.epochs} epochs, {args.seeds} seeds; means\n")
    print("| flips per step | run | accuracy % | worst | steps lost | finished | seconds |")
    print("|---|---|---|---|---|---|---|")
    for rate in [0.0, *args.rates]:
        for how in args.runs:
            rows = [train(args, data, how, rate, seed) for seed in range(args.seeds)]
            scores = [row["accuracy"] for row in rows]
            lost = np.mean([row["lost"] / row["steps"] for row in rows])
            print(
                f"| {rate:g} | {how} | {np.mean(scores):.2f} | {min(scores):.2f} | {lost:.1%} | "
                f"{sum(row['finished'] for row in rows)} of {len(rows)} | "
                f"{np.mean([row['seconds'] for row in rows]):.1f} |",
                flush=True,
            )
            for row in rows:
                print(f"<!-- {row} -->", flush=True)


if __name__ == "__main__":
    main()
