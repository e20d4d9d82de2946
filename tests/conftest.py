"""What all tests share: hypothesis profiles, seeded random numbers, data."""

import os
import zlib
from pathlib import Path

# The test workers already fill the cores: one thread each. Read when torch and BLAS are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Kernels in Triton run on the processor. Read when Triton is loaded.
os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from parimend import datasets

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"
"""Where MNIST's four IDX files may lie; without them the tests use scikit-learn's digits."""

# No deadlines: the first example pays for compiling the kernels.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=25,  # they are always the same: developers look for others
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_terminal_summary(terminalreporter):
    # At the end and not in the header, which `pytest -q` leaves out.
    terminalreporter.write_line(f"data: {data_name()}")
    chosen = terminalreporter.config.option.markexpr
    for mark in ("browser", "par2", "long"):
        if f"not {mark}" in chosen:
            terminalreporter.write_line(f"left out: tests marked {mark}, which `make {mark}` runs")


@pytest.fixture
def interrupt_at(monkeypatch):
    """Lets an interrupt come as the hook of a number is put on: when PyTorch has the hook, and
    nobody has its handle.
    """
    from torch import nn

    register, left = nn.Module.register_forward_hook, []

    def interrupted(*args, **kwargs):
        handle = register(*args, **kwargs)
        left.pop()
        if not left:
            raise KeyboardInterrupt
        return handle

    def at(number):
        left[:] = [None] * number

    monkeypatch.setattr(nn.Module, "register_forward_hook", interrupted)
    return at


@pytest.fixture
def rng(request):
    """Random numbers that depend on the test alone, not on the order of the tests."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def digits_or_mnist():
    """A `DataSet`: MNIST if it is there, else the digits.

    Pictures are (N, pixels) float32 in [0, 1]. Shared by all tests: not to be changed.
    """
    return datasets.load(data_name(), MNIST)


def data_name():
    return "mnist" if MNIST.is_dir() else "digits"
