"""What all tests share: hypothesis profiles, seeded random numbers, data."""

import gzip
import os
import zlib
from pathlib import Path

# The test workers already fill the cores: one thread each. Read when torch and BLAS are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"
"""Where MNIST's four IDX files may lie; without them the tests use scikit-learn's digits."""

# No deadlines: the first example pays for compiling the kernels.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_terminal_summary(terminalreporter):
    # At the end and not in the header, which `pytest -q` leaves out.
    terminalreporter.write_line(f"data: {data_name()}")


@pytest.fixture
def rng(request):
    """Random numbers that depend on the test alone, not on the order of the tests."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def digits_or_mnist():
    """(x_train, y_train, x_test, y_test, name): MNIST if it is there, else the digits.

    x: (N, pixels) float32 in [0, 1]; y: (N,) int64. Shared by all tests: not to be changed.
    """
    return _mnist() if data_name() == "mnist" else _digits()


def data_name():
    return "mnist" if MNIST.is_dir() else "digits"


def _mnist():
    def read(name, header):
        with gzip.open(MNIST / f"{name}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    def split(name):
        x = read(f"{name}-images-idx3", 16).reshape(-1, 28 * 28).astype(np.float32) / 255
        return x, read(f"{name}-labels-idx1", 8).astype(np.int64)

    return *split("train"), *split("t10k"), "mnist"


def _digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1400], order[1400:]
    return x[train], y[train], x[test], y[test], "digits"
