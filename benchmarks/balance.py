"""Budgets balanced over bits against even ones of the same bytes: the rates that they tolerate.

    python benchmarks/balance.py digits mnist head --mnist DIR --head FILE --trials 100

A network is trained, the strong bits are chosen with training pictures, and all is measured on test
pictures: bits of all parameters are flipped at a rate, the model is repaired, its accuracy compared
with that of the intact one. The tolerated rate is the highest of a grid at which the mean loss and
two of its standard errors are within the tolerance. With several checks, what the balanced budget
leaves wrong adds up until the last one.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors.numpy
import torch

import parimend as pm
from parimend.datasets import DataSet, load
from parimend.demo import train
from parimend.experiment import Rate
from parimend.planner.balance import strikes_of
from parimend.planner.striking import Judged, Strike, Trials, injected
from parimend.stores.naming import named_tensors
from parimend.stores.shards import store_of

STEP = 1.15
"""Rates of the grid differ by this factor."""
CALIBRATION = 1000
TESTED = 2000
FIRST = 1 << 32  # seeds of the damage that is measured: others than those that chose


class Pictures(NamedTuple):
    """What a network sees, and what it should say."""

    x: torch.Tensor
    y: torch.Tensor

    def accuracy(self, model: torch.nn.Module) -> float:
        """Share of right answers."""
        with torch.no_grad():
            return float((model(self.x).argmax(1) == self.y).double().mean())


class Network(NamedTuple):
    """A trained network."""

    name: str
    model: torch.nn.Module
    calibration: Pictures
    test: Pictures


def trained(data: DataSet) -> Network:
    """The network of the demonstration."""
    model, _ = train(data, 0, None, lambda done, total: None)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    test = Pictures(torch.from_numpy(data.test_x[:TESTED]), torch.from_numpy(data.test_y[:TESTED]))
    name = f"{data.name}, {data.train_x.shape[1]} - 512 - 10"
    return Network(name, model, Pictures(x[:CALIBRATION], y[:CALIBRATION]), test)


def head(path: Path) -> Network:
    """The output layer of a WideResNet, with what it reads of pictures."""
    held = {k: torch.from_numpy(v) for k, v in safetensors.numpy.load_file(path).items()}
    model = torch.nn.Linear(512, 10)
    model.load_state_dict({name: held[name] for name in ("weight", "bias")})
    seen, x, y = (held[name] for name in ("calibration.features", "test.features", "test.labels"))
    with torch.no_grad():
        answers = model(seen.float()).argmax(1)  # of pictures it was trained with
    test = Pictures(x[:TESTED].float(), y[:TESTED].long())
    return Network("output of WRN-22-8, 512 - 10", model, Pictures(seen.float(), answers), test)


def tolerated(judge: Callable[[float], Trials], start: float, tolerance: float) -> Tolerated:
    """The highest rate of the grid around a first one that is tolerated, and its trials."""
    up = (best := judge(start)).within(tolerance)
    rate = start
    while True:
        rate = rate * STEP if up else rate / STEP
        found = judge(rate)
        if found.within(tolerance) is not up:
            return Tolerated(rate / STEP, best) if up else Tolerated(rate, found)
        best = found


class Tolerated(NamedTuple):
    """A rate, and what was measured at it."""

    rate: float
    trials: Trials


def measure(network: Network, options: argparse.Namespace, checks: int) -> Iterator[str]:
    """Rows of the table: an even budget, and the balanced one of as many bytes."""
    calibration, tolerance = network.calibration, options.tolerance
    found = pm.balance(
        network.model,
        options.errors,
        [calibration.x],
        calibration.accuracy,
        tolerance=tolerance,
        checks=checks,
    )
    model = copy.deepcopy(network.model).eval()
    tensors = store_of(named_tensors(model))
    judged = Judged.of(tensors, lambda: network.test.accuracy(model))
    seeds = range(FIRST, FIRST + options.trials)
    made = found.request.balance
    if made is None:
        yield f"{network.name}, {checks} checks: nothing gained"
        return

    def even(rate: float) -> Trials:
        return injected(judged, [Strike(tensors.whole(), rate)], seeds, seals[0])

    def balanced(rate: float) -> Trials:
        return injected(judged, strikes_of(made, rate, checks), seeds, seals[1], 1)

    seals = pm.protect_(model, options.errors), pm.protect_(model, found)
    planned = found.even_rate, found.rate
    rates = [
        tolerated(judge, rate, tolerance)
        for judge, rate in zip((even, balanced), planned, strict=True)
    ]
    budgets = str(options.errors), " + ".join(map(str, found.budgets))
    for budget, seal, rate, best in zip(budgets, seals, planned, rates, strict=True):
        low, high = Rate(best.trials.lost, options.trials).interval()
        cells = (
            network.name,
            str(checks),
            budget,
            f"{len(seal.to_bytes()):,}",
            f"{rate:.2e}",
            f"{best.rate:.2e}",
            f"{100 * best.trials.loss:.2f} ± {200 * best.trials.error:.2f}",
            f"{best.trials.lost} of {options.trials} ({100 * low:.1f}-{100 * high:.1f})",
            f"{best.rate / rates[0].rate:.1f}",
        )
        yield "| " + " | ".join(cells) + " |"
    strong = ", ".join(f"{name} {mask:#010x}" for name, mask in found.masks.items())
    yield f"(strong: {strong}; planned gain {found.gain:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["digits"], help="digits, mnist, head")
    parser.add_argument("--mnist", type=Path, help="folder of the IDX files")
    parser.add_argument("--head", type=Path, help="the file of the output layer")
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--checks", type=int, nargs="+", default=[1, 10, 100])
    options = parser.parse_args()
    make: dict[str, Callable[[], Network]] = {
        "digits": lambda: trained(load("digits")),
        "mnist": lambda: trained(load("mnist", options.mnist)),
        "head": lambda: head(options.head),
    }
    columns = ["network", "checks", "errors", "bytes", "planned rate", "tolerated rate"]
    columns += ["loss, points", "lost (95 %)", "gain"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name in options.networks:
        network = make[name]()
        for checks in options.checks:
            for row in measure(network, options, checks):
                print(row, flush=True)


if __name__ == "__main__":
    main()
