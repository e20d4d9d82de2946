"""A small network on the digits, as a spec names it."""

import copy
import os
import signal
import threading
from functools import cache
from itertools import count
from pathlib import Path

import torch

from parimend import datasets

RUNS = count()


digits = cache(datasets.digits)


def network(hidden=16, steps=60):
    return copy.deepcopy(trained(hidden, steps))


@cache
def trained(hidden, steps):
    """Once in a process: the numbers are the same every time."""
    data = digits()
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def pictures():
    data = digits()
    return torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)


def accuracy(model, data):
    x, y = data
    return float((model(x).argmax(1) == y).float().mean())


def not_a_number(model, data):
    return float("nan")


def drifting(model, data):
    return float(next(RUNS))


def failing(model, data):
    raise ValueError("no such layer")


def ending(model, data):
    raise SystemExit(0)


def failing_when_damaged(model, data):
    if max(float(p.abs().max()) for p in model.parameters()) > 1e3:
        raise OverflowError("too large")
    return 1.0


def nothing(steps):
    return 3


def leaving(steps=0):
    raise SystemExit(0)


def broken(steps=0):
    raise RuntimeError("out of\nmemory")


def deadly(model, data):
    """Kills the first worker that comes here."""
    mark = Path(os.environ["CAMPAIGN_MARK"])
    if os.environ["CAMPAIGN_PARENT"] != str(os.getpid()) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def a_half(model, data):
    return 0.5


def endless():
    return (i for i in range(3))


def locked():
    model = network(steps=0)
    model.lock = threading.Lock()
    return model
