"""What the atlas of motifs does with measured pairs: keep, compare, show."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from scipy import stats
from torch import Tensor

from parimend.errors import SpecError
from parimend.experiment import Estimate
from parimend.report import Chart, Column, Known, Sheet, write_csv, write_page
from parimend.report.sheet import Value

N = TypeVar("N", bound=Hashable)
RATIO = "gain"
"""The measure that is compared by its ratio; the others are by their difference."""


@dataclass(frozen=True)
class Pair(Generic[N]):
    """Two networks that differ in one thing; ``b`` is compared with ``a``."""

    motif: str
    name: str
    a: N
    b: N


def chosen_of(pairs: Sequence[Pair[N]], motifs: Sequence[str] | None) -> list[Pair[N]]:
    """The pairs of these motifs; all of them without any.

    Raises:
        SystemExit: for a motif that is none of theirs.
    """
    known = sorted({pair.motif for pair in pairs})
    if unknown := set(motifs or ()) - set(known):
        raise SystemExit(f"--pairs {' '.join(sorted(unknown))}: take some of {', '.join(known)}")
    return [pair for pair in pairs if not motifs or pair.motif in motifs]


def networks(pairs: Sequence[Pair[N]]) -> list[N]:
    """Each network of the pairs once, in their order."""
    return list(dict.fromkeys(net for pair in pairs for net in (pair.a, pair.b)))


def key(*what: Any) -> str:
    text = json.dumps([asdict(each) if is_dataclass(each) else each for each in what])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def within(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values between the least and the largest that were seen; NaN becomes 0."""
    return values.nan_to_num(nan=0.0).clamp(low, high)


class Runs:
    """Finished measurements by their keys, one line of JSON each, in a file that grows."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._done = {record["key"]: record for record in map(json.loads, lines)}

    def get(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The record of this key; measured and written down if it is not there."""
        if name not in self._done:
            self._done[name] = {"key": name, **measure()}
            with self.path.open("a") as file:
                file.write(json.dumps(self._done[name]) + "\n")
        return self._done[name]


@dataclass(frozen=True)
class Difference:
    """A mean paired difference, or of gains a ratio, with its 95 % interval.

    Attributes:
        stars: 1 if the interval excludes no difference, 2 if it does so after Bonferroni's
            correction.
    """

    value: float
    low: float
    high: float
    stars: int


def difference(measure: str, a: list[float], b: list[float], intervals: int) -> Difference:
    """How ``b`` differs from ``a``; gains by the logarithm of their ratio.

    Args:
        measure: what was measured.
        a: one value for each seed.
        b: the same of the other network.
        intervals: that are looked at together.
    """
    compare = _log_ratio if measure == RATIO else _minus
    d = np.array([compare(x, y) for x, y in zip(a, b, strict=True)])
    mean, error = float(d.mean()), _error(d)
    half, wide = (stats.t.ppf(1 - 0.025 / each, len(d) - 1) * error for each in (1, intervals))
    stars = sum(abs(mean) > each for each in (half, wide)) if error else 0
    ends = (mean, mean - half, mean + half)
    return Difference(*(map(math.exp, ends) if measure == RATIO else ends), stars)


def _error(d: np.ndarray) -> float:
    """Standard error of the mean; exactly 0 where nothing varies."""
    if len(d) < 2:
        return math.nan
    return float(stats.sem(d)) if np.ptp(d) else 0.0


def _log_ratio(a: float, b: float) -> float:
    return math.log(b / a) if a > 0 and b > 0 else math.nan


def _minus(a: float, b: float) -> float:
    return b - a


@dataclass(frozen=True)
class Atlas(Generic[N]):
    """Pairs, and what was measured of their networks.

    Attributes:
        pairs: of networks.
        records: of a network and a seed: each measure, and ``parameters``.
        seeds: how many; paired are those of 0 .. seeds - 1.
        measures: that are compared.
        about: a sentence on how, for the page.
    """

    pairs: Sequence[Pair[N]]
    records: Mapping[tuple[N, int], Mapping[str, Any]]
    seeds: int
    measures: Sequence[str]
    about: str

    def both(self, pair: Pair[N], measure: str) -> tuple[list[Any], list[Any]]:
        """What was measured of ``a`` and of ``b``, seed by seed."""
        a, b = (
            [self.records[net, seed][measure] for seed in range(self.seeds)]
            for net in (pair.a, pair.b)
        )
        return a, b

    def summary(self) -> str:
        """A table of markdown: a row for every pair, in every cell the mean of a and how b differs.

        One star where the interval leaves out no difference, two where it does so with Bonferroni's
        correction for all intervals of the table; no interval where every seed gave the same.
        """
        titles = ["motif", "a -> b", "parameters", *self.measures]
        rows = [titles, ["---"] * len(titles)]
        for pair in self.pairs:
            cells = [self._cell(pair, measure) for measure in self.measures]
            a, b = self.both(pair, "parameters")
            rows.append([pair.motif, pair.name, f"{a[0]:,} -> {b[0]:,}", *cells])
        text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        return text.replace("->", "→").replace("e-0", "e-").replace("*", "\\*")

    def _cell(self, pair: Pair[N], measure: str) -> str:
        a, b = self.both(pair, measure)
        found = difference(measure, a, b, intervals=len(self.pairs) * len(self.measures))
        sign, style, ends = ("× ", ".3g", ".3g") if measure == RATIO else ("", "+.1f", ".1f")
        shown = f"{np.mean(a):{ends}}; {sign}{found.value:{style}}"
        if found.low != found.high:
            shown += f" ({found.low:{ends}} .. {found.high:{ends}})"
        return f"{shown} {'*' * found.stars}".rstrip()

    def sheet(self) -> Sheet:
        """The rows of `summary`, for a page."""
        titles = [f"{name}, ratio" if name == RATIO else name for name in self.measures]
        columns = [Column("motif", choice=True), Column("pair", note="b is compared with a.")]
        for name, title in zip(self.measures, titles, strict=True):
            ratio = name == RATIO
            unit, neutral = ("", 1.0) if ratio else ("points", 0.0)
            columns.append(Column(f"{name} of a", known=Known.MEASURED))
            columns.append(Column(title, unit, Known.MEASURED, log=ratio, neutral=neutral))
        rows = []
        for pair in self.pairs:
            row: list[Value] = [pair.motif, pair.name]
            for measure in self.measures:
                a, b = self.both(pair, measure)
                found = difference(measure, a, b, intervals=1)
                row += [float(np.mean(a)), Estimate(found.value, found.low, found.high)]
            rows.append(tuple(row))
        shown = [title for title in titles if title != "accuracy"] + ["accuracy"]
        chart = Chart(("pair",), tuple(shown), ("motif",), lying=True)
        about = f"{self.about} A star marks an interval that leaves out no difference."
        return Sheet("atlas", about, tuple(columns), rows, chart)

    def publish(self, out: Path, title: str) -> None:
        """Print the table; write it, the page and the CSV file into the folder.

        The page needs plotly; without it that is said, and the rest is there.
        """
        text = self.summary()
        print(text, end="")
        (out / "summary.md").write_text(text)
        rows = [self.sheet()]
        write_csv(rows, out / "atlas.csv")
        try:
            write_page(rows, out / "atlas.html", title)
        except SpecError as error:
            print(error)
