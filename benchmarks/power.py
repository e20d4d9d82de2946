"""Power sums of 68.8 MB: is every pattern of at most 210 wrong words repaired, and how fast?

python benchmarks/power.py                      # for docs/measurements/codes.md, some minutes
python benchmarks/power.py --patterns 2000
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from parimend.codes import Screened, sums_for
from parimend.decoders import ScreenedSums
from parimend.experiment import Rate
from parimend.kernels.points import LANES
from parimend.outcomes import Verdict

N = 17_200_000
PAIR = (5_140_651, 7_534_416)
"""Words that the hashed sums of the same budget never tell apart."""

Positions = NDArray[np.int64]


class Places:
    """Where damage is."""

    def __init__(self, code: Screened, rng: np.random.Generator) -> None:
        self.n, self.rng = code.n, rng
        self.tile = code.parts[1].tile

    def scattered(self, e: int) -> Positions:
        found = np.empty(0, np.int64)
        while found.size < e:  # `choice` would shuffle all words for each pattern
            found = np.unique(np.concatenate([found, self.rng.integers(self.n, size=e)]))
        return self.rng.permutation(found)[:e]

    def burst(self, e: int) -> Positions:
        return self.rng.integers(self.n - e) + np.arange(e)

    def lines(self, e: int) -> Positions:
        lines = self.rng.permutation(np.unique(self.scattered(e) // 16))
        starts = 16 * lines[: -(-e // 16)]
        return (starts[:, None] + np.arange(16)).ravel()[:e]

    def one_tile(self, e: int) -> Positions:
        first = self.tile * self.rng.integers(self.n // self.tile)
        return first + self.rng.choice(self.tile, e, replace=False)

    def same_place_in_every_tile(self, e: int) -> Positions:
        """Points that differ by the tile alone."""
        tiles = self.n // self.tile
        place = self.rng.integers(self.tile)
        taken = self.rng.choice(tiles, min(e, tiles), replace=False)
        return self.tile * taken + place

    def one_lane(self, e: int) -> Positions:
        """The rows of a tile: a coset of the roots of unity."""
        first = self.tile * self.rng.integers(self.n // self.tile) + self.rng.integers(LANES)
        rows = self.tile // LANES
        return first + LANES * self.rng.choice(rows, min(e, rows), replace=False)

    def pair(self, e: int) -> Positions:
        rest = np.setdiff1d(self.scattered(e), PAIR)
        return np.concatenate([PAIR, rest])[:e]


def values(kind: str, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if kind == "flip":
        return (1 << rng.integers(0, 32, count)) * rng.choice([-1, 1], count)
    if kind == "same":
        return np.full(count, rng.integers(1, 1 << 32))
    drawn = rng.integers(-(1 << 32) + 1, 1 << 32, count)
    return np.where(drawn == 0, 1, drawn)


def run(
    code: Screened, most: int, least: int, patterns: int, rng: np.random.Generator
) -> dict[str, Counter[str]]:
    """What came of patterns of every kind of ``least`` to ``most`` words; half with the most."""
    places, prepared = Places(code, rng), ScreenedSums().prepare(code)
    kinds: dict[str, Callable[[int], Positions]] = {
        name: getattr(places, name)
        for name in (
            "scattered",
            "burst",
            "lines",
            "one_tile",
            "same_place_in_every_tile",
            "one_lane",
            "pair",
        )
    }
    found = {}
    for name, place in kinds.items():
        outcomes: Counter[str] = Counter()
        for trial in range(patterns // len(kinds)):
            e = most if trial % 2 else int(rng.integers(least, most + 1))
            at = np.sort(place(e))
            by = values(("flip", "same", "random")[trial % 3], len(at), rng)
            syndrome = code.sums_of(at, by)
            noticed = bool(code.few(syndrome).any())
            decoding = prepared.decode(syndrome)
            claimed = decoding.verdict is Verdict.CORRECTED
            right = claimed and np.array_equal(decoding.positions, at)
            right = right and np.array_equal(decoding.values, by % code.prime)
            outcomes["repaired"] += right
            outcomes["wrong"] += claimed and not right
            outcomes["unnoticed"] += not noticed
            outcomes["all"] += 1
        found[name] = outcomes
    return found


def speed(rng: np.random.Generator) -> None:
    print("\n| wrong words | decoding, ms of one core: median | max |\n|---|---|---|")
    for errors in (4, 16, 210, 1000):
        code = sums_for(N, errors)
        prepared = ScreenedSums().prepare(code)
        taken = []
        for _ in range(40 if errors < 1000 else 12):
            at = np.sort(Places(code, rng).scattered(errors))
            syndrome = code.sums_of(at, values("random", errors, rng))
            began = time.process_time()
            prepared.decode(syndrome)
            taken.append(1e3 * (time.process_time() - began))
        print(f"| {errors} | {statistics.median(taken[2:]):.3g} | {max(taken[2:]):.3g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patterns", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    code = sums_for(N, 210)
    assert isinstance(code, Screened)
    print(f"`{' '.join(['python', *sys.argv])}`: {code}, {code.packed_bytes} bytes\n")
    print("| damage | words | patterns | repaired | wrong | not noticed |\n" + "|---" * 6 + "|")
    for least, most, count in ((1, 210, args.patterns), (211, 420, args.patterns // 4)):
        total: Counter[str] = Counter()
        for name, seen in run(code, most, least, count, rng).items():
            total += seen
            shown = f"{name.replace('_', ' ')} | {least} to {most} | {seen['all']:,}"
            cells = f"{seen['repaired']:,} | {seen['wrong']} | {seen['unnoticed']}"
            print(f"| {shown} | {cells} |", flush=True)
        upper = Rate(total["wrong"], total["all"]).upper()
        print(f"| all | {least} to {most} | {total['all']:,} | {total['repaired']:,} | ", end="")
        print(f"{total['wrong']} (below {upper:.1e}) | {total['unnoticed']} |")
    speed(rng)


if __name__ == "__main__":
    main()
