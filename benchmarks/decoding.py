"""How often, and how fast, damaged weights are decoded; every decoder, kind of damage and m.

Words are 5,120 float32 weights, N(0, 0.045^2), imposed into the code as `protect_` does. Damage
is drawn by `parimend.faults` on the float32 array; success is equality of every bit. Miscorrections
are counted before the SHA-256 test that a user's weights also pass.

    python benchmarks/decoding.py                      # a table for docs/, some minutes
    python benchmarks/decoding.py --rows 340 --trials 100000 --only-peeling
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.progress import track

from parimend.codes import Gaussian, Sparse
from parimend.decoders import AMP, L1, OMP, Peeling
from parimend.experiment import (
    CodeTarget,
    Counts,
    DenseTarget,
    Faults,
    Outcome,
    Rate,
    Received,
    on_grid,
    run,
    trial,
)

N, ERRORS, SIGMA = 5120, 210, 0.045
# kind in the table -> (kind, placement) of parimend.faults; `replace` writes other grid values, the
# hardest damage: nothing but the checks tells it from weights.
KINDS = {
    "real added": ("noise", "scattered"),
    "on-grid value": ("replace", "scattered"),
    "bit flip": ("bitflip", "scattered"),
    "2-8 flips": ("multiflip", "scattered"),
    "stuck-at": ("stuck", "scattered"),
    "zero": ("zero", "scattered"),
    "burst, on grid": ("replace", "burst"),
    "cache lines, on grid": ("replace", "lines"),
    "sign flip": ("sign", "scattered"),
    "NaN, Inf": ("nonfinite", "scattered"),
}


def interval(rate: Rate) -> str:
    """A rate with its 95 % Wilson interval, in per cent."""
    low, high = rate.interval()
    return f"{100 * rate.share:.2f} ({100 * low:.2f}-{100 * high:.2f})"


def target_for(code: Sparse, pairs: bool = True) -> CodeTarget:
    weights = np.random.default_rng(code.seed).normal(0, SIGMA, code.n).astype(np.float32)
    return CodeTarget(code, weights, Peeling() if pairs else Peeling(max_pairs=0))


def repaired(target: CodeTarget, kind: str, errors: int, seeds: Iterable[int]) -> Counts:
    """Damage of a kind in the table."""
    pattern, placement = KINDS[kind]
    options = on_grid(target.grid) if pattern == "replace" else {}
    return run(target, Faults(pattern, errors, placement, options), seeds)


def code_for(rows: int, seed: int) -> Sparse:
    return Sparse.for_errors(N, ERRORS, m=rows, seed=seed)


def peeling_table(rows: list[int], trials: int, codes: int, seed: int, console: Console) -> None:
    """Success by number of rows and kind of damage."""
    print(
        f"\nn = {N:,}, t = {ERRORS}, {codes} codes, {trials} trials per kind of damage; "
        "per cent repaired bit for bit\n"
    )
    print("| m | m/n | " + " | ".join(KINDS) + " | all (95 %) | wrong | median ms | max ms |")
    print("|---" * (len(KINDS) + 6) + "|")
    for m in rows:
        targets = [target_for(code_for(m, s)) for s in range(codes)]
        for target in targets:
            repaired(target, "on-grid value", ERRORS, [1 << 40])  # prepares what the first use does
        # Trial i has seed + i, and every kind and code its share of them.
        last, step = seed + trials * len(KINDS), len(KINDS) * codes
        by_kind = dict.fromkeys(KINDS, Counts())
        jobs = [(k, c) for k in range(len(KINDS)) for c in range(codes)]
        for k, c in track(jobs, f"m={m}", console=console, transient=True):
            seeds = range(seed + k + len(KINDS) * c, last, step)
            by_kind[list(KINDS)[k]] += repaired(targets[c], list(KINDS)[k], ERRORS, seeds)
        total = sum(by_kind.values(), Counts())
        rates = " | ".join(f"{100 * c.repaired / trials:.2f}" for c in by_kind.values())
        print(
            f"| {m} | {m / N:.1%} | {rates} | {interval(total.rate(Outcome.REPAIRED))} | "
            f"{total.wrong} | {1e3 * statistics.median(total.seconds):.2f} | "
            f"{1e3 * max(total.seconds):.1f} |",
            flush=True,
        )


def half_points(rows: list[int], trials: int, seed: int) -> None:
    """The number of errors of which half the patterns are repaired."""
    print("\nErrors (on-grid values) at which half of the patterns are repaired\n")
    print("| m | all rules | single checks and elimination only |")
    print("|---|---|---|")
    for m in rows:
        cells = []
        for pairs in (True, False):
            target = target_for(code_for(m, 0), pairs)
            low, high = m // 4, 4 * m
            while high - low > max(2, m // 64):
                middle = (low + high) // 2
                counts = repaired(target, "on-grid value", middle, range(seed, seed + trials))
                low, high = (middle, high) if 2 * counts.repaired >= trials else (low, middle)
            cells.append(f"{low} ({low / m:.2f} m)")
        print(f"| {m} | {cells[0]} | {cells[1]} |", flush=True)


class Added(DenseTarget):
    """Damage N(0, SIGMA^2) at random places."""

    def damaged(self, errors: int, seed: int) -> Received:
        rng = np.random.default_rng(seed)
        word = np.zeros(self.code.n)
        word[rng.choice(self.code.n, errors, replace=False)] = rng.normal(0, SIGMA, errors)
        return self.received(word)


def dense_table(trials: int, seed: int, peeling_rows: int) -> None:
    """Decoders of dense Gaussian codes beside peeling, in turn."""
    print(f"\nThe same n and t; damage N(0, {SIGMA}^2); decoders take turns in one run\n")
    print("| decoder | code | m | m/n | repaired % (95 %) | wrong | median ms | ratio of times |")
    print("|---|---|---|---|---|---|---|---|")
    peeling = target_for(code_for(peeling_rows, 0))
    rivals = ((L1(), 1024), (L1(), 960), (OMP(), 1024), (AMP(), 1024), (AMP(), 640))
    runs = [("peeling", peeling, Faults("replace", ERRORS, options=on_grid(peeling.grid)))]
    runs += [(decoder.name, Added(Gaussian(N, m), decoder), ERRORS) for decoder, m in rivals]
    trial(peeling, runs[0][2], 1 << 40)
    results = [[] for _ in runs]
    for i in range(seed, seed + trials):
        for result, (_, target, faults) in zip(results, runs, strict=True):
            result.append(trial(target, faults, i))
    rows = [Counts.of(result) for result in results]
    base = statistics.median(rows[0].seconds)
    for (name, target, _), counts in zip(runs, rows, strict=True):
        code, median = target.code, statistics.median(counts.seconds)
        print(
            f"| {name} | {code.family} | {code.m} | {code.redundancy:.1%} | "
            f"{interval(counts.rate(Outcome.REPAIRED))} | {counts.wrong} | {1e3 * median:.2f} | "
            f"{median / base:,.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[150, 160, 173, 200, 295, 320])
    parser.add_argument("--trials", type=int, default=2000, help="per kind of damage and m")
    parser.add_argument("--codes", type=int, default=5)
    parser.add_argument("--dense-trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-peeling", action="store_true")
    args = parser.parse_args()
    console = Console(file=sys.stderr)
    code = code_for(args.rows[0], 0)
    print(f"`{' '.join(['python', *sys.argv])}`, {dataclasses.asdict(code)['weights']}")
    peeling_table(args.rows, args.trials, args.codes, args.seed, console)
    if not args.only_peeling:
        half_points([m for m in args.rows if m >= 160], 60, args.seed)
        dense_table(args.dense_trials, args.seed, 173)


if __name__ == "__main__":
    main()
