"""Damage of every size and kind: what is said is true, and only what is right is written."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "trials.py"


@pytest.fixture(scope="module")
def trials():
    spec = importlib.util.spec_from_file_location("trials", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["trials"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["trials"]


@pytest.mark.parametrize("count", [15, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("carrier", ["sidecar", "real", "lowbits"])
def test_what_is_said_is_true(trials, carrier, count):
    ends = {end for _, end in trials.run(carrier, count, seed=1)}
    assert {"corrected", "uncorrectable"} <= ends
