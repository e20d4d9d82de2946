"""The main job on real data: train inside the code, break weights, repair them bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.codes import Gaussian
from parimend.datasets import DataSet
from parimend.decoders import L1
from parimend.experiment import (
    DenseTarget,
    Faults,
    ModelTarget,
    Received,
    grid_of,
    on_grid,
    trial,
)
from parimend.faults import draw
from parimend.seal import Seal
from parimend.training.constraint import constrain_

HEAD = "head.weight"
FAULTS = ("bitflip", "noise", "replace")
"""Any of 32 bits; N(0, 1) added; and the hardest: other values, as valid as the right ones."""
L1_ROWS = 0.2
"""Rows of the Gaussian code, as a part of the weights, from which linear programming is reliable at
4 % wrong weights."""


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


class Network(torch.nn.Module):
    """pixels - 512 - 10 with LeakyReLU; the output layer has 5,120 weights."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(pixels, 512)
        self.head = torch.nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.nn.functional.leaky_relu(self.hidden(x)))


def train(
    data: DataSet, seed: int, errors: int | None, progress: Callable[[int, int], None]
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
        order = torch.randperm(len(x), generator=shuffle, device="cpu")
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
def accuracy(model: torch.nn.Module, data: DataSet) -> float:
    """Accuracy on the test pictures, in per cent."""
    logits = model(torch.from_numpy(data.test_x))
    return 100.0 * float((logits.argmax(1) == torch.from_numpy(data.test_y)).float().mean())


def run(
    data: DataSet,
    errors: int = 210,
    seed: int = 0,
    faults: Sequence[str] = FAULTS,
    l1: bool = True,
    say: Callable[[str, str], None] = lambda label, value: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Run the demonstration.

    Args:
        data: from `parimend.datasets`, pictures as rows of pixels.
        errors: number of weights of the output layer to break and repair.
        seed: of everything random.
        faults: kinds of damage, names of `parimend.faults.KINDS`.
        l1: also decode the damage by linear programming with a dense Gaussian code.
        say: told every result as it is there, (label, value).
        progress: told (steps done, steps in all) during training.

    Raises:
        ParimendError: as what it calls does.
    """
    for kind in faults:  # an unknown one is told before anything is trained
        draw(kind, {HEAD: np.ones(1, np.float32)}, 0, seed)
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
    target = ModelTarget(model, seal, only=[HEAD])
    # Compile the decoders first, so that the times below are those of a running program.
    trial(target, _faults("replace", errors, seal), seed + 1)
    rival = _Rival(target, seed) if l1 else None
    damages = []
    for kind in faults:
        damage = _break_and_repair(target, data, _faults(kind, errors, seal), seed, rival)
        damages.append(damage)
        say(
            f"{errors} x {kind}",
            f"{damage.accuracy_damaged:.2f} %, {damage.verdict} ({damage.found} found, "
            f"{damage.repair_ms:.1f} ms), {damage.accuracy_repaired:.2f} %, "
            f"SHA-256 {'equal' if damage.sha256_equal else 'DIFFERENT'}",
        )
        if damage.l1_verdict is not None:
            assert damage.l1_largest_error is not None
            is_near = damage.l1_largest_error < 1.0
            how = f"values to within {damage.l1_largest_error:.0e}" if is_near else "values lost"
            say(
                "  linear programming",
                f"{damage.l1_verdict} ({damage.l1_ms:.0f} ms, {damage.l1_checks:,} checks, {how})",
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
    target: ModelTarget, data: DataSet, faults: Faults, seed: int, rival: _Rival | None
) -> Damage:
    l1: dict[str, Any] = {}
    # The same seed: the same damage for both.
    if rival is not None and np.isfinite(rival.damage(faults, seed)).all():
        answer = trial(rival, faults, seed, score=rival.error)
        l1["l1_verdict"] = str(answer.verdict)
        l1["l1_checks"] = rival.code.m
        l1["l1_ms"] = 1e3 * answer.seconds
        l1["l1_largest_error"] = answer.after
    done = trial(target, faults, seed, score=lambda model: accuracy(model, data))
    assert done.before is not None
    assert done.after is not None
    return Damage(
        kind=faults.kind,
        accuracy_damaged=done.before,
        verdict=str(done.verdict),
        found=done.found,
        repair_ms=1e3 * done.seconds,
        accuracy_repaired=done.after,
        sha256_equal=done.same,
        **l1,
    )


def _faults(kind: str, errors: int, seal: Seal) -> Faults:
    if kind == "replace":
        return Faults(kind, errors, options=on_grid(grid_of(seal, HEAD)))
    return Faults(kind, errors, options={"scale": 1.0} if kind == "noise" else {})


class _Rival(DenseTarget):
    """Linear programming with a dense Gaussian code, on the damage that the output layer has."""

    def __init__(self, target: ModelTarget, seed: int) -> None:
        n = len(_parameters(target.intact))
        super().__init__(Gaussian(n=n, m=round(L1_ROWS * n), seed=seed), L1())
        self._target = target

    def damage(self, faults: Faults, seed: int) -> NDArray[np.float64]:
        damaged = self._target.damaged(faults, seed)
        return _parameters(damaged) - _parameters(self._target.intact)

    def damaged(self, faults: Faults, seed: int) -> Received:
        return self.received(self.damage(faults, seed))


def _parameters(model: Any) -> NDArray[np.float64]:
    parts = (model.head.weight, model.head.bias)
    return np.concatenate([p.detach().double().flatten().numpy() for p in parts])
