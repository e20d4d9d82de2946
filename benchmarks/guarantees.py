"""Whether any three wrong words are repaired: certificates, and damage that is made to mislead.

python benchmarks/guarantees.py  # for docs/measurements/codes.md, some minutes
python benchmarks/guarantees.py --rows 173 --patterns 10000 --seeds 1
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from parimend.codes import Sparse
from parimend.decoders import Peeling, certify
from parimend.decoders.lattice import kernel_basis, reduced
from parimend.errors import SpecError
from parimend.outcomes import Verdict

N, ERRORS = 5120, 210


class Misleading:
    """Damage of two and three words of a code that is made to mislead a decoder."""

    def __init__(self, code: Sparse, seed: int = 0) -> None:
        self.code, self.rng = code, np.random.default_rng(seed)
        self.limit = 1 << code.word_bits
        self.columns = [
            dict(zip(*(part.tolist() for part in code.column(i)), strict=True))
            for i in range(code.n)
        ]
        self.members: list[list[int]] = [[] for _ in range(code.m)]
        for i, column in enumerate(self.columns):
            for check in column:
                self.members[check].append(i)
        self.by_checks = {tuple(column): i for i, column in enumerate(self.columns)}

    def falsely_named(self, words: int) -> Iterator[dict[int, int]]:
        """So many words of one check that leave there what a single other word would."""
        while True:
            check = int(self.rng.integers(self.code.m))
            chosen = self.rng.choice(self.members[check], words + 1, replace=False).tolist()
            yield from self._relations(check, chosen)

    def falsely_named_inside(self) -> Iterator[dict[int, int]]:
        """Two words of one check that leave there what another would whose checks are all theirs:
        nothing contradicts it.
        """
        for check in self.rng.permutation(self.code.m).tolist():
            for i, k in itertools.combinations(self.members[check], 2):
                others = sorted({*self.columns[i], *self.columns[k]} - {check})
                for rest in (
                    *itertools.combinations(others, 1),
                    *itertools.combinations(others, 2),
                ):
                    j = self.by_checks.get(tuple(sorted((check, *rest))))
                    if j is not None and j not in (i, k):
                        yield from self._relations(check, [i, k, j])

    def _relations(self, check: int, columns: list[int]) -> Iterator[dict[int, int]]:
        """Damage of all columns but the last that leaves in a check what the last would."""
        basis = reduced(kernel_basis([[self.columns[i][check] for i in columns]]))[:3]
        for times in itertools.product(range(-2, 3), repeat=len(basis)):
            vector = [
                sum(t * v[k] for t, v in zip(times, basis, strict=True))
                for k in range(len(columns))
            ]
            if all(0 < abs(x) < self.limit for x in vector):
                yield dict(zip(columns[:-1], vector, strict=False))

    def nearly_cancelling(self) -> Iterator[dict[int, int]]:
        """Two words whose damage in a common check is as small as can be."""
        while True:
            check = int(self.rng.integers(self.code.m))
            i, k = self.rng.choice(self.members[check], 2, replace=False).tolist()
            x, y = self._ratio(self.columns[k][check], self.columns[i][check])
            yield {i: x, k: -y}

    def _ratio(self, a: int, b: int) -> tuple[int, int]:
        """The last convergent of a / b below the limit."""
        sign = 1 if a * b > 0 else -1
        a, b = abs(a), abs(b)
        before, this = (0, 1), (1, 0)
        while b:
            q = a // b
            following = (q * this[0] + before[0], q * this[1] + before[1])
            if max(following) >= self.limit:
                break
            before, this = this, following
            a, b = b, a % b
        x, y = this if min(this) > 0 else (1, 1)
        return x, sign * y

    def crowded(self, words: int) -> Iterator[dict[int, int]]:
        """Words on as few checks as a walk finds, triangles among them, with any damage."""
        while True:
            chosen = [int(self.rng.integers(self.code.n))]
            while len(chosen) < words:
                checks = sorted(set().union(*(self.columns[i] for i in chosen)))
                near = [
                    j
                    for size in (2, 3)
                    for support in itertools.combinations(checks, size)
                    if (j := self.by_checks.get(support)) is not None and j not in chosen
                ]
                if not near:
                    check = int(self.rng.choice(checks))
                    near = [j for j in self.members[check] if j not in chosen]
                chosen.append(int(self.rng.choice(near)))
            sizes = self.rng.integers(1, self.limit, words) * self.rng.choice([-1, 1], words)
            yield dict(zip(chosen, sizes.tolist(), strict=True))

    def kinds(self) -> dict[str, tuple[Iterator[dict[int, int]], float]]:
        """What there is, and its share: the first two are rare and take long to find."""
        return {
            "2, falsely named inside": (self.falsely_named_inside(), 0.02),
            "2, falsely named": (self.falsely_named(2), 0.02),
            "2, nearly cancelling": (self.nearly_cancelling(), 0.24),
            "2, crowded": (self.crowded(2), 0.24),
            "3, falsely named": (self.falsely_named(3), 0.24),
            "3, crowded": (self.crowded(3), 0.24),
        }


def certificates(rows: list[int], seeds: int) -> None:
    print("\n| m | seed | least pair | stopping sets by size | proven | s |")
    print("|---" * 6 + "|")
    for m, seed in itertools.product(rows, range(seeds)):
        code = Sparse.for_errors(N, ERRORS, m=m, seed=seed)
        began = time.process_time()
        try:
            proof = certify(code)
            cells = f"{proof.pair:,} | {dict(proof.sets)} | any 3"
        except SpecError as refused:
            cells = f"| | {refused}"
        print(f"| {m} | {seed} | {cells} | {time.process_time() - began:.1f} |", flush=True)


def patterns(rows: list[int], count: int) -> None:
    print("\n| m | damage | patterns | not repaired | wrong | by the search | median ms | max ms |")
    print("|---" * 8 + "|")
    for m in rows:
        code = Sparse.for_errors(N, ERRORS, m=m)
        prepared = Peeling().prepare(code)
        prepared.decode(np.eye(1, m, dtype=np.int64)[0])  # compile, prepare the pairs
        for kind, (damages, share) in Misleading(code).kinds().items():
            outcomes: Counter[str] = Counter()
            times = []
            for damage in itertools.islice(damages, max(1, round(share * count))):
                word = np.zeros(N, np.int64)
                word[list(damage)] = list(damage.values())
                syndrome = code.syndrome(word)
                began = time.process_time()
                decoding = prepared.decode(syndrome)
                times.append(1e3 * (time.process_time() - began))
                claimed = decoding.verdict is Verdict.CORRECTED
                found = dict(
                    zip(decoding.positions.tolist(), decoding.values.tolist(), strict=True)
                )
                outcomes["failed"] += not (claimed and found == damage)
                outcomes["wrong"] += claimed and found != damage
                outcomes["searched"] += decoding.steps["search"]
            print(
                f"| {m} | {kind} | {len(times):,} | {outcomes['failed']} | {outcomes['wrong']} | "
                f"{outcomes['searched']:,} | {statistics.median(times):.3f} | {max(times):.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[173, 320])
    parser.add_argument("--patterns", type=int, default=100_000, help="in all, for every m")
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`, n = {N:,}")
    certificates(args.rows, args.seeds)
    patterns(args.rows, args.patterns)


if __name__ == "__main__":
    main()
