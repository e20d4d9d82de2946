"""Seals of files, one for each format, that were written once and have to stay readable."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from samples import load

from parimend import check_file, repair_file
from parimend.files.seals import SUFFIX, sidecar_of
from parimend.formats import FORMATS
from parimend.outcomes import Verdict
from parimend.seal import read_unsealed

GOLDEN = Path(__file__).parents[1] / "golden" / "formats"


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    folder = shutil.copytree(GOLDEN / request.param, tmp_path / request.param)
    return max(path for path in folder.iterdir() if path.suffix != SUFFIX)


def test_the_seal_fits_and_is_as_it_would_be_written(path):
    assert check_file(path).verdict is Verdict.CLEAN
    data = sidecar_of(path).read_bytes()
    seal, layout, is_intact = read_unsealed(sidecar_of(path))
    assert is_intact
    assert layout.format.name == path.parent.name
    assert seal.to_bytes() == data


def test_damage_is_repaired(path, rng):
    original, before = path.read_bytes(), load(path)
    layout = read_unsealed(sidecar_of(path)).layout
    damaged = bytearray(original)
    for at, span in layout.spans:
        damaged[at + int(rng.integers(len(span)))] ^= 1
    sizes = [entry.end - entry.begin for entry in layout.entries]
    largest = layout.entries[int(np.argmax(sizes))]
    for at in rng.choice(np.arange(largest.begin, largest.end, 4), 5, replace=False):
        damaged[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(damaged)
    report = check_file(path)
    assert report.verdict is Verdict.CORRECTABLE
    assert {change.tensor for change in report.changes} == {largest.name}
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original
    assert load(path) == before
