"""How many checks the decoders of dense real codes need: success, time and silent failures.

    python benchmarks/l1.py --trials 20 --rows 1024 960 906 --seed 0

n = 5,120 words, t = 210 of them wrong at random places: by standard normal amounts, or all by the
same amount up to the sign, which is the hardest for all but linear programming. Every trial draws
its damage; every number of rows has one code. Rates come with 95 % Wilson intervals. One thread.
"""

import argparse
import os
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from scipy.stats import binomtest

from parimend.codes import Gaussian
from parimend.decoders import AMP, L1, OMP
from parimend.records import Verdict


def damages(kind, code, t, trials, seed):
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        damage = np.zeros(code.n)
        at = rng.choice(code.n, t, replace=False)
        damage[at] = rng.normal(size=t) if kind == "normal" else rng.choice([-1.0, 1.0], t)
        yield damage


def measure(prepared, damages):
    """(corrected rightly, called corrected wrongly, seconds of each)."""
    right, wrong, seconds = 0, 0, []
    for damage in damages:
        syndrome = prepared.code.syndrome(damage)
        began = time.perf_counter()
        decoding = prepared.decode(syndrome)
        seconds.append(time.perf_counter() - began)
        if decoding.verdict is Verdict.CORRECTED:
            found = np.zeros(damage.size)
            found[decoding.positions] = decoding.values
            same = np.abs(found - damage).max() <= 1e-9 * np.abs(damage).max()
            right, wrong = right + same, wrong + (not same)
    return right, wrong, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", type=int, default=5120, metavar="N")
    parser.add_argument("--errors", type=int, default=210, metavar="T")
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 960, 906, 832, 640])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--values", nargs="+", default=["normal", "equal"])
    parser.add_argument("--decoders", nargs="+", default=["l1", "omp", "amp"])
    options = parser.parse_args()
    decoders = {"l1": L1(), "l1-highs": L1("highs"), "omp": OMP(), "amp": AMP()}
    print(f"n = {options.words}, t = {options.errors}, seed = {options.seed}\n")
    print("| values | decoder | rows | success | 95 % | wrong | median s | slowest s |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in options.rows:
        code = Gaussian(options.words, rows, options.seed)
        for name in options.decoders:
            prepared = decoders[name].prepare(code)
            for kind in options.values:
                drawn = damages(kind, code, options.errors, options.trials, options.seed)
                right, wrong, seconds = measure(prepared, drawn)
                rate = binomtest(right, options.trials).proportion_ci(method="wilson")
                print(
                    f"| {kind} | {name} | {rows} | {right} of {options.trials} "
                    f"| {rate.low:.2f}-{rate.high:.2f} | {wrong} "
                    f"| {np.median(seconds):.2f} | {max(seconds):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
