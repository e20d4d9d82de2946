"""How often to check: fixed intervals and one that follows what was repaired, in a storm.

Simulated days with a quiet rate of events and a storm of a hundred times as many. Every damage is
decoded by the real decoder from its syndrome. Expected losses are computed from the intervals that
were chosen and the true rate in them; observed ones are what the decoder could not repair.

python benchmarks/adaptive.py                       # for docs/measurements/planning.md
python benchmarks/adaptive.py --settings 1 --seeds 10 --jumps 0.01
python benchmarks/adaptive.py --settings 5 --seeds 28   # storms that come again
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parimend.codes import Screened
from parimend.decoders import Prepared, decoder_for
from parimend.experiment import Rate
from parimend.lasting import cached_property
from parimend.outcomes import Verdict
from parimend.risk import Environment, Events
from parimend.risk.chance import longest_interval, lost
from parimend.risk.environment import DAYS
from parimend.risk.events import events_in
from parimend.risk.exposed import Exposed
from parimend.risk.pace import JUMPS, Pace

FACTOR = 100.0
"""How many times more events a storm brings."""


@dataclass(frozen=True)
class Setting:
    """What happens, and what is to withstand it.

    Attributes:
        name: of the setting.
        errors: budget of a word.
        words: so many of them.
        size: 32-bit words in each.
        quiet: events a day in all words, outside of the storm.
        events: their sizes.
        target: probability of a loss in a year.
        days: that are simulated.
        storm: first and last day of the storm.
        period: days after which another storm comes.
    """

    name: str
    errors: int
    words: int
    size: int
    quiet: float
    events: Events
    target: float
    days: float = 60.0
    storm: tuple[float, float] = (30.0, 33.0)
    period: float = math.inf

    def environment(self, times: float) -> Environment:
        """The rate is so many times the quiet one."""
        bits = 32.0 * self.size * self.words
        return Environment(self.name, rate=times * self.quiet / bits, events=self.events)

    @cached_property
    def exposed(self) -> list[Exposed]:
        return [Exposed(32.0 * self.size, np.zeros(self.errors + 1))] * self.words

    @cached_property
    def code(self) -> Screened:
        return Screened(self.size, 2 * self.errors + 4)

    @cached_property
    def decoder(self) -> Prepared:
        return decoder_for(self.code).prepare(self.code)

    @cached_property
    def allowed(self) -> float:
        """The part of the target that belongs to the days that are simulated."""
        return self.target * self.days / DAYS

    def stormy(self, begin: float, end: float) -> float:
        """Days of storms within an interval."""
        starts = [0.0] if math.isinf(self.period) else np.arange(0.0, end, self.period)
        first, last = self.storm
        return sum(max(0.0, min(end, at + last) - max(begin, at + first)) for at in starts)

    def struck(self, begin: float, end: float) -> float:
        """Number of events to expect in an interval."""
        stormy = self.stormy(begin, end)
        return self.quiet * (end - begin + (FACTOR - 1.0) * stormy)

    @cached_property
    def chance(self) -> Callable[[float], float]:
        """Probability of a loss, by the number of events to expect in an interval."""
        expected = np.geomspace(1e-4, 1e3, 700)
        one = self.environment(1.0)
        losses = [self.words * lost(self.exposed[0], one, L / self.quiet) for L in expected]
        logs = np.log(np.clip(losses, 1e-300, 1.0))
        return lambda L: math.exp(np.interp(math.log(max(L, 1e-4)), np.log(expected), logs))


class Path(NamedTuple):
    """One simulated run.

    Attributes:
        sweeps: number of checks.
        expected: losses, by the formula: in quiet intervals, and in those that the storm touches.
        observed: losses that the decoder met.
        wrong: words that it repaired wrongly.
        decoded: words with damage that it saw.
    """

    sweeps: int
    expected: tuple[float, float]
    observed: int
    wrong: int
    decoded: int


def simulate(setting: Setting, pace: Pace | float, seed: int) -> Path:
    """Check for some days, at a fixed interval or as a pace says; repairs are real decodings."""
    rng = np.random.default_rng(seed)
    first, now, sweeps, losses, wrong, decoded = pace, 0.0, 0, 0, 0, 0
    expected = [0.0, 0.0]
    while now < setting.days:
        interval = pace if isinstance(pace, float) else pace.interval
        end = min(now + interval, setting.days)
        struck = setting.struck(now, end)
        expected[bool(setting.stormy(now, end))] += setting.chance(struck)
        repaired, lost_words, sweeps = 0, 0, sweeps + 1
        for word in damage(setting, int(rng.poisson(struck)), rng):
            events, right = repair(setting, word, rng)
            decoded += 1
            repaired += events
            lost_words += events == 0
            wrong += not right
        losses += lost_words
        if isinstance(pace, Pace):  # what is lost is loaded anew, and says nothing of the rate
            pace = first if lost_words else pace.after(repaired, end - now)
        now = end
    return Path(sweeps, (expected[0], expected[1]), losses, wrong, decoded)


def damage(setting: Setting, events: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The wrong positions of every word that so many events damage."""
    struck: dict[int, list[np.ndarray]] = {}
    for size in rng.choice(setting.events.sizes, events, p=setting.events.shares):
        at = rng.integers(setting.size - size)
        struck.setdefault(int(rng.integers(setting.words)), []).append(np.arange(at, at + size))
    return [np.unique(np.concatenate(each)) for each in struck.values()]


