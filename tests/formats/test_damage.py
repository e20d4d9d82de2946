"""Damage up to the budget, and of every bit around the tensors, of files of every format."""

import pytest
import trials
from samples import SAMPLES

from parimend.formats import FORMATS
from tests.files.conftest import quick_disk  # noqa: F401


def test_there_is_a_sample_of_every_format():
    assert set(SAMPLES) == set(FORMATS)


@pytest.mark.parametrize("count", [8, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", SAMPLES)
def test_all_of_it_is_repaired(name, count):
    """`scripts/trials.py --format` does many more."""
    counts = trials.run_format(name, count, seed=3)
    assert sum(counts.values()) == count
    assert counts["up to 210 words"] >= count // 2
