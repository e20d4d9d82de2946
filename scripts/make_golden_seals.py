"""Write `tests/golden/seal-*.parimend` and the weights that they seal.

    python scripts/make_golden_seals.py DIRECTORY

A seal once written has to stay readable. These were made by version 0.1.0; a later format gets new
files beside them, and these are never written again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import parimend as pm

SEALS: dict[str, tuple[int, Any, dict[str, Any]]] = {
    "sidecar": (10, "sidecar", {}),
    "real": (10, "real", {}),
    "lowbits": (10, "lowbits", {}),
    "certified": (20, pm.Real(rows=100), {"guaranteed": 3}),
}
"""Errors, carrier and options, by name."""


def main(directory: Path) -> None:
    """Write all of them."""
    for name, (errors, carrier, options) in SEALS.items():
        # Plain integer arithmetic: the same weights everywhere.
        i = np.arange(1530, dtype=np.int64)
        values = ((i * 2654435761 + 12345) % 65536 - 32768).astype(np.float32) / 2**18
        tensors = {
            "fc.weight": torch.from_numpy(values[:1500].reshape(30, 50).copy()),
            "fc.bias": torch.from_numpy(values[1500:].copy()),
        }
        seal = pm.protect_(tensors, errors, carrier, seed=7, **options)
        seal.save(directory / f"seal-{name}.parimend")
        flat = np.concatenate([t.numpy().ravel() for t in tensors.values()])
        (directory / f"seal-{name}.f32").write_bytes(flat.astype("<f4").tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
