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
import time

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy.stats import binomtest

from parimend.codes import Gaussian, Sparse
from parimend.decoders import AMP, L1, OMP, Peeling
from parimend.faults import draw
from parimend.impose.rounding import round_into
from parimend.records import Verdict
from parimend.words.grid import choose_grid

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


def interval(successes: int, trials: int) -> str:
    """A rate with its 95 % Wilson interval, in per cent."""
    low, high = binomtest(successes, trials).proportion_ci(0.95, "wilson")
    return f"{100 * successes / trials:.2f} ({100 * low:.2f}-{100 * high:.2f})"


class Target:
    """One code, with weights inside it and its decoder."""

    def __init__(self, code: Sparse, pairs: bool = True) -> None:
        self.code = code
        weights = np.random.default_rng(code.seed).normal(0, SIGMA, code.n).astype(np.float32)
        self.grid = choose_grid(weights, "F32", "weights", code.word_bits)
        rounded = round_into(code, code.project(weights / self.grid.step))
        self.weights = self.grid.write(rounded.word, np.dtype(np.float32))
        self.target = rounded.target
        self.decoder = Peeling(**({} if pairs else {"max_pairs": 0})).prepare(code)

    def trial(self, kind: str, errors: int, seed: int) -> tuple[bool, bool, float]:
        """(repaired bit for bit, called corrected but wrong, seconds to decode)."""
        weights = self.weights.copy()
        pattern, placement = KINDS[kind]
        options = {}
        if pattern == "replace":
            options = {
                "step": self.grid.step,
                "limit": self.grid.step * (self.grid.limit - 1),
            }
        draw(pattern, {"w": weights}, errors, seed, placement=placement, **options).apply_(
            {"w": weights}
        )
        began = time.perf_counter()
        q, erased = self.grid.read(weights)
        decoding = self.decoder.decode(self.code.syndrome(q) - self.target, np.flatnonzero(erased))
        if decoding.verdict is Verdict.CORRECTED:
            q[decoding.positions] -= decoding.values
        seconds = time.perf_counter() - began
        same = self.grid.write(q, weights.dtype).tobytes() == self.weights.tobytes()
        claimed = decoding.verdict is Verdict.CORRECTED
        return claimed and same, claimed and not same, seconds


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
        targets = [Target(code_for(m, s)) for s in range(codes)]
        good = dict.fromkeys(KINDS, 0)
        wrong, times = 0, []
        for target in targets:
            target.trial("on-grid value", ERRORS, 1 << 40)  # prepare what is prepared on first use
        for i in track(range(trials * len(KINDS)), f"m={m}", console=console, transient=True):
            kind = list(KINDS)[i % len(KINDS)]
            ok, bad, took = targets[i // len(KINDS) % codes].trial(kind, ERRORS, seed + i)
            good[kind] += ok
            wrong += bad
            times.append(1e3 * took)
        rates = " | ".join(f"{100 * k / trials:.2f}" for k in good.values())
        total = sum(good.values())
        print(
            f"| {m} | {m / N:.1%} | {rates} | {interval(total, trials * len(KINDS))} | {wrong} | "
            f"{statistics.median(times):.2f} | {max(times):.1f} |",
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
            target = Target(code_for(m, 0), pairs)
            low, high = m // 4, 4 * m
            while high - low > max(2, m // 64):
                middle = (low + high) // 2
                good = sum(
                    target.trial("on-grid value", middle, seed + i)[0] for i in range(trials)
                )
                low, high = (middle, high) if 2 * good >= trials else (low, middle)
            cells.append(f"{low} ({low / m:.2f} m)")
        print(f"| {m} | {cells[0]} | {cells[1]} |", flush=True)


def dense_table(trials: int, seed: int, peeling_rows: int) -> None:
    """Decoders of dense Gaussian codes beside peeling, in turn."""
    print(f"\nThe same n and t; damage N(0, {SIGMA}^2); decoders take turns in one run\n")
    print("| decoder | code | m | m/n | repaired % (95 %) | wrong | median ms | ratio of times |")
    print("|---|---|---|---|---|---|---|---|")
    target = Target(code_for(peeling_rows, 0))
    rivals = []
    for decoder, m in ((L1(), 1024), (L1(), 960), (OMP(), 1024), (AMP(), 1024), (AMP(), 640)):
        code = Gaussian(N, m)
        rivals.append((decoder.name, code, decoder.prepare(code)))
    target.trial("on-grid value", ERRORS, 1 << 40)
    times: list[list[float]] = [[] for _ in range(len(rivals) + 1)]
    good, wrong = [0] * len(times), [0] * len(times)
    for i in range(trials):
        ok, bad, took = target.trial("on-grid value", ERRORS, seed + i)
        good[0] += ok
        wrong[0] += bad
        times[0].append(took)
        rng = np.random.default_rng(seed + i)
        damage = np.zeros(N)
        damage[rng.choice(N, ERRORS, replace=False)] = rng.normal(0, SIGMA, ERRORS)
        for k, (_, code, prepared) in enumerate(rivals, 1):
            syndrome = code.syndrome(damage)
            began = time.perf_counter()
            decoding = prepared.decode(syndrome)
            times[k].append(time.perf_counter() - began)
            if decoding.verdict is Verdict.CORRECTED:
                answer = np.zeros(N)
                answer[decoding.positions] = decoding.values
                close = np.allclose(answer, damage, rtol=0, atol=1e-9)
                good[k] += close
                wrong[k] += not close
    names = [("peeling", target.code)] + [(name, code) for name, code, _ in rivals]
    base = statistics.median(times[0])
    for k, (name, code) in enumerate(names):
        median = statistics.median(times[k])
        print(
            f"| {name} | {code.family} | {code.m} | {code.redundancy:.1%} | "
            f"{interval(good[k], trials)} | {wrong[k]} | {1e3 * median:.2f} | "
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
