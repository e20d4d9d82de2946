"""Train feedforward networks with and without the constraint, same seeds, and compare.

    python recipes/mnist_fnn.py --root DIR                       # MNIST, 784-512-10, 5 seeds
    python recipes/mnist_fnn.py --data digits --batchnorm --dropout 0.2 --sam --seeds 3

Every run (seed, constraint) is a record in OUT/runs.jsonl; an interrupted call goes on where it
was, from the last epoch. OUT/summary.md and OUT/summary.png compare the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pictures import pictures_of
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.nn.utils.fusion import fuse_linear_bn_eval

import parimend as pm
from parimend import demo
from parimend.datasets import DataSet

ACTIVATIONS = {"leaky-relu": torch.nn.LeakyReLU, "relu": torch.nn.ReLU}
CONSTRAINTS = {"none": None, "head": ["head.*"], "all": ["*"]}


def network(args: argparse.Namespace, pixels: int) -> torch.nn.Module:
    layers: list[tuple[str, torch.nn.Module]] = []
    width = pixels
    for i in range(args.depth):
        layers.append((f"hidden{i}", torch.nn.Linear(width, args.width)))
        if args.batchnorm:
            layers.append((f"norm{i}", torch.nn.BatchNorm1d(args.width)))
        layers.append((f"act{i}", ACTIVATIONS[args.activation]()))
        if args.dropout:
            layers.append((f"drop{i}", torch.nn.Dropout(args.dropout)))
        width = args.width
    layers.append(("head", torch.nn.Linear(width, 10)))
    return torch.nn.Sequential(OrderedDict(layers))


def optimizer_for(args: argparse.Namespace, model: torch.nn.Module) -> torch.optim.Optimizer:
    if not args.sam:
        return torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=args.l2)
    from pytorch_optimizer import SAM

    return SAM(
        model.parameters(),
        base_optimizer=torch.optim.Adam,
        rho=0.05,
        lr=args.lr,
        weight_decay=args.l2,
    )


def train(
    args: argparse.Namespace, data: DataSet, seed: int, constraint: str, progress: Progress
) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = network(args, data.train_x.shape[1])
    optimizer = optimizer_for(args, model)
    handle = None
    if CONSTRAINTS[constraint]:
        handle = pm.constrain_(
            model,
            optimizer,
            args.errors,
            pm.Real(rows=args.rows),
            only=CONSTRAINTS[constraint],
            every=args.every,
            seed=seed,
        )
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    steps = args.epochs * -(-len(x) // args.batch)
    # SAM shows no momentum that could be cycled.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=steps, cycle_momentum=not args.sam
    )
    checkpoint = args.out / f"{key(args, seed, constraint)}.pt"
    first = 0
    shuffle = torch.Generator().manual_seed(seed)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["rng"])
        if handle:
            handle.load_state_dict(state["constraint"])
        first = state["epoch"] + 1
    task = progress.add_task(f"seed {seed}, {constraint}", total=args.epochs * len(x))
    progress.advance(task, first * len(x))
    began = time.perf_counter()
    for epoch in range(first, args.epochs):
        model.train()
        for index in torch.randperm(len(x), generator=shuffle).split(args.batch):

            def closure(index: torch.Tensor = index) -> torch.Tensor:
                loss = torch.nn.functional.cross_entropy(model(x[index]), y[index])
                if args.l1:
                    loss = loss + args.l1 * sum(p.abs().sum() for p in model.parameters())
                loss.backward()
                return loss

            optimizer.zero_grad()
            if args.sam:
                closure()
                optimizer.step(lambda: (optimizer.zero_grad(), closure())[1])
            else:
                closure()
                optimizer.step()
            schedule.step()
            progress.advance(task, len(index))
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "shuffle": shuffle.get_state(),
            "rng": torch.get_rng_state(),
            "constraint": handle.state_dict() if handle else {},
            "epoch": epoch,
        }
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)
    seconds = time.perf_counter() - began
    model.eval()
    record: dict[str, Any] = {"seed": seed, "constraint": constraint, "seconds": round(seconds, 1)}
    if handle:
        record["accuracy_before_rounding"] = demo.accuracy(model, data)
        seal = handle.seal_()
        record |= {
            "rows": seal.words[0].code.m,
            "weights": seal.words[0].code.n,
            "every": handle.every,
            **seal.notes,
        }
        if args.batchnorm:
            record["accuracy_folded"] = demo.accuracy(folded(args, model, data, seed), data)
    record["accuracy"] = demo.accuracy(model, data)
    checkpoint.unlink(missing_ok=True)
    progress.remove_task(task)
    return record


def folded(
    args: argparse.Namespace, model: torch.nn.Module, data: DataSet, seed: int
) -> torch.nn.Module:
    """The trained network with batch normalization folded into the layers before it.

    Folding scales rows of weights, which takes them out of their code: it is imposed again, where
    it costs least on training pictures.
    """
    layers = OrderedDict(model.named_children())
    for name in [name for name in layers if name.startswith("norm")]:
        before = name.replace("norm", "hidden")
        layers[before] = fuse_linear_bn_eval(layers[before], layers.pop(name))
    model = torch.nn.Sequential(layers)
    pictures = torch.from_numpy(data.train_x[:2000])
    carrier = pm.Real(rows=args.rows, calibration=[pictures])
    pm.protect_(model, args.errors, carrier, seed=seed)
    return model


def key(args: argparse.Namespace, seed: int, constraint: str) -> str:
    """Names a run by everything that decides its result."""
    chosen = {k: str(v) for k, v in sorted(vars(args).items()) if k not in NOT_IN_KEY}
    text = json.dumps([chosen, seed, constraint])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


NOT_IN_KEY = {"out", "root", "seeds", "constraints"}


def summarize(args: argparse.Namespace, records: list[dict[str, Any]], console: Console) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    free = {r["seed"]: r["accuracy"] for r in records if r["constraint"] == "none"}
    table = Table("constraint", "checks", "accuracy %", "difference to none", title=args.data)
    lines = ["| constraint | checks | accuracy % | difference to none |", "|---|---|---|---|"]
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for column, constraint in enumerate(args.constraints):
        runs = [r for r in records if r["constraint"] == constraint]
        scores = np.array([r["accuracy"] for r in runs])
        gaps = np.array([r["accuracy"] - free[r["seed"]] for r in runs if r["seed"] in free])
        spread = scores.std(ddof=1) if len(scores) > 1 else 0.0
        gap = "-"
        if constraint != "none" and len(gaps):
            error = gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
            gap = f"{gaps.mean():+.3f} +- {error:.3f}"
        row = [
            constraint,
            str(runs[0].get("rows", "-")),
            f"{scores.mean():.2f} +- {spread:.2f}",
            gap,
        ]
        table.add_row(*row)
        lines.append("| " + " | ".join(row) + " |")
        axes.plot([column] * len(scores), scores, "o", alpha=0.6)
    axes.set_xticks(range(len(args.constraints)), args.constraints)
    axes.set_xlabel("layers inside the code")
    axes.set_ylabel("test accuracy, %")
    figure.savefig(args.out / "summary.png", dpi=120)
    (args.out / "summary.md").write_text("\n".join(lines) + "\n")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=["digits", "mnist", "fashion-mnist"], default="mnist")
    parser.add_argument("--root", type=Path, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_fnn"))
    parser.add_argument("--depth", type=int, default=1, help="hidden layers")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--activation", choices=list(ACTIVATIONS), default="leaky-relu")
    parser.add_argument("--batchnorm", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--l1", type=float, default=0.0, help="weight of the L1 norm")
    parser.add_argument("--l2", type=float, default=0.0, help="weight decay")
    parser.add_argument("--sam", action="store_true", help="sharpness-aware minimization")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--every", type=int, help="steps between projections; by cost if absent")
    parser.add_argument("--rows", type=int, help="checks of the code; as many as needed if absent")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--constraints", nargs="+", choices=list(CONSTRAINTS), default=None)
    args = parser.parse_args()
    args.constraints = args.constraints or list(CONSTRAINTS)
    args.out.mkdir(parents=True, exist_ok=True)
    data = pictures_of(args.data, args.root)
    console = Console()
    path = args.out / "runs.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {record["key"]: record for record in known}
    records = []
    with Progress(console=console) as progress:
        for seed in range(args.seeds):
            for constraint in args.constraints:
                name = key(args, seed, constraint)
                if name not in done:
                    record = {"key": name, **train(args, data, seed, constraint, progress)}
                    with path.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    done[name] = record
                records.append(done[name])
    summarize(args, records, console)


if __name__ == "__main__":
    main()
