"""What bringing all layers of a trained WideResNet into one code costs, in accuracy.

    python benchmarks/impose.py runs/cifar10_wrn/wrn --root DIR

RUN is the folder of a finished run of recipes/cifar10_wrn.py; DIR holds CIFAR-10.
Weights are projected, or moved where it costs least on some training pictures, and rounded exactly.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import time
import warnings
from pathlib import Path

import torch

import parimend as pm

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from cifar10_wrn import accuracy, load_finished, normalized, read_cifar


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--errors", type=int, nargs="+", default=[210, 10_000, 50_000])
    parser.add_argument("--calibration", type=int, default=512, help="training pictures")
    parser.add_argument("--test", type=int, default=10_000, help="test pictures")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*the constraint moved the weights")
    data = read_cifar(args.root)
    model = load_finished(args.run).eval().to(memory_format=torch.channels_last)
    x, y = data.test_x[: args.test], data.test_y[: args.test]

    def score(network: torch.nn.Module) -> float:
        value = accuracy(network, x, y, 32, contextlib.nullcontext)
        network.eval()
        return value

    pictures = normalized(data.train_x[: args.calibration], 32).split(64)
    trained = score(model)
    print(f"as trained: {trained:.2f} % of {len(y):,} pictures\n")
    print("| errors | checks | m/n | how | moved | accuracy % | difference | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for errors in args.errors:
        for how, calibration in (("projected", None), ("surgeon", pictures)):
            network = copy.deepcopy(model)
            began = time.perf_counter()
            seal = pm.protect_(network, errors, pm.Real(calibration=calibration))
            seconds = time.perf_counter() - began
            code, found = seal.words[0].code, score(network)
            print(
                f"| {errors:,} | {code.m:,} | {code.redundancy:.2%} | {how} | "
                f"{seal.notes['moved'][0]:.2g} | {found:.2f} | {found - trained:+.2f} | "
                f"{seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
