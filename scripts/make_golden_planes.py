"""Write `tests/golden/seal-planes.parimend`: a seal whose words are some bits of elements.

    python scripts/make_golden_planes.py

A seal once written has to stay readable. This one was made by version 0.1.0 and is never written
again.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import parimend as pm
from parimend.carriers import Balance, Request, Sidecar
from parimend.stores.model import ModelTensors

PLANES = [
    (10, {"fc.weight": 0x7F800000, "fc.bias": 0x8000}),
    (4, {"fc.weight": 0x807FFFFF, "fc.bias": 0x7FFF}),
]
"""The budget of every word, and the bits of the tensors."""


def weights() -> dict[str, torch.Tensor]:
    """Plain integer arithmetic: the same weights everywhere."""
    i = np.arange(1530, dtype=np.int64)
    values = ((i * 2654435761 + 12345) % 65536 - 32768).astype(np.float32) / 2**18
    return {
        "fc.weight": torch.from_numpy(values[:1500].reshape(30, 50).copy()),
        "fc.bias": torch.from_numpy(values[1500:].copy()).bfloat16(),
    }


def main(path: Path) -> None:
    """Write it."""
    tensors = weights()
    balance = Balance.of(ModelTensors(tensors).whole(), PLANES)
    plan = SimpleNamespace(request=Request(balance.errors, Sidecar(), seed=7, balance=balance))
    pm.protect_(tensors, plan).save(path)


if __name__ == "__main__":
    main(Path(__file__).parents[1] / "tests" / "golden" / "seal-planes.parimend")
