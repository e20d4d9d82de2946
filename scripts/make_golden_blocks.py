"""Write `tests/golden/seal-blocks.parimend`: a sidecar with digests of blocks, of version 2.

    python scripts/make_golden_blocks.py

A seal once written has to stay readable. This one was made by version 0.1.0 and is never written
again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import parimend as pm


def content() -> bytes:
    """That of the file, of four blocks: plain integer arithmetic, the same everywhere."""
    i = np.arange(200_001, dtype=np.int64)
    return ((i * 2654435761 + 12345) >> 7).astype(np.uint8).tobytes()


def main(path: Path) -> None:
    """Write it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.bin")
        file.write_bytes(content())
        [made] = pm.protect_file(file, errors=10, seed=7)
        path.write_bytes(Path(made.sidecar).read_bytes())


if __name__ == "__main__":
    main(Path(__file__).parents[1] / "tests" / "golden" / "seal-blocks.parimend")
