from pathlib import Path

from tests.cli.conftest import quick_disk  # noqa: F401
from tests.cli.conftest import run as command  # noqa: F401

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
