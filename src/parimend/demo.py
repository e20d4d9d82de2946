"""The main job on real data: train inside the code, break weights, repair them bit for bit."""

from __future__ import annotations

import copy
import gzip
import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.codes import Sparse
from parimend.codes.gaussian import Gaussian
from parimend.decoders import Prepared
from parimend.decoders.l1 import L1
from parimend.errors import FormatError, ParimendError
from parimend.faults import draw
from parimend.model import repair_
from parimend.seal import Seal
from parimend.training.constraint import constrain_
from parimend.words.grid import Grid

DataName = Literal["digits", "mnist", "fashion-mnist"]

HEAD = "head.weight"
FAULTS = ("bitflip", "noise", "replace")
"""Any of 32 bits; N(0, 1) added; and the hardest: other values, as valid as the right ones."""
L1_ROWS = 0.2
"""Rows of the Gaussian code, as a part of the weights, from which linear programming is reliable at
4 % wrong weights."""


class Data(NamedTuple):
    """Pictures as (N, pixels) float32 in 0 .. 1 and their classes as (N,) int64."""

    name: str
    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]


@dataclass(frozen=True)
class Damage:
    """One kind of damage and its repair; accuracies in per cent, times in milliseconds.

    ``l1_*`` tell the same damage decoded by linear programming with a dense Gaussian code; None if
    that was left out, or cannot be done because a value is not finite.
    """

    kind: str
    accuracy_damaged: float
    verdict: str
    found: int
    repair_ms: float
    accuracy_repaired: float
    sha256_equal: bool
    l1_verdict: str | None = None
    l1_checks: int | None = None
    l1_ms: float | None = None
    l1_largest_error: float | None = None


@dataclass(frozen=True)
class Result:
    """What the demonstration found; accuracies in per cent."""

    data: str
    weights: int
    errors: int
    checks: int
    seal_bytes: int
    accuracy_free: float
    accuracy_inside: float
    damages: tuple[Damage, ...]


