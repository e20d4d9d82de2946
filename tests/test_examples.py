"""The examples run, as a user would run them."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("transformers_folder.py", "corrected: 450 weights\nsame output as before: True\n"),
        (
            "training_checkpoints.py",
            "resumed after epoch 2; same loss as without a break: True\n",
        ),
    ],
)
def test_example(name, says, tmp_path):
    command = [sys.executable, EXAMPLES / name, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert says in run.stdout


def test_every_example_is_tested():
    [mark] = test_example.pytestmark
    assert {path.name for path in EXAMPLES.glob("*.py")} == {name for name, _ in mark.args[1]}
