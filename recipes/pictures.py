"""The data sets of recipes, as they are named on the command line."""

from __future__ import annotations

from pathlib import Path

from parimend import datasets
from parimend.datasets import DataSet
from parimend.errors import ParimendError


def pictures_of(name: str, root: Path | None) -> DataSet:
    """A data set by its name.

    Args:
        name: see `parimend.datasets.load`.
        root: what ``--root`` says.

    Raises:
        SystemExit: if it is not there, or not what it should be; with what is wrong.
    """
    try:
        return datasets.load(name, root)
    except ParimendError as error:
        raise SystemExit(f"--root: {error}") from None