def load(name: DataName, root: Path | None) -> Data:
    """Read a data set.

    Args:
        name: ``digits`` ships with scikit-learn; the others are read from IDX files (gzip or not).
        root: folder of the IDX files, for example ``train-images-idx3-ubyte.gz``.

    Raises:
        FormatError: if a file is missing or no IDX file; names it.
    """
    if name == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise ParimendError(
                "the digits come with scikit-learn: pip install 'parimend[demo]'"
            ) from None
        x, y = load_digits(return_X_y=True)
        x, y = (x / 16.0).astype(np.float32), y.astype(np.int64)
        test = np.arange(len(x)) % 5 == 0
        return Data(name, x[~test], y[~test], x[test], y[test])
    if root is None:
        raise ParimendError(f"{name} is read from its IDX files: give their folder with --root DIR")
    parts = [
        _read_idx(root, f"{split}-{kind}")
        for split in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    pictures = [(x.reshape(len(x), -1) / np.float32(255)).astype(np.float32) for x in parts[::2]]
    classes = [y.astype(np.int64) for y in parts[1::2]]
    return Data(name, pictures[0], classes[0], pictures[1], classes[1])


def _read_idx(root: Path, name: str) -> NDArray[np.uint8]:
    for path in (root / name, root / f"{name}.gz"):
        if path.exists():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            dimensions = data[3] if len(data) >= 4 and data[:3] == b"\0\0\x08" else 0
            header = 4 + 4 * dimensions
            if dimensions and len(data) >= header:
                shape = struct.unpack(f">{dimensions}I", data[4:header])
                if len(data) == header + int(np.prod(shape, dtype=np.int64)):
                    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
            raise FormatError(f"{path} is no IDX file of bytes, or it is truncated")
    raise FormatError(f"{root} has neither {name} nor {name}.gz")


class Network(torch.nn.Module):
    """pixels - 512 - 10 with LeakyReLU; the output layer has 5,120 weights."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(pixels, 512)
        self.head = torch.nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.nn.functional.leaky_relu(self.hidden(x)))


def train(
    data: Data, seed: int, errors: int | None, progress: Callable[[int, int], None]
) -> tuple[Network, Seal | None]:
    """Train the network, with the output layer inside a code for ``errors`` if it is given."""
    torch.manual_seed(seed)
    model = Network(data.train_x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    constraint = None
    if errors is not None:
        constraint = constrain_(model, optimizer, errors, only=["head.*"], every=1, seed=seed)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    epochs = 4 if len(x) > 10_000 else 20
    batch = 128 if len(x) > 10_000 else 64
    shuffle = torch.Generator().manual_seed(seed)
    done, total = 0, epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=total)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=shuffle)
        for index in torch.split(order, batch):
            loss = torch.nn.functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
            progress(done, total)
    return model, constraint.seal_() if constraint else None


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: Data) -> float:
    """Accuracy on the test pictures, in per cent."""
    logits = model(torch.from_numpy(data.test_x))
    return 100.0 * float((logits.argmax(1) == torch.from_numpy(data.test_y)).float().mean())


def run(
    data: Data,
    errors: int = 210,
    seed: int = 0,
    faults: Sequence[str] = FAULTS,
    l1: bool = True,
    say: Callable[[str, str], None] = lambda label, value: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Run the demonstration.

    Args:
        data: from `load`.
        errors: number of weights of the output layer to break and repair.
        seed: of everything random.
        faults: kinds of damage, names of `parimend.faults.KINDS`.
        l1: also decode the damage by linear programming with a dense Gaussian code.
        say: told every result as it is there, (label, value).
        progress: told (steps done, steps in all) during training.

    Raises:
        ParimendError: as what it calls does.
    """
    say("data", f"{data.name}: {len(data.train_x):,} + {len(data.test_x):,} pictures")
    free, _ = train(data, seed, None, progress)
    accuracy_free = accuracy(free, data)
    say("trained freely", f"{accuracy_free:.2f} %")
    model, seal = train(data, seed, errors, progress)
    assert seal is not None
    code = seal.words[0].code
    seal_bytes = len(seal.to_bytes())
    accuracy_inside = accuracy(model, data)
    say("trained inside the code", f"{accuracy_inside:.2f} %")
    say(
        "the code",
        f"{code.m} checks on the {code.n:,} parameters of the output layer "
        f"({code.redundancy:.1%}), seal {seal_bytes} bytes",
    )
    # Compile the decoders first, so that the times below are those of a running program.
    repair_(_damaged(model, seal, errors, seed + 1, "replace"), seal)
    rival = None
    if l1:
        rival = L1().prepare(Gaussian(n=code.n, m=round(L1_ROWS * code.n), seed=seed))
    damages = []
    for kind in faults:
        damage = _break_and_repair(model, seal, data, errors, seed, kind, rival)
        damages.append(damage)
        say(
            f"{errors} x {kind}",
            f"{damage.accuracy_damaged:.2f} %, {damage.verdict} ({damage.found} found, "
            f"{damage.repair_ms:.1f} ms), {damage.accuracy_repaired:.2f} %, "
            f"SHA-256 {'equal' if damage.sha256_equal else 'DIFFERENT'}",
        )
        if damage.l1_verdict is not None:
            say(
                "  linear programming",
                f"{damage.l1_verdict} ({damage.l1_ms:.0f} ms, {damage.l1_checks:,} checks, values "
                f"to within {damage.l1_largest_error:.0e})",
            )
    return Result(
        data=data.name,
        weights=code.n,
        errors=errors,
        checks=code.m,
        seal_bytes=seal_bytes,
        accuracy_free=accuracy_free,
        accuracy_inside=accuracy_inside,
        damages=tuple(damages),
    )


def _break_and_repair(
    intact: Network,
    seal: Seal,
    data: Data,
    errors: int,
    seed: int,
    kind: str,
    rival: Prepared | None,
) -> Damage:
    model = _damaged(intact, seal, errors, seed, kind)
    accuracy_damaged = accuracy(model, data)
    l1: dict[str, Any] = {}
    difference = _parameters(model) - _parameters(intact)
    if rival is not None and np.isfinite(difference).all():
        # Its checks of the intact weights are taken as known: the problem at its easiest.
        syndrome = rival.code.syndrome(difference)
        began = time.perf_counter()
        decoding = rival.decode(syndrome)
        l1["l1_ms"] = 1e3 * (time.perf_counter() - began)
        answer = np.zeros_like(difference)
        answer[decoding.positions] = decoding.values
        l1["l1_verdict"] = str(decoding.verdict)
        l1["l1_checks"] = rival.code.m
        l1["l1_largest_error"] = float(np.abs(answer - difference).max())
    began = time.perf_counter()
    repair = repair_(model, seal)
    repair_ms = 1e3 * (time.perf_counter() - began)
    return Damage(
        kind=kind,
        accuracy_damaged=accuracy_damaged,
        verdict=str(repair.verdict),
        found=len(repair.changes),
        repair_ms=repair_ms,
        accuracy_repaired=accuracy(model, data),
        sha256_equal=_sha256(model) == _sha256(intact),
        **l1,
    )


def _damaged(intact: Network, seal: Seal, errors: int, seed: int, kind: str) -> Network:
    """A damaged copy of the model."""
    model = copy.deepcopy(intact)
    weights = {HEAD: model.head.weight.detach().numpy()}
    options: dict[str, Any] = {}
    if kind == "replace":
        [word] = seal.words
        part = next(p for p in word.parts if p.name == HEAD)
        assert isinstance(word.code, Sparse)
        grid = Grid(word.code.word_bits, part.exponent)
        options = {"step": grid.step, "limit": grid.step * (grid.limit - 1)}
    elif kind == "noise":
        options = {"scale": 1.0}
    draw(kind, weights, errors, seed, **options).apply_(weights)
    return model


def _parameters(model: Network) -> NDArray[np.float64]:
    parts = (model.head.weight, model.head.bias)
    return np.concatenate([p.detach().double().flatten().numpy() for p in parts])


def _sha256(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()
