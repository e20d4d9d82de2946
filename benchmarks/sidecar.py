"""The sidecar's codes measured: how often damage is repaired, and how fast the pass over words is.

    python benchmarks/sidecar.py repair [--words N] [--errors T ...] [--trials K]
    python benchmarks/sidecar.py speed  [--words N] [--errors T ...] [--rounds K]

Both write Markdown. In `repair` each trial draws a new code and new damage, and decodes the sums
that this damage changes; the words themselves play no part. Up to 1,000 errors this has to succeed
always; beyond, it supports the rule of `Modular.for_errors`. `speed` is that of all sums, as for
`protect`, and of the few that `check` computes.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from parimend.codes import sums_for
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
    parser.add_argument("what", choices=["repair", "speed"])
    parser.add_argument("--words", type=int, default=17_200_000, help="length of the code")
    parser.add_argument("--errors", type=int, nargs="+", default=[1, 10, 210, 1000, 10_000])
    parser.add_argument("--trials", type=int, help="per kind; default 600,000 / errors, 20..20,000")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if args.what == "repair":
        repair(args.words, args.errors, args.trials)
    else:
        speed(args.words, args.errors, args.rounds)


if __name__ == "__main__":
    main()
