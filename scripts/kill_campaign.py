"""Kill a campaign at random moments, and see that no finished task is lost and none is done twice.

python scripts/kill_campaign.py --times 50
python scripts/kill_campaign.py --times 5 --workers 2

Whatever was finished before a kill, by what the folder says, has to be there after it. At the end
the campaign is resumed, and its statistics file has to be that of a run that nothing interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from parimend.campaign import Store, run


def main() -> None:
    """Read the arguments, and exit with 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=None, help="A new folder; by default temporary."
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(_kill(args.out or Path(folder), args.times, args.workers, args.seed))


def _kill(folder: Path, times: int, workers: int, seed: int) -> int:
    model = folder / "model.safetensors"
    save_file({"w": np.random.default_rng(0).normal(size=20_000).astype(np.float32)}, model)
    spec = {
        "networks": {"weights": {"file": str(model)}},
        "protections": {"none": {}, "sidecar": {"errors": 8}},
        "faults": {"flips": {"kind": "bitflip", "count": 8}},
        "stop": {"trials": 60 * max(times, 3)},
        "block": 5,
    }
    run(spec, folder / "whole", workers=1)
    out, moments = folder / "out", random.Random(seed)
    kept: set[str] = set()
    lost = killed = 0
    while killed < times:
        began = _lines(out)
        child = _started(spec, out, workers)
        # Some moments are before the first row, most between two rows or within one.
        _wait(child, out, began + moments.randrange(12), moments.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
        now = set(Store(out).statistics().rows) if (out / "campaign.json").exists() else set()
        lost += len(kept - now)
        kept |= now
    run(spec, out, workers=1)
    keys = [json.dumps(row["row"]["task"]) for row in _rows(out)]
    doubled = len(keys) - len(set(keys))
    same = _file(out) == _file(folder / "whole")
    verdict = "are" if same else "ARE NOT"
    print(
        f"killed {killed} times, {len(kept)} of {len(set(keys))} tasks done by then: {lost} lost, "
        f"{doubled} doubled, the statistics {verdict} those of an uninterrupted run"
    )
    return 0 if same and not lost and not doubled else 1


def _started(spec: dict, out: Path, workers: int) -> int:
    child = os.fork()  # everything is loaded already
    if child == 0:
        run(spec, out, workers=workers)
        os._exit(0)
    return child


def _wait(child: int, out: Path, lines: int, seconds: float) -> None:
    while _lines(out) < lines:
        time.sleep(0.001)
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
    time.sleep(seconds)


def _lines(out: Path) -> int:
    rows = out / "rows.jsonl"
    return rows.read_bytes().count(b"\n") if rows.exists() else 0


def _rows(out: Path) -> list[dict]:
    found = []
    for line in (out / "rows.jsonl").read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # torn
    return found


def _file(out: Path) -> bytes:
    return (out / "statistics.jsonl").read_bytes()


if __name__ == "__main__":
    main()