def repair(setting: Setting, positions: np.ndarray, rng: np.random.Generator) -> tuple[int, bool]:
    """Decode the damage of a word: events in what was repaired, 0 if it was not; and whether what
    was said is true.
    """
    values = rng.integers(1, 1 << 32, positions.size)
    decoding = setting.decoder.decode(setting.code.sums_of(positions, values))
    if decoding.verdict is not Verdict.CORRECTED:
        return 0, positions.size > setting.errors
    right = np.array_equal(decoding.positions, positions) and np.array_equal(
        decoding.values, values
    )
    return events_in(decoding.positions), right


SMALL = Setting(
    "any 8 words of 4 times 17 MB, 1 and 100 events a day",
    errors=8,
    words=4,
    size=4_300_000,
    quiet=1.0,
    events=Events.of("1:0.9,2:0.1"),
    target=0.1,
)
SETTINGS = (
    Setting(
        "any 32 words of 68.8 MB, 0.2 and 20 events a day, bursts of 8",
        errors=32,
        words=1,
        size=17_200_000,
        quiet=0.2,
        events=Events.of("1:0.85,2:0.10,8:0.05"),
        target=1e-3,
    ),
    SMALL,
    Setting(
        "any 4 words of 68.8 MB, 0.2 and 20 events a day of one word",
        errors=4,
        words=1,
        size=17_200_000,
        quiet=0.2,
        events=Events(),
        target=0.2,
    ),
    Setting(
        "any 210 words of 68.8 MB, 5 and 500 events a day, bursts of 8",
        errors=210,
        words=1,
        size=17_200_000,
        quiet=5.0,
        events=Events.of("1:0.85,2:0.10,8:0.05"),
        target=1e-6,
    ),
    Setting(
        "any 4 words of 68.8 MB, 0.2 and 20 events a day of one word, a storm every 42 days",
        errors=4,
        words=1,
        size=17_200_000,
        quiet=0.2,
        events=Events(),
        target=1e-3,
        days=420.0,
        storm=(20.0, 23.0),
        period=42.0,
    ),
)


def compare(setting: Setting, seeds: range, jumps: float) -> None:
    worst = setting.environment(FACTOR)
    began = time.perf_counter()
    pace = Pace.of(setting.exposed, worst, setting.target, jumps=jumps)
    built = time.perf_counter() - began
    calm = longest_interval(setting.exposed, setting.environment(1.0), setting.target)
    storm = longest_interval(setting.exposed, worst, setting.target)
    print(f"\n{setting.name}; target {setting.target:g} a year; table in {1e3 * built:.0f} ms\n")
    print(
        "| interval | sweeps a day | share of the worst case's | expected losses: quiet | storm | "
        "of what is allowed | runs with a loss, 95 % | repaired wrongly |"
    )
    print("|---" * 8 + "|")
    for name, policy in (
        (f"fixed, {24 * calm:.1f} h, right for the quiet", float(calm)),
        (f"fixed, {24 * storm:.2f} h, right for the storm", float(storm)),
        (f"adaptive, {24 * pace.shortest:.2f} to {24 * pace.horizon.intervals[-1]:.0f} h", pace),
    ):
        paths = [simulate(setting, policy, seed) for seed in seeds]
        daily = np.mean([path.sweeps for path in paths]) / setting.days
        quiet, stormy = np.mean([path.expected for path in paths], 0)
        runs = sum(path.observed > 0 for path in paths)
        low, high = Rate(runs, len(seeds)).interval()
        ratios = np.array([sum(path.expected) for path in paths]) / setting.allowed
        error = ratios.std(ddof=1) / math.sqrt(len(seeds)) if len(seeds) > 1 else math.nan
        print(
            f"| {name} | {daily:.2f} | {daily * storm:.3f} | {quiet:.1e} | {stormy:.1e} | "
            f"{ratios.mean():.2f} ± {error:.2f} | {runs} of {len(seeds)} runs, "
            f"{100 * low:.2f}-{100 * high:.2f} % | {sum(path.wrong for path in paths)} of "
            f"{sum(path.decoded for path in paths):,} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--settings", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--jumps", type=float, default=JUMPS, help="hazard per day")
    args = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}`")
    for number in args.settings:
        compare(SETTINGS[number - 1], range(args.first, args.first + args.seeds), args.jumps)


if __name__ == "__main__":
    main()
