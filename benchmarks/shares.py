"""How often damage of a whole budget is not repaired, by the share of the weights that it is.

    python benchmarks/shares.py                      # a table for docs/, three minutes
    python benchmarks/shares.py --trials 20000

Random weights on the grid become others, which is the hardest damage; the codes are those that
`protect_(carrier="real")` takes for so many wrong weights of so many bits. Decoders alone: a wrong
answer would be found by the SHA-256.
"""

from __future__ import annotations

import argparse

import numpy as np

from parimend.codes import Sparse
from parimend.decoders import decoder_for
from parimend.errors import SpecError
from parimend.experiment import Rate
from parimend.outcomes import Verdict

CASES = [
    (bits, n, errors)
    for bits in (8, 16, 18, 20)
    for n, errors in (
        (5120, 210),
        (5120, 420),
        (5120, 640),
        (5120, 780),
        (5120, 1100),
        (2000, 250),
        (2000, 390),
    )
]


def failed(code: Sparse, errors: int, trials: int, rng: np.random.Generator) -> tuple[int, int]:
    """In how many trials it was not repaired, and in how many of them wrongly."""
    decoder, values = decoder_for(code).prepare(code), 1 << code.word_bits
    lost = wrong = 0
    for _ in range(trials):
        where = np.sort(rng.choice(code.n, errors, replace=False))
        damage = np.zeros(code.n, np.int64)
        before = rng.integers(0, values, errors)
        damage[where] = (before + rng.integers(1, values, errors)) % values - before
        found = decoder.decode(code.syndrome(damage), None)
        if found.verdict is not Verdict.CORRECTED:
            lost += 1
        else:
            result = np.zeros(code.n, np.int64)
            result[found.positions] = found.values
            wrong += not np.array_equal(result, damage)
    return lost + wrong, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    print("| bits | weights | wrong | share | checks | not repaired, % (95 %) | wrong answers |")
    print("|---|---|---|---|---|---|---|")
    for bits, n, errors in CASES:
        try:
            code = Sparse.for_errors(n, errors, word_bits=bits)
        except SpecError:  # too many
            continue
        lost, wrong = failed(code, errors, args.trials, rng)
        low, high = Rate(lost, args.trials).interval()
        share = f"{100 * lost / args.trials:.2f} ({100 * low:.2f}-{100 * high:.2f})"
        print(
            f"| {bits} | {n:,} | {errors:,} | {errors / n:.1%} | {code.m:,} | {share} | {wrong} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
