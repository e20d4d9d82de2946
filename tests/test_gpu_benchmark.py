"""The benchmarks of a GPU run, small, where there is none."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks import operations
from benchmarks.training import VARIANTS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Runs the benchmark in this process."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def started(*arguments):
        command = ["gpu.py", "--device", "cpu", "--out", tmp_path / "gpu.json", *arguments]
        monkeypatch.setattr(sys, "argv", [str(each) for each in command])
        import_module("gpu").main()

    with torch._dynamo.config.patch(recompile_limit=8):  # it sets one of its own
        yield started


@pytest.fixture
def run(started, tmp_path, capsys):
    def run(*arguments):
        started(*arguments)
        return json.loads((tmp_path / "gpu.json").read_text()), capsys.readouterr().out

    return run


STEPS = ["kernels", "sidecar", "real", "lowbits", "sums", "large", "many"]
STEPS += ["scrubber", "screens", "guards", "training", "host"]


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
@pytest.mark.parametrize(
    "steps", [["kernels", "many", "training"], pytest.param(STEPS, marks=pytest.mark.long)]
)
def test_every_step_finds_something(run, steps, monkeypatch):
    chosen = [] if steps is STEPS else ["--only", *steps]
    if chosen:
        monkeypatch.setattr(import_module("gpu"), "DTYPES", (torch.bfloat16, torch.bool))
    found, shown = run("--gigabytes", "0.00003", "--errors", "2", *chosen)
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


def test_a_step_that_takes_too_long_is_told_and_the_next_goes_on(run):
    few = ("--gigabytes", "0.00003", "--only", "kernels", "host", "--scale", "1e-2")
    found, _ = run(*few)
    assert "over" in found["kernels"]["failed"]
    assert "GB/s" in found["host"] or "over" in found["host"]["failed"]


def test_steps_that_are_not_there_are_named(started, capsys):
    with pytest.raises(SystemExit) as end:
        started("--only", "weights", "many")
    assert end.value.code == 2
    assert "no step is called weights: take some of ['kernels'" in capsys.readouterr().err


def test_operations_of_a_step_are_counted():
    for found in (
        operations.projection(operations.mlp(), ["head.*"]),
        operations.healing(operations.mlp(), 100),
        operations.healing(operations.mlp(), None),
    ):
        assert 0 < found.operations < 100
        assert found.reads == 1


def test_what_a_guard_asks_for_is_counted(monkeypatch):
    monkeypatch.setattr(operations, "REPEATED", 2)
    operations_, launches, host = operations.guarding(
        torch.nn.Linear(16, 16), torch.ones(8, 16), True
    )
    assert (operations_, launches) == (0, 1)
    assert host > 0.0
