"""Kernels in Triton compile for GPUs, as their callers launch them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("capability", "shapes"),
    [
        ("80", 1),
        pytest.param("80", 4, marks=pytest.mark.long),
        pytest.param("90", 4, marks=pytest.mark.long),
    ],
)
def test_every_kernel_compiles(capability, shapes, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compiling", capability, str(shapes)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = {name: rest for name, *rest in map(str.split, done.stdout.splitlines())}
    kernels = {"_check_rows", "_check_products", "_check_planes", "_add_up", "_multiply"}
    assert counts.keys() == kernels
    assert int(counts["_check_products"][0]) == shapes
    assert {waiting for _, waiting in counts.values()} == {"0"}
