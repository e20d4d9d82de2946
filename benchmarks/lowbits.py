"""How often wrong weights are repaired from low bits, through the public functions.

    python benchmarks/lowbits.py [--weights 5120] [--errors 210] [--rows M ...] [--trials K]

Writes Markdown: per number of checks, the trials in which every bit came back, those that were
called corrected and were wrong, how far the weights moved, and processor time. ``--trials`` is per
code and kind of damage.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import parimend as pm
from parimend.experiment import Counts, Faults, ModelTarget, Outcome, run

KINDS = (
    ("bitflip", "scattered"),
    ("multiflip", "scattered"),
    ("random", "scattered"),
    ("noise", "scattered"),
    ("zero", "scattered"),
    ("sign", "scattered"),
    ("nonfinite", "scattered"),
    ("random", "burst"),
    ("random", "lines"),
)


def measure(n: int, errors: int, rows: int | None, codes: int, trials: int) -> str:
    """A row of the table."""
    counts, moved, imposing = Counts(), [], []
    for seed in range(codes):
        generator = torch.Generator().manual_seed(seed)
        tensors = {"w": 0.045 * torch.randn(n, generator=generator)}
        began = time.process_time()
        seal = pm.protect_(tensors, errors, pm.LowBits(rows=rows), seed=seed)
        imposing.append(time.process_time() - began)
        moved += seal.notes["moved"]
        target = ModelTarget(tensors, seal)
        for kind, placement in KINDS:
            seeds = range(counts.trials, counts.trials + trials)
            faults = Faults(kind, errors, placement)
            counts += run(target, faults, seeds, clock=time.process_time)
    low, high = counts.rate(Outcome.REPAIRED).interval()
    return (
        f"| {seal.words[0].code.m} | {counts.repaired:,} of {counts.trials:,} | "
        f"{100 * low:.2f}-{100 * high:.2f} | {counts.wrong} | {max(moved):.1e} | "
        f"{1e3 * statistics.median(imposing):.1f} | {1e3 * statistics.median(counts.seconds):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=int, default=5120)
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--rows", type=int, nargs="+", default=[None])
    parser.add_argument("--codes", type=int, default=4)
    parser.add_argument("--trials", type=int, default=250)
    options = parser.parse_args()
    head = ["checks", "repaired", "95 %", "wrong", "moved", "impose, ms", "repair, ms"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for rows in options.rows:
        arguments = (options.weights, options.errors, rows, options.codes, options.trials)
        print(measure(*arguments), flush=True)


if __name__ == "__main__":
    main()
