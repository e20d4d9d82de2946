"""Files that are damaged or make no sense: a verdict or one of our errors, at little cost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "scripts" / "fuzz.py"


def fuzz(*options):
    command = [sys.executable, FUZZ, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("inputs", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_no_input_fails(tmp_path, inputs):
    limits = ["--inputs", inputs, "--minutes", 60, "--jobs", 2]
    done = fuzz(*limits, "--failures", tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("inputs, 0 failures")


def test_what_fails_is_kept_and_can_be_replayed(tmp_path):
    done = fuzz("--inputs", 2, "--minutes", 60, "--megabytes", 1, "--failures", tmp_path)
    assert done.returncode == 1
    kept = sorted(tmp_path.glob("1-*.json"))
    assert len(kept) == 2
    assert "MB" in json.loads(kept[0].read_text())["wrong"]
    again = fuzz("--replay", kept[0])
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "as it should be")
