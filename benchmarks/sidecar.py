"""The sidecar's codes measured: how often damage is repaired, and how fast the pass over words is.

    python benchmarks/sidecar.py repair [--words N] [--errors T ...] [--trials K]
    python benchmarks/sidecar.py floor  [--words N] [--code T] [--errors E ...] [--trials K]
    python benchmarks/sidecar.py speed  [--words N] [--errors T ...] [--rounds K]

All write Markdown. In `repair` each trial draws a new code and new damage, and decodes the sums
that this damage changes; the words themselves play no part. Up to 1,000 errors this has to succeed
always; beyond, it supports the rule of `Hashed.for_errors`. `floor` decodes the same random words
with the hashed sums of T errors alone and with power sums beside them. `speed` is that of all sums,
as for `protect`, and of the few that `check` computes.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from parimend.codes import Hashed, Modular, sums_for
from parimend.decoders import decoder_for
from parimend.experiment import Counts, Outcome, Struck, Sums, run

Ints = NDArray[np.int64]
Words = NDArray[np.uint32]


def scattered(rng: np.random.Generator, n: int, t: int) -> Ints:
    return np.sort(rng.choice(n, t, replace=False))


def burst(rng: np.random.Generator, n: int, t: int) -> Ints:
    return rng.integers(n - t + 1) + np.arange(t)


def blocks(rng: np.random.Generator, n: int, t: int, size: int, used: int) -> Ints:
    """Aligned blocks of ``size`` words, ``used`` wrong words in each."""
    chosen = rng.choice(n // size, -(-t // used), replace=False)
    inside = [np.sort(rng.choice(size, used, replace=False)) for _ in chosen]
    return (size * chosen[:, None] + inside).ravel()[:t]


def lines(rng: np.random.Generator, n: int, t: int) -> Ints:
    return blocks(rng, n, t, 16, 16)


def page(rng: np.random.Generator, n: int, t: int) -> Ints:
    """In one page of 4 KiB, or in as many as are needed with half of their words wrong."""
    return blocks(rng, n, t, 1024, min(t, 512))


def flip(rng: np.random.Generator, words: Words) -> Words:
    return words ^ (np.uint32(1) << rng.integers(0, 32, words.size, dtype=np.uint32))


def sign(rng: np.random.Generator, words: Words) -> Words:
    return words ^ np.uint32(1 << 31)


def anything(rng: np.random.Generator, words: Words) -> Words:
    return rng.integers(0, 1 << 32, words.size, dtype=np.uint32)


def one(rng: np.random.Generator, words: Words) -> Words:
    return np.full_like(words, 0x3F800000)


def zero(rng: np.random.Generator, words: Words) -> Words:
    return np.zeros_like(words)


KINDS: dict[str, tuple[Callable[..., Ints], Callable[..., Words]]] = {
    "bit flips": (scattered, flip),
    "random words": (scattered, anything),
    "signs": (scattered, sign),
    "all 1.0": (scattered, one),
    "all 0": (scattered, zero),
    "burst": (burst, anything),
    "burst of 0": (burst, zero),
    "lines": (lines, anything),
    "page": (page, flip),
}

FAILED = (Outcome.DETECTED, Outcome.MISCORRECTED, Outcome.SILENT)


class Simulated(Sums):
    """Every trial draws a new code and new damage to words that never exist as a whole."""

    def __init__(self, n: int, t: int) -> None:
        self.n, self.t = n, t

    def damaged(self, kind: str, seed: int) -> Struck:
        rng = np.random.default_rng([seed, self.t, list(KINDS).index(kind)])
        code = sums_for(self.n, self.t, seed=int(rng.integers(1 << 62)))
        place, pattern = KINDS[kind]
        positions = place(rng, self.n, self.t)
        original = rng.normal(0.0, 0.045, self.t).astype(np.float32).view(np.uint32)
        prepared = decoder_for(code).prepare(code)
        return Struck.of(prepared, positions, original, pattern(rng, original))


def repair(n: int, errors: list[int], trials: int | None) -> None:
    print(
        f"Damage in {n:,} words, all kinds together. rate: of failures, 95 % Wilson interval; "
        "wrong: called corrected and not the truth.\n"
    )
    print("| wrong words | code | bytes | trials | failed | rate | wrong | decode, ms |")
    print("| --- " * 8 + "|")
    failures: dict[int, list[int]] = {}
    for t in errors:
        code, target = sums_for(n, t), Simulated(n, t)
        each = trials or max(20, min(20_000, 600_000 // t))
        run(target, "bit flips", [0])  # compiles
        by_kind = [run(target, kind, range(each)) for kind in KINDS]
        failures[t] = [counts.rate(*FAILED).count for counts in by_kind]
        total = sum(by_kind, Counts())
        failed = total.rate(*FAILED)
        low, high = failed.interval()
        row = [f"{t:,}", f"{code.family}, m={code.m:,}", f"{len(code.pack(code.zeros())):,}"]
        row += [f"{total.trials:,}", str(failed.count), f"{low:.1e} .. {high:.1e}"]
        row += [str(total.wrong), f"{1e3 * np.median(total.seconds):.2f}"]
        print("| " + " | ".join(row) + " |", flush=True)
    print("\nFailures by kind:\n\n| wrong words | " + " | ".join(KINDS) + " |")
    print("| --- " * (1 + len(KINDS)) + "|")
    for t, found in failures.items():
        print(f"| {t:,} | " + " | ".join(map(str, found)) + " |")


class Random(Sums):
    """Every trial draws new random words in new places; codes change every thousand trials."""

    def __init__(self, codes: Callable[[int], Hashed | Modular]) -> None:
        self.prepared = lru_cache(1)(lambda i: decoder_for(codes(i)).prepare(codes(i)))

    def damaged(self, wrong: int, seed: int) -> Struck:
        rng, prepared = np.random.default_rng([seed, wrong]), self.prepared(seed // 1000)
        positions = scattered(rng, prepared.code.n, wrong)
        original, received = rng.integers(0, 1 << 32, (2, wrong), dtype=np.uint32)
        return Struck.of(prepared, positions, original, received)


def floor(n: int, t: int, errors: list[int], trials: int) -> None:
    def beside(seed: int) -> Hashed:
        return Hashed.for_errors(n, t, seed)

    def alone(seed: int) -> Modular:
        return beside(seed).parts[1]

    print(f"Random words of {n:,} are wrong; hashed sums for {t:,} errors. bound: times trials.\n")
    print("| wrong words | trials | alone: failed | bound | with power sums | bound | wrong |")
    print("| --- " * 7 + "|")
    for wrong in errors:
        row, named = [str(wrong), f"{trials:,}"], 0
        for codes in (alone, beside):
            counts = run(Random(codes), wrong, range(trials))
            row += [f"{counts.rate(*FAILED).count:,}", f"{codes(0).bound(wrong) * trials:.2g}"]
            named += counts.wrong
        print("| " + " | ".join([*row, str(named)]) + " |", flush=True)


def speed(n: int, errors: list[int], rounds: int) -> None:
    words = np.random.default_rng(0).normal(0.0, 0.045, n).astype(np.float32).view(np.uint32)
    runs: dict[str, Callable[[], object]] = {"SHA-256": lambda: hashlib.sha256(words.data).digest()}
    for t in errors:
        code = sums_for(n, t)
        for few, name in ((False, "all"), (True, "few")):
            label = f"{t:,} errors, {code.family}, {name}"
            runs[label] = lambda c=code, f=few: c.accumulate(c.zeros(f), words)  # type: ignore[misc]
    wall, cpu = (dict.fromkeys(runs, np.inf) for _ in range(2))
    for measured in runs.values():
        measured()
    for _ in range(rounds):  # in turn, so that all meet the same disturbances
        for label, measured in runs.items():
            begin = time.perf_counter(), time.process_time()
            measured()
            wall[label] = min(wall[label], time.perf_counter() - begin[0])
            cpu[label] = min(cpu[label], time.process_time() - begin[1])
    print(f"The pass over {4 * n / 1e6:.1f} MB, best of {rounds}; in brackets, SHA-256's is 1.\n")
    print("| what | MB/s | MB per CPU second |\n" + "| --- " * 3 + "|")
    for label in runs:
        rates = [4 * n / 1e6 / best[label] for best in (wall, cpu)]
        ratios = [best["SHA-256"] / best[label] for best in (wall, cpu)]
        cells = [f"{x:,.0f} ({y:.2f})" for x, y in zip(rates, ratios, strict=True)]
        print(f"| {label} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["repair", "floor", "speed"])
    parser.add_argument("--words", type=int, default=17_200_000, help="length of the code")
    parser.add_argument(
        "--errors", type=int, nargs="+", help="default 1 10 210 1000 10000, or 10 16 22 28"
    )
    parser.add_argument("--code", type=int, default=10, help="what the code of `floor` is for")
    parser.add_argument(
        "--trials", type=int, help="per kind; default 600,000 / errors, 20..20,000, or 100,000"
    )
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if args.what == "floor":
        floor(args.words, args.code, args.errors or [10, 16, 22, 28], args.trials or 100_000)
        return
    errors = args.errors or [1, 10, 210, 1000, 10_000]
    if args.what == "repair":
        repair(args.words, errors, args.trials)
    else:
        speed(args.words, errors, args.rounds)


if __name__ == "__main__":
    main()
