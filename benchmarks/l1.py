"""How many checks the decoders of dense real codes need: success, time and silent failures.

    python benchmarks/l1.py --trials 20 --rows 1024 960 906 --seed 0

n = 5,120 words, t = 210 of them wrong at random places: by standard normal amounts, or all by the
same amount up to the sign, which is the hardest for all but linear programming. Every trial draws
its damage; every number of rows has one code. Rates come with 95 % Wilson intervals. One thread.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from parimend.codes import Gaussian
from parimend.decoders import AMP, L1, OMP
from parimend.experiment import DenseTarget, Outcome, run


class Added(DenseTarget):
    """Damage of a kind of values at random places."""

    def __init__(self, code, decoder, seed):
        super().__init__(code, decoder)
        self.seed = seed

    def damaged(self, faults, trial):
        kind, t = faults
        rng = np.random.default_rng([self.seed, trial])
        damage = np.zeros(self.code.n)
        at = rng.choice(self.code.n, t, replace=False)
        damage[at] = rng.normal(size=t) if kind == "normal" else rng.choice([-1.0, 1.0], t)
        return self.received(damage)


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
            target = Added(code, decoders[name], options.seed)
            for kind in options.values:
                counts = run(target, (kind, options.errors), range(options.trials))
                low, high = counts.rate(Outcome.REPAIRED).interval()
                print(
                    f"| {kind} | {name} | {rows} | {counts.repaired} of {counts.trials} "
                    f"| {low:.2f}-{high:.2f} | {counts.wrong} "
                    f"| {np.median(counts.seconds):.2f} | {max(counts.seconds):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
