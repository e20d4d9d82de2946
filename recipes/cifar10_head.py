"""The protection experiment on a trained WideResNet-22-8: break its output layer and repair it.

    python recipes/cifar10_head.py                     # minutes; needs no data set, no training
    python recipes/cifar10_head.py --trials 1000 --rows 320
    python recipes/cifar10_head.py --extract runs/cifar10_wrn/wrn --root DIR

`cifar10_head.safetensors` beside this file holds what the output layer reads, in half precision:
the features of CIFAR-10's 10,000 test pictures and of 1,000 training pictures (for calibration);
and the layer's 512 x 10 weights and 10 biases, trained inside the code. `--extract` makes it from a
finished run of cifar10_wrn.py, whose record it keeps as metadata.

Linear programming on a dense Gaussian code, as in the publication (arXiv 2602.00076), meets the
same kinds of damage, seed by seed; it is told which weights are out of range, and the checks of the
intact ones.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

import parimend as pm
from parimend.codes import Gaussian
from parimend.decoders import L1
from parimend.experiment import (
    DenseTarget,
    Faults,
    ModelTarget,
    Received,
    grid_of,
    on_grid,
    run,
)

DATA = Path(__file__).with_name("cifar10_head.safetensors")
CALIBRATION = 1000
SCORED = 100
"""Trials of each kind whose accuracy is computed; all are repaired."""

KINDS = ("noise", "replace", "random", "bitflip", "multiflip", "stuck", "zero", "sign", "nonfinite")
AREAS = ("burst", "lines", "page")
"""What the weights are broken with; rows and columns of memory are more than these weights."""
L1_KINDS = KINDS + AREAS
L1_ROWS = (1024, 906)
"""Checks of the dense codes: about enough, and what theory says is enough half of the time."""


def extract(run: Path, root: Path, device: str) -> None:
    from cifar10_wrn import Cifar, load_finished, normalized, read_cifar

    model = load_finished(run).eval().to(device, memory_format=torch.channels_last)
    data: Cifar = read_cifar(root)

    @torch.no_grad()
    def features(pictures: torch.Tensor) -> torch.Tensor:
        batches = track(pictures.split(250), "features")
        return torch.cat([model.features(normalized(x.to(device), 32)).cpu() for x in batches])

    test = features(data.test_x)
    head = copy.deepcopy(model.head).cpu()
    score = 100.0 * float((head(test).argmax(1) == data.test_y).double().mean())
    tensors = {
        "test.features": test.half(),
        "test.labels": data.test_y.to(torch.uint8),
        "calibration.features": features(data.train_x[:CALIBRATION]).half(),
        "weight": head.weight.detach().contiguous(),
        "bias": head.bias.detach().contiguous(),
    }
    story = {"accuracy": score, "result": json.loads((run / "result.json").read_text())}
    save_file(tensors, DATA, metadata={"run": json.dumps(story)})


class Experiment:
    """The output layer and the pictures it is judged by."""

    def __init__(self) -> None:
        with safe_open(DATA, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.story = json.loads(file.metadata()["run"])
        self.x, self.y = tensors["test.features"].float(), tensors["test.labels"].long()
        self.calibration = tensors["calibration.features"].float()
        self.head = torch.nn.Linear(512, 10)
        with torch.no_grad():
            self.head.weight.copy_(tensors["weight"])
            self.head.bias.copy_(tensors["bias"])

    @torch.inference_mode()
    def accuracy(self, head: torch.nn.Module) -> float:
        return 100.0 * float((head(self.x).argmax(1) == self.y).double().mean())

    def inside(
        self, bias: bool, surgeon: bool, rows: int | None
    ) -> tuple[torch.nn.Linear, pm.Seal]:
        head = copy.deepcopy(self.head)
        calibration = self.calibration.split(250) if surgeon else None
        only = None if bias else ["weight"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that accuracy may suffer is what is to be seen
            seal = pm.protect_(head, 210, pm.Real(rows=rows, calibration=calibration), only=only)
        return head, seal


def faults_of(kind: str, seal: pm.Seal) -> Faults:
    """210 wrong weights of a kind."""
    options = {"replace": on_grid(grid_of(seal, "weight")), "noise": {"scale": 1.0}}
    return Faults(kind, 210, options=options.get(kind, {}))


def watched(trials: range, what: str, console: Console) -> Iterable[int]:
    disable = not console.is_terminal
    return track(trials, what, console=console, transient=True, disable=disable)


def show_cost(experiment: Experiment, console: Console) -> None:
    """Accuracy inside the code."""
    trained = experiment.accuracy(experiment.head)
    table = Table("output layer", "checks", "accuracy %", "difference", title="inside the code")
    table.add_row("as trained", "-", f"{trained:.2f}", "-")
    for rows in (None, 320, 906):
        for bias in (True, False):
            for surgeon in (True, False):
                head, seal = experiment.inside(bias, surgeon, rows)
                score = experiment.accuracy(head)
                name = f"{'weights and bias' if bias else 'weights'}, " + (
                    f"surgeon ({CALIBRATION} pictures)" if surgeon else "projected"
                )
                m = seal.words[0].code.m
                table.add_row(name, f"{m}", f"{score:.2f}", f"{score - trained:+.2f}")
    console.print(table)


def show_repair(experiment: Experiment, trials: int, rows: int | None, console: Console) -> None:
    """210 of the 5,120 weights broken by every kind of damage."""
    intact, seal = experiment.inside(bias=True, surgeon=True, rows=rows)
    code = seal.words[0].code
    target = ModelTarget(intact, seal, only=["weight"])
    table = Table(
        "210 of 5,120 weights",
        "accuracy damaged % (mean, worst)",
        "repaired bit for bit",
        "wrong",
        "processor ms, median",
        "accuracy repaired %",
        title=f"{code.m} checks ({code.redundancy:.1%})",
    )
    for kind in KINDS + AREAS:
        faults = faults_of(kind, seal)
        seeds, scored = range(trials), min(trials, SCORED)
        first, rest = (watched(part, kind, console) for part in (seeds[:scored], seeds[scored:]))
        counts = run(target, faults, first, experiment.accuracy, time.process_time)
        counts += run(target, faults, rest, clock=time.process_time)
        table.add_row(
            kind,
            f"{statistics.mean(counts.before):.2f}, {min(counts.before):.2f}",
            f"{counts.repaired:,} of {trials:,}",
            str(counts.wrong),
            f"{1e3 * statistics.median(counts.seconds):.1f}",
            f"{statistics.mean(counts.after):.2f}",
        )
    console.print(table)


class Dense:
    """The output layer inside a dense Gaussian code, decoded by L1 minimization."""

    def __init__(self, experiment: Experiment, m: int, limit: float) -> None:
        code = Gaussian(n=5120, m=m, seed=0)
        self._experiment, self._head = experiment, copy.deepcopy(experiment.head)
        x = code.project(self._head.weight.detach().double().numpy().ravel())
        self.target = DenseTarget(code, L1(), x.astype(np.float32), tolerance=1e-5, limit=limit)

    def accuracy(self, state: Received) -> float:
        with torch.no_grad():
            self._head.weight.copy_(torch.from_numpy(state.word).view(self._head.weight.shape))
        return self._experiment.accuracy(self._head)


def show_l1(experiment: Experiment, trials: int, console: Console) -> None:
    """The same with a dense Gaussian code and linear programming, as in the publication."""
    _, seal = experiment.inside(bias=True, surgeon=True, rows=None)
    grid = grid_of(seal, "weight")
    rivals = [Dense(experiment, m, grid.step * grid.limit) for m in L1_ROWS]
    table = Table(title="dense Gaussian code, L1 minimization: 210 of 5,120 weights")
    table.add_column("damage")
    for m, rival in zip(L1_ROWS, rivals, strict=True):
        inside = rival.accuracy(rival.target.received(rival.target.intact))
        table.add_column(f"{m} checks ({m / 5120:.1%}), inside {inside:.2f} %: within 1e-5")
        table.add_column("processor ms, median")
        table.add_column("accuracy repaired %")
    for kind in L1_KINDS:
        cells = [kind]
        for m, rival in zip(L1_ROWS, rivals, strict=True):
            seeds = watched(range(trials), f"{kind}, L1, {m} checks", console)
            faults = faults_of(kind, seal)
            counts = run(rival.target, faults, seeds, rival.accuracy, time.process_time)
            cells += [
                f"{counts.repaired:,} of {trials:,}",
                f"{1e3 * statistics.median(counts.seconds):,.0f}",
                f"{statistics.mean(counts.after):.2f}",
            ]
        table.add_row(*cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="for each kind of damage")
    parser.add_argument("--rows", type=int, help="checks; as many as 210 errors need if absent")
    parser.add_argument(
        "--l1-trials", type=int, default=5, help="for each kind and number of checks"
    )
    parser.add_argument("--extract", type=Path, metavar="RUN", help="make the data from this run")
    parser.add_argument("--root", type=Path, help="holds CIFAR-10; for --extract")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.extract:
        if args.root is None:
            parser.error("--extract needs --root")
        extract(args.extract, args.root, args.device)
    console = Console(width=120)
    if not DATA.exists():
        raise SystemExit(f"{DATA} is missing: make it with --extract RUN --root DIR")
    experiment = Experiment()
    result = experiment.story["result"]
    console.print(
        f"WideResNet-{result['depth']}-{result['width']}, {result['parameters']:,} parameters, "
        f"{experiment.story['accuracy']:.2f} % on CIFAR-10's test pictures; with features in half "
        f"precision {experiment.accuracy(experiment.head):.2f} %"
    )
    show_cost(experiment, console)
    show_repair(experiment, args.trials, args.rows, console)
    if args.l1_trials:
        show_l1(experiment, args.l1_trials, console)


if __name__ == "__main__":
    main()
