"""The examples run, in this process."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.filterwarnings("ignore:.* is damaged, what is loaded is not")
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
def test_example(name, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert says in capsys.readouterr().out


def test_every_example_is_tested():
    mark = next(each for each in test_example.pytestmark if each.name == "parametrize")
    assert {path.name for path in EXAMPLES.glob("*.py")} == {name for name, _ in mark.args[1]}
