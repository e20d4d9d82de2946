from pathlib import Path

import pytest

HERE = Path(__file__).parent
RECIPE = "digits_recipe"


def tables(**more):
    """A small campaign on the digits."""
    return {
        "networks": {
            "digits": {
                "build": f"{RECIPE}:network",
                "arguments": {"steps": 40},
                "data": f"{RECIPE}:pictures",
                "metric": f"{RECIPE}:accuracy",
            }
        },
        "protections": {"none": {}, "sidecar": {"errors": 2}},
        "faults": {"flip": {"kind": "bitflip", "count": 1}, "five": {"kind": "random", "count": 5}},
        "stop": {"trials": 20},
        "block": 5,
        **more,
    }


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Forcing data to the disk takes long, and shows only when the power fails."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
