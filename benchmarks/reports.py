"""How large the page of a campaign is, and how long a browser takes to open it.

python benchmarks/reports.py --out DIR                # five protections, four faults
python benchmarks/reports.py --out DIR --strata       # single flips, by layer and bits

What came of the trials is made up, so that only the page takes time. Chromium and chromedriver have
to be installed. The time is from asking for the page to tables and figures that are drawn, the
median and the best of some.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from statistics import median

import numpy as np
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from parimend.campaign import Fact, Prepared, Row, Spec, Statistics, Store, Stratum, Task, lines
from parimend.campaign.rounds import units
from parimend.report import campaign_sheets, write_page

PROTECTIONS = ("none", "secded", "mset", "copies", "reload")
LAYERS = 12
BITS = ((0, 22), (23, 30), (31, 31))


def spec(trials: int, strata: bool) -> Spec:
    counts = (1,) if strata else (1, 4, 16, 64)
    given = {
        "networks": {"net": {"build": "made:up", "metric": "made:up"}},
        "protections": {name: {} for name in PROTECTIONS},
        "faults": {f"flip-{n}": {"kind": "bitflip", "count": n} for n in counts},
        "stop": {"trials": trials // len(PROTECTIONS) // len(counts), "first": trials // 20},
        "block": 100,
    }
    if strata:
        given["strata"] = {"layers": True, "bits": BITS}
    return Spec.of(given)


def make(out: Path, asked: Spec) -> None:
    """A finished campaign."""
    strata = [Stratum()]
    if asked.strata.asked:
        names = [f"layer.{i}.weight" for i in range(LAYERS)]
        strata = [
            Stratum((name,), bits, (bits[1] - bits[0] + 1) / 32 / LAYERS)
            for name in names
            for bits in BITS
        ]
    facts = [Fact("net", name, "0" * 32, 0.9, 0.9, 1000, 1.0) for name in PROTECTIONS]
    prepared = Prepared(tuple(facts), {"net": tuple(strata)})
    store = Store.make(out, asked)
    store.note(prepared)
    draw = np.random.default_rng(0)
    done = Statistics()
    with store.writing() as writer:
        for unit in units(asked, prepared):
            while missing := unit.advance(done)[1]:
                for task in missing:
                    row = made_up(task, draw)
                    done.add_(row)
                    writer.add(row)


def made_up(task: Task, draw: np.random.Generator) -> Row:
    count = task.stop - task.start
    outcomes = "".join(draw.choice(list("mrdxs"), count))
    scores = tuple(draw.uniform(0.1, 0.9, count).tolist())
    return Row(task, outcomes, (1,) * count, scores, (0.001,) * count)


def opened(page: Path, times: int) -> list[float]:
    """Milliseconds, sorted."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.add_argument("--headless=new")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    found = []
    with Chrome(options=options, service=Service(shutil.which("chromedriver"))) as driver:
        for _ in range(times):
            driver.get(page.resolve().as_uri())
            WebDriverWait(driver, 60).until(
                lambda each: each.execute_script("return document.body.dataset.state") == "ready"
            )
            mark = "return performance.getEntriesByName('ready')[0].startTime"
            found.append(driver.execute_script(mark))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--strata", action="store_true")
    parser.add_argument("--times", type=int, default=9)
    args = parser.parse_args()
    results = args.out / "results"
    make(results, spec(args.trials, args.strata))
    began = time.perf_counter()
    sheets = campaign_sheets(results)
    page = args.out / "page.html"
    write_page(sheets, page, "A campaign")
    took = time.perf_counter() - began
    trials = sum(line.trials for line in lines(results))
    times = opened(page, args.times)
    print(
        f"{trials:,} trials, {sum(len(sheet.rows) for sheet in sheets):,} rows: written in "
        f"{took:.1f} s, {page.stat().st_size / 1e6:.2f} MB, opens in {median(times):.0f} ms "
        f"(best {times[0]:.0f}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )


if __name__ == "__main__":
    main()
