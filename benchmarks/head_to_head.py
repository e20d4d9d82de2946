"""All protections under the same faults, on the network of the demonstration.

python benchmarks/head_to_head.py --out DIR                       # digits
python benchmarks/head_to_head.py --out DIR --root MNIST-FOLDER   # MNIST

The network is trained once and kept in DIR; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from parimend import datasets, demo
from parimend.campaign import lines, run
from parimend.campaign.spec import Spec

RATES = (1e-7, 1e-6, 1e-5, 1e-4)
PICTURES = 2000
PROTECTIONS = {
    "none": {},
    "secded": {},
    "cep": {},
    "mset": {},
    "radar": {"group": 32},
    "ranger": {},
    "copies": {},
    "reload": {},
    "sidecar-16": {"kind": "sidecar", "errors": 16},
    "sidecar-210": {"kind": "sidecar", "errors": 210},
    "lowbits-16": {"kind": "lowbits", "errors": 16},
}


class Network(torch.nn.Sequential):
    """The network of the demonstration, whose activation is a module that can be watched."""

    def __init__(self, pixels: int) -> None:
        super().__init__(
            torch.nn.Linear(pixels, 512), torch.nn.LeakyReLU(), torch.nn.Linear(512, 10)
        )


@cache
def data(root: str) -> datasets.DataSet:
    return datasets.load("mnist", root) if root else datasets.digits()


def trained(root: str) -> dict[str, torch.Tensor]:
    model, _ = demo.train(data(root), 0, None, lambda done, total: None)
    return dict(zip(Network(1).state_dict(), model.state_dict().values(), strict=True))


def pictures(root: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    found = data(root)
    return torch.from_numpy(found.test_x[:PICTURES]), torch.from_numpy(found.test_y[:PICTURES])


def accuracy(model: torch.nn.Module, given: tuple[torch.Tensor, torch.Tensor]) -> float:
    return float((model(given[0]).argmax(1) == given[1]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--root", default="", help="Folder of MNIST; by default the digits.")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / "network.safetensors"
    if not weights.exists():
        save_file(trained(args.root), weights)
    spec = Spec.of(_spec(args, weights), Path(__file__).parent)
    print(f"`{' '.join(['python', *sys.argv])}`\n")
    run(spec, args.out / "results", workers=args.workers)
    _print(args.out / "results")


def _spec(args: argparse.Namespace, weights: Path) -> dict:
    return {
        "networks": {
            "net": {
                "build": "head_to_head:Network",
                "arguments": {"pixels": data(args.root).test_x.shape[1]},
                "file": str(weights.resolve()),
                "data": "head_to_head:pictures",
                "data_arguments": {"root": args.root},
                "metric": "head_to_head:accuracy",
                "tolerance": 0.01,
            }
        },
        "protections": PROTECTIONS,
        "faults": {f"{rate:g}": {"kind": "bitflip", "rate": rate} for rate in RATES},
        "stop": {"trials": args.trials},
        "block": 20,
    }


def _print(out: Path) -> None:
    print("| protection | kept | change | rate | accuracy | exact | wrong, unsaid | harmed | ms |")
    print("|---" * 9 + "|")
    for line in lines(out):
        exact = line.outcomes["repaired"].share + line.outcomes["masked"].share
        wrong, harmed = line.event, line.harmed
        print(
            f"| {line.protection} | {line.nbytes:,} | {100 * line.change:+.2f} | {line.fault} | "
            f"{100 * line.score.share:.2f} | {exact:.0%} | "
            f"{wrong.share:.0%} ({wrong.low:.0%} to {wrong.high:.0%}) | "
            f"{harmed.share:.0%} ({harmed.low:.0%} to {harmed.high:.0%}) | "
            f"{1e3 * line.seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
