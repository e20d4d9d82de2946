"""Sheets that all tests of this folder share."""

from parimend.experiment import Estimate
from parimend.report import Chart, Column, Known, Sheet
from tests.cli.conftest import quick_disk, run  # noqa: F401

HOSTILE = (
    "</script><script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title = 'taken'\">",
    "{{data}} $x_1$ & ' \" \u2028 \x1b[2J",
)
"""Names that would break a page that takes them for anything but text."""


def sheet(names=("none", "secded", *HOSTILE), layers=4, **chart):
    """Names as protections, under faults of three sizes, in some layers."""
    columns = (
        Column("protection", choice=True),
        Column("layer", choice=True),
        Column("count", choice=True, log=True),
        Column("silent", "%", Known.MEASURED, "nothing was found, and something is wrong."),
        Column("kept", "bytes", Known.PROVEN, log=True),
    )
    rows = [
        (name, f"layer.{layer}", count, _share(at + layer + count), 100 * (at + 1))
        for at, name in enumerate(names)
        for layer in range(layers)
        for count in (1, 10, 100)
    ]
    given = {
        "along": ("count", "layer"),
        "values": ("silent", "kept"),
        "by": ("protection", "layer"),
    }
    return Sheet("outcomes", "What became of it.", columns, rows, Chart(**given | chart))


def _share(value):
    return Estimate(0.0, 0.0, 3.7, 2.95) if value % 3 else Estimate(value / 2, value / 3, value)
