"""The benchmarks of a GPU run, small, where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import operations
from benchmarks.training import VARIANTS

ROOT = Path(__file__).parents[1]


def started(tmp_path, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu"]
    return subprocess.run(
        [*command, "--out", tmp_path / "gpu.json", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src") + ":" + os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
    )


def run(tmp_path, *arguments):
    done = started(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "gpu.json").read_text()), done.stdout


STEPS = ["kernels", "sidecar", "real", "lowbits", "sums", "large", "many"]
STEPS += ["scrubber", "screens", "guards", "training", "host"]


@pytest.mark.parametrize(
    "steps", [["kernels", "many", "training"], pytest.param(STEPS, marks=pytest.mark.long)]
)
def test_every_step_finds_something(tmp_path, steps):
    chosen = [] if steps is STEPS else ["--only", *steps]
    found, shown = run(tmp_path, "--gigabytes", "0.00003", "--errors", "2", *chosen)
    assert list(dict.fromkeys(step.split()[0] for step in found)) == ["card", *steps]
    assert not [step for step in found if "failed" in found[step]], found
    tried = found["kernels"]["equal"].split(" of ")
    assert tried[0] == tried[1] != "0"
    if "sidecar" in steps:
        assert all(found["sidecar"][what] for what in ("seal", "clean", "seen", "repaired"))
    assert all(found[step]["repaired"] == "1 of 1" for step in {"large", "many"} & {*steps})
    added = [found["training"][f"8-512-10, {how}"] for how in VARIANTS]
    assert added[0]["added %"] == 0.0
    assert all(each["ms a step"] > 0 for each in added)
    assert all(each["heals"] for each in added[3:])
    assert all(step in shown for step in steps)


def test_a_step_that_takes_too_long_is_told_and_the_next_goes_on(tmp_path):
    few = ("--gigabytes", "0.00003", "--only", "kernels", "host", "--scale", "1e-2")
    found, _ = run(tmp_path, *few)
    assert "over" in found["kernels"]["failed"]
    assert "GB/s" in found["host"] or "over" in found["host"]["failed"]


def test_steps_that_are_not_there_are_named(tmp_path):
    done = started(tmp_path, "--only", "weights", "many")
    assert done.returncode == 2
    assert "no step is called weights: take some of ['kernels'" in done.stderr


def test_operations_of_a_step_are_counted():
    for found in (
        operations.projection(operations.mlp(), ["head.*"]),
        operations.healing(operations.mlp(), 100),
        operations.healing(operations.mlp(), None),
    ):
        assert 0 < found.operations < 100
        assert found.reads == 1


def test_what_a_guard_asks_for_is_counted():
    operations_, launches, host = operations.guarding(
        torch.nn.Linear(16, 16), torch.ones(8, 16), True
    )
    assert (operations_, launches) == (0, 1)
    assert host > 0.0
