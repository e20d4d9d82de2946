"""How large the page of a campaign is, and how long a browser takes to open it.

python benchmarks/reports.py --out DIR                # five protections, four faults
python benchmarks/reports.py --out DIR --strata       # single flips, by layer and bits

The campaign is run once and kept in DIR. Chromium and chromedriver have to be installed. The time
is from asking for the page to tables and figures that are drawn, the median and the best of some.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import save_file
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from parimend.campaign import Spec, lines, run
from parimend.report import campaign_sheets, write_page

PROTECTIONS = {
    "none": {},
    "secded": {},
    "mset": {},
    "copies": {},
    "sidecar": {"kind": "sidecar", "errors": 4},
}
LAYERS = 12


def spec(out: Path, trials: int, strata: bool) -> Spec:
    weights = out / "network.safetensors"
    draw = np.random.default_rng(0)
    save_file(
        {f"layer.{i}": draw.normal(size=(32, 32)).astype(np.float32) for i in range(LAYERS)},
        weights,
    )
    counts = (1,) if strata else (1, 4, 16, 64)
    given = {
        "networks": {"net": {"file": str(weights.resolve())}},
        "protections": PROTECTIONS,
        "faults": {f"flip-{n}": {"kind": "bitflip", "count": n} for n in counts},
        "stop": {"trials": trials // len(PROTECTIONS) // len(counts), "first": trials // 20},
        "block": 100,
    }
    if strata:
        given["strata"] = {"layers": True, "bits": [[0, 22], [23, 30], [31, 31]]}
    return Spec.of(given)


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
    args.out.mkdir(parents=True, exist_ok=True)
    run(spec(args.out, args.trials, args.strata), args.out / "results", workers=1)
    began = time.perf_counter()
    sheets = campaign_sheets(args.out / "results")
    page = args.out / "page.html"
    write_page(sheets, page, "A campaign")
    took = time.perf_counter() - began
    trials = sum(line.trials for line in lines(args.out / "results"))
    times = opened(page, args.times)
    print(
        f"{trials:,} trials, {sum(len(sheet.rows) for sheet in sheets):,} rows: written in "
        f"{took:.1f} s, {page.stat().st_size / 1e6:.2f} MB, opens in {median(times):.0f} ms "
        f"(best {times[0]:.0f}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )


if __name__ == "__main__":
    main()
