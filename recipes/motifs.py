"""An atlas of motifs: pairs of networks that differ in one thing, and which of them bears more.

    python recipes/motifs.py                                      # digits, 5 seeds
    python recipes/motifs.py --data mnist --root DIR --seeds 10 --pairs normalization residual

The two networks of a pair have the same number of parameters, or the width of the second is chosen
so that it has the nearest. They are trained on the same pictures in the same order, seed by seed,
and meet the same seeds of faults. Measured of every network:

- accuracy, and the points of it that are lost where random bits of the weights are flipped, at
  fixed rates;
- gain: the relative error of the answer in that of the first layer's output, of which eight are
  wrong by a tenth of their rms;
- changed: per cent of the answers that one flipped bit in one computed output changes, in the mean
  over the layers.

Trained networks and measurements are kept in OUT (`models/`, `runs.jsonl`): an interrupted call
goes on where it was, and more seeds are added to what is there. OUT/summary.md has the paired
differences with 95 % intervals (Student's t over the seeds); one star where the interval excludes
zero, two where it does so with Bonferroni's correction for all intervals of the table.
OUT/atlas.html is a page with the same rows and filters, OUT/atlas.csv the numbers in full.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from motif_networks import Net, fitted, network, parameters, picture_shape
from motif_pairs import Atlas, Pair, Runs, chosen_of, key, networks, within
from pictures import pictures_of
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.func import functional_call

import parimend as pm
from parimend.datasets import DataSet
from parimend.dtypes import of_torch
from parimend.experiment import Faults
from parimend.faults import Words
from parimend.upsets import Upset
from parimend.words.bits import byte_view

RATES = (1e-5, 1e-4, 1e-3)
"""Flipped bits, as a share of all bits of the weights."""
EPOCHS = {"digits": 30, "mnist": 3, "cifar10": 10}
TEST = 1000
"""Test pictures under damaged weights."""
TRACED = 64
"""Test pictures for propagation."""
MEASURES = ("accuracy", *(f"loss at {rate:g}" for rate in RATES), "gain", "changed")


def pairs(shape: tuple[int, int, int]) -> list[Pair[Net]]:
    """All pairs, for pictures of this shape (channels, height, width)."""
    base, deep_base = Net(depth=3, width=48), Net(depth=1, width=110)
    deep = fitted(replace(deep_base, depth=6), deep_base, shape)
    conv = Net("conv", depth=3, width=16)
    conv_wide = Net("conv", depth=2, width=24)
    tokens = Net("tokens", depth=2, width=24, act="gelu", norm="layer")

    def varied(motif: str, name: str, net: Net = base, **change: Any) -> Pair[Net]:
        return Pair(motif, name, net, replace(net, **change))

    return [
        Pair("depth", "1 hidden layer -> 6", deep_base, deep),
        Pair(
            "depth",
            "2 convolutions -> 5",
            conv_wide,
            fitted(replace(conv_wide, depth=5), conv_wide, shape),
        ),
        varied("residual", "plain -> residual, 6 layers", deep, residual=True),
        varied(
            "residual",
            "plain -> residual, 6 layers, batch norm",
            replace(deep, norm="batch"),
            residual=True,
        ),
        varied("normalization", "none -> batch", norm="batch"),
        varied("normalization", "none -> layer", norm="layer"),
        varied("normalization", "none -> RMS", norm="rms"),
        varied("normalization", "batch -> layer", replace(base, norm="batch"), norm="layer"),
        varied("activation", "ReLU -> LeakyReLU", act="leaky-relu"),
        varied("activation", "ReLU -> GELU", act="gelu"),
        varied("activation", "ReLU -> tanh", act="tanh"),
        varied("pooling", "max -> average", conv, pool="average"),
        Pair(
            "mixing",
            "perceptron -> attention",
            fitted(replace(tokens, mixer="perceptron"), tokens, shape),
            tokens,
        ),
        varied("training", "no dropout -> 0.2", dropout=0.2),
        varied("training", "Adam -> SAM", sam=True),
        varied("training", "no weight decay -> 1.0", decay=1.0),
        varied("training", "outside -> inside the code", code=True),
        varied("bounds", "none -> outputs clipped", clip="outputs"),
        varied("bounds", "none -> weights clipped", clip="weights"),
        varied("precision", "float32 -> bfloat16", dtype="bfloat16"),
        varied("precision", "float32 -> float16", dtype="float16"),
    ]


@dataclass(frozen=True)
class Pictures:
    """Tensors of a data set: float32 (N, C, H, W) and int64 (N,)."""

    name: str
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def of(cls, data: DataSet) -> Pictures:
        shape = picture_shape(data)

        def pictures(x: np.ndarray) -> Tensor:
            scale = 255.0 if x.dtype == np.uint8 else 1.0
            return (torch.from_numpy(x).float() / scale - 0.5).reshape(-1, *shape)

        parts = (data.train_x, data.train_y, data.test_x[:TEST], data.test_y[:TEST])
        return cls(
            data.name,
            pictures(parts[0]),
            torch.from_numpy(parts[1]),
            pictures(parts[2]),
            torch.from_numpy(parts[3]),
        )


def trained(net: Net, data: Pictures, seed: int, epochs: int, folder: Path) -> nn.Module:
    """The network, from its file if it is there."""
    file = folder / f"{key(net.as_trained(), data.name, seed, epochs)}.pt"
    torch.manual_seed(seed)
    model = network(net, tuple(data.x.shape[1:]))
    if not file.exists():
        _train_(model, net, data, seed, epochs)
        partial = file.with_suffix(".partial")
        torch.save(model.state_dict(), partial)
        partial.replace(file)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def _train_(model: nn.Module, net: Net, data: Pictures, seed: int, epochs: int) -> None:
    options: dict[str, Any] = {"lr": 3e-3, "weight_decay": net.decay}
    if net.sam:
        from pytorch_optimizer import SAM

        optimizer = SAM(model.parameters(), base_optimizer=torch.optim.AdamW, rho=0.05, **options)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **options)
    handle = pm.constrain_(model, optimizer, 50, every=4, seed=seed) if net.code else None
    steps = epochs * -(-len(data.x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, cycle_momentum=False)
    shuffle = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(data.x), generator=shuffle).split(128):

            def closure(index: Tensor = index) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(data.x[index]), data.y[index])
                loss.backward()
                return loss

            closure()
            optimizer.step(closure) if net.sam else optimizer.step()
            schedule.step()
    if handle:
        handle.seal_()


def measured(model: nn.Module, net: Net, data: Pictures, seed: int, draws: int) -> dict[str, Any]:
    """What is compared, for one trained network."""
    if net.clip == "outputs":
        _clip_(model, data.x)
    stored = {
        name: p.detach().to(getattr(torch, net.dtype)) for name, p in model.named_parameters()
    }
    right = _accuracy(model, stored, data)
    record: dict[str, Any] = {"accuracy": right, "parameters": parameters(model)}
    for rate in RATES:
        scores = [
            _accuracy(model, damaged, data) for damaged in _damaged(stored, net, rate, seed, draws)
        ]
        record[f"loss at {rate:g}"] = right - float(np.mean(scores))
    model.load_state_dict({name: each.float() for name, each in stored.items()}, strict=False)
    seeds = range(1000 * seed, 1000 * seed + 8)
    small, flips = Upset("offset", count=8, size=0.1), Upset("bitflip")
    inputs = data.test_x[:TRACED]
    first = next(name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
    one = pm.propagation.trace(model, inputs, small, only=first, seeds=seeds).struck[0]
    record["gain"] = one.passages[-1].error.value / one.passages[0].error.value
    found = pm.propagation.trace(model, inputs, flips, seeds=seeds).struck
    record["changed"] = 100 * float(np.mean([each.changed.value for each in found]))
    return record


def _damaged(
    stored: dict[str, Tensor], net: Net, rate: float, seed: int, draws: int
) -> Iterator[dict[str, Tensor]]:
    """Copies of the weights with flipped bits, as many as the rate gives; at least one."""
    dtype = of_torch(getattr(torch, net.dtype))
    count = max(1, round(rate * dtype.bits * sum(p.numel() for p in stored.values())))
    for draw in range(draws):
        copies = {name: p.clone() for name, p in stored.items()}
        words = [
            Words(name, byte_view(p, name).view(dtype.unsigned), dtype.name)
            for name, p in copies.items()
        ]
        Faults("bitflip", count).draw(words, 1000 * seed + draw).apply_(words)
        if net.clip == "weights":
            copies = {
                name: within(p, stored[name].min(), stored[name].max())
                for name, p in copies.items()
            }
        yield copies


def _clip_(model: nn.Module, x: Tensor) -> None:
    """From now on activations stay within what they are on the training pictures."""
    for module in [m for m in model.modules() if isinstance(m, nn.ReLU)]:
        seen: list[Tensor] = []
        handle = module.register_forward_hook(lambda m, args, y, seen=seen: seen.append(y))
        with torch.no_grad():
            model(x[:TEST])
        handle.remove()
        ends = seen[0].aminmax()
        module.register_forward_hook(lambda m, args, y, ends=ends: within(y, *ends))


@torch.no_grad()
def _accuracy(model: nn.Module, weights: dict[str, Tensor], data: Pictures) -> float:
    """Per cent; an answer that is not finite is wrong."""
    computing = {name: each.float() for name, each in weights.items()}
    logits = functional_call(model, computing, (data.test_x,))
    right = pm.propagation.classes(logits) == data.test_y
    return 100.0 * float(right.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=list(EPOCHS), default="digits")
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--out", type=Path, help="runs/motifs/DATA by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--epochs",
        type=int,
        help="by default " + ", ".join(f"{n} of {data}" for data, n in EPOCHS.items()),
    )
    parser.add_argument("--draws", type=int, default=100, help="of flipped bits, for each rate")
    parser.add_argument("--pairs", nargs="+", metavar="MOTIF", help="only these motifs")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = args.out or Path("runs/motifs") / args.data
    (out / "models").mkdir(parents=True, exist_ok=True)
    data = Pictures.of(pictures_of(args.data, args.root))
    chosen = chosen_of(pairs(tuple(data.x.shape[1:])), args.pairs)
    epochs = args.epochs or EPOCHS[args.data]
    runs = Runs(out / "runs.jsonl")
    records: dict[tuple[Net, int], dict[str, Any]] = {}
    with Progress(console=Console()) as progress:
        for seed, net in progress.track(list(product(range(args.seeds), networks(chosen)))):

            def measure(seed: int = seed, net: Net = net) -> dict[str, Any]:
                model = trained(net, data, seed, epochs, out / "models")
                found = measured(model, net, data, seed, args.draws)
                return {"seed": seed, "net": asdict(net), **found}

            name = key(net, data.name, seed, epochs, args.draws)
            records[net, seed] = runs.get(name, measure)
    about = (
        "Pairs of networks that differ in one thing: how b differs from a, paired over the seeds; "
        "gains by their ratio."
    )
    atlas = Atlas(chosen, records, args.seeds, MEASURES, about)
    atlas.publish(out, f"The atlas of motifs: {args.data}, {args.seeds} seeds")


if __name__ == "__main__":
    main()
