"""Damage protected files in many ways and hold what is said of them against the true bytes.

From half to fifty times the budget, anywhere in a file or its sidecar, cut, longer, shifted. Counts
how the trials ended; ends with an error, and the seed of the trial, where a promise is broken:

- `clean` and `corrected` are said only of files and sidecars that are right, bit for bit;
- nothing is changed where `uncorrectable` is said, or where the call fails; and with ``partial``
  nothing but what is right then, and not the length.

    python scripts/trials.py --trials 3000 --seed 0

With --format, files that other libraries made have up to 210 wrong words, all of the budget, and
any wrong bytes around the tensors, or a single wrong bit there; they have to be repaired, and their
library has to read in them what was there.

    python scripts/trials.py --format gguf --format onnx --trials 400
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from samples import SAMPLES, load

from parimend import check_file, protect_file, repair_file
from parimend.carriers import Carrier
from parimend.errors import ParimendError
from parimend.files import sidecar_of
from parimend.formats import of_name

DTYPES: dict[Carrier, list[torch.dtype]] = {
    "sidecar": [torch.float32, torch.float64, torch.int16, torch.int8, torch.bfloat16],
    "real": [torch.float32, torch.float64, torch.int16, torch.int8],
    "lowbits": [torch.float32],
}
ERRORS = 8
Bytes = NDArray[np.uint8]
Damage = Callable[[Bytes, np.random.Generator], Bytes]


@dataclass(frozen=True)
class Pair:
    """A protected file: the bytes of it and of its sidecar (empty if there is none)."""

    path: Path
    file: Bytes
    side: Bytes

    def put(self, file: Bytes, side: Bytes) -> None:
        """Write other bytes into their places."""
        self.path.write_bytes(file.tobytes())
        if side.size:
            sidecar_of(self.path).write_bytes(side.tobytes())

    def now(self) -> tuple[bytes, bytes]:
        """The bytes that are there."""
        side = sidecar_of(self.path)
        return self.path.read_bytes(), side.read_bytes() if side.exists() else b""


def protected(
    folder: Path, carrier: Carrier, dtype: torch.dtype, per: Literal["model", "tensor"]
) -> Pair:
    """A small protected model of one dtype, with a little of another one where that can be."""
    source, path = folder / "source.safetensors", folder / "model.safetensors"
    torch.manual_seed(0)
    sizes = {"a": (40, 50), "b": (299,), "c": (700,)}
    tensors = {
        name: torch.randn(shape).to(dtype)
        if dtype.is_floating_point
        else torch.randint(-90, 90, shape, dtype=dtype)
        for name, shape in sizes.items()
    }
    if carrier == "sidecar":
        tensors |= {"flags": torch.ones(5, dtype=torch.bool), "none": torch.empty(0, 3)}
        save_file(tensors, path, {"author": "me"})
        protect_file(path, ERRORS, per=per)
    else:
        save_file(tensors, source, {"author": "me"})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # accuracy is not what is looked at
            protect_file(source, ERRORS, carrier, path, per=per)
        source.unlink()
    file, side = (
        np.frombuffer(data, np.uint8) for data in Pair(path, *2 * [np.empty(0, np.uint8)]).now()
    )
    return Pair(path, file, side)


def scattered(data: Bytes, rng: np.random.Generator) -> Bytes:
    """From half to fifty times the budget, somewhere behind the header or anywhere."""
    start = int.from_bytes(data[:8].tobytes(), "little") + 8 if rng.random() < 0.7 else 0
    start = start if start < data.size else 0
    count = int(ERRORS * np.exp(rng.uniform(np.log(0.5), np.log(50))))
    data = data.copy()
    places = rng.integers(start, data.size, count)
    data[places] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
    return data


def burst(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Something else in a run of bytes."""
    at, length = int(rng.integers(data.size)), int(np.exp(rng.uniform(0, np.log(3000))))
    data = data.copy()
    run = data[at : at + length]
    run[:] = rng.choice([0, 255]) if rng.random() < 0.5 else rng.integers(0, 256, run.size)
    return data


def beginning(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Wrong bytes in the first few, or in the header."""
    count = int(rng.integers(1, 40))
    data = data.copy()
    data[rng.integers(0, min(int(rng.choice([8, 64, 600])), data.size), count)] ^= 0x41
    return data


def cut(data: Bytes, rng: np.random.Generator) -> Bytes:
    """A missing tail."""
    return data[: max(data.size - int(np.exp(rng.uniform(0, np.log(data.size)))), 1)]


def longer(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Bytes that follow the end."""
    return np.concatenate([data, rng.integers(0, 256, int(rng.integers(1, 300)), np.uint8)])


def shifted(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Bytes that came in, or that were lost, in the middle."""
    at, count = int(rng.integers(data.size)), int(rng.integers(1, 30))
    if rng.random() < 0.5:
        return np.delete(data, slice(at, at + count))
    return np.insert(data, at, rng.integers(0, 256, count, np.uint8))


def swapped(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Two areas that took each other's places."""
    size = min(int(rng.choice([4, 64, 512])), data.size)
    a, b = rng.integers(0, max(data.size - size, 1), 2)
    data = data.copy()
    data[a : a + size], data[b : b + size] = data[b : b + size].copy(), data[a : a + size].copy()
    return data


KINDS: list[Damage] = [
    scattered,
    scattered,
    scattered,
    burst,
    beginning,
    cut,
    longer,
    shifted,
    swapped,
]


def trial(pair: Pair, rng: np.random.Generator) -> str:
    """Damage, check, repair, and repair in part; returns how it ended."""
    file, side = pair.file, pair.side
    for kind in rng.choice(len(KINDS), rng.choice([1, 2], p=[0.7, 0.3])):
        file = KINDS[kind](file, rng)
    if side.size and rng.random() < 0.3:
        side = KINDS[rng.integers(1, len(KINDS))](side, rng)
    pair.put(file, side)
    good, found = (pair.file.tobytes(), pair.side.tobytes()), (file.tobytes(), side.tobytes())
    said = _said(lambda: check_file(pair.path).verdict.value)
    assert pair.now() == found, "check changed something"
    assert said != "clean" or found == good, "wrong, and called clean"
    ended = _said(lambda: repair_file(pair.path).verdict.value)
    if ended in ("clean", "corrected"):
        assert pair.now() == good, f"wrong, and called {ended}"
        assert said == ("clean" if ended == "clean" else "correctable"), f"{said}, then {ended}"
    else:
        assert pair.now() == found, f"changed, and called {ended}"
        assert said == ended, f"{said}, then {ended}"
        _try_partial(pair, file)
    assert {path.name for path in pair.path.parent.iterdir()} <= {
        pair.path.name,
        sidecar_of(pair.path).name,
    }, "something was left behind"
    return ended


def _try_partial(pair: Pair, found: Bytes) -> None:
    said = _said(lambda: repair_file(pair.path, partial=True).verdict.value)
    now = np.frombuffer(pair.now()[0], np.uint8)
    assert said not in ("clean", "corrected"), f"repaired in part, and called {said}"
    assert now.size == found.size, "repaired in part, and of another length"
    changed = np.flatnonzero(now != found)
    assert (now[changed] == pair.file[changed]).all(), "repaired in part, and wrongly"


def _said(act: Callable[[], str]) -> str:
    try:
        return act()
    except ParimendError as error:
        return type(error).__name__


def run(carrier: Carrier, trials: int, seed: int) -> Counter[tuple[str, str]]:
    """Trials with all dtypes of a carrier in turn.

    Returns:
        How many ended in which way, by dtype.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for number, dtype in enumerate(DTYPES[carrier]):
        for per in ("model", "tensor"):
            with tempfile.TemporaryDirectory() as folder:
                pair = protected(Path(folder), carrier, dtype, per)
                share = range(2 * number + (per == "tensor"), trials, 2 * len(DTYPES[carrier]))
                for index in share:
                    try:
                        ended = trial(pair, np.random.default_rng([seed, index]))
                    except AssertionError as error:
                        where = f"{carrier}, {dtype}, per {per}, seed {seed}, trial {index}"
                        raise AssertionError(f"{error} ({where})") from None
                    counts[str(dtype).removeprefix("torch."), ended] += 1
    return counts


BUDGET = 210


def run_format(name: str, trials: int, seed: int) -> Counter[str]:
    """Trials with a file of a format, every other one with a single wrong bit around its tensors.

    Returns:
        How many of which kind there were; all of them were repaired.
    """
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = SAMPLES[name](Path(folder), np.random.default_rng(seed))
        original, tensors = path.read_bytes(), load(path)
        made = protect_file(path, BUDGET)[0].seal
        layout = of_name(name).unfold(made.blobs[name], "its frame")
        words = np.concatenate([np.arange(e.begin, e.end, 4) for e in layout.entries])
        ends = np.concatenate([np.full(-(-(e.end - e.begin) // 4), e.end) for e in layout.entries])
        around = [np.arange(at, at + len(span)) for at, span in layout.spans]
        frame = np.concatenate([np.empty(0, np.int64), *around])
        for index in range(trials):
            rng = np.random.default_rng([seed, index])
            damaged = np.frombuffer(original, np.uint8).copy()
            if index % 2 and frame.size:
                damaged[rng.choice(frame)] ^= np.uint8(1 << rng.integers(8))
                kind = "a bit of the frame"
            else:
                for word in rng.choice(words.size, rng.integers(1, BUDGET + 1), replace=False):
                    at = damaged[words[word] : min(words[word] + 4, ends[word])]
                    at ^= rng.integers(0, 256, at.size, np.uint8)
                wrong = rng.choice(frame, min(frame.size, int(rng.integers(99))), replace=False)
                damaged[wrong] ^= rng.integers(1, 256, wrong.size, np.uint8)
                kind = f"up to {BUDGET} words"
            path.write_bytes(damaged.tobytes())
            ended = _said(lambda: repair_file(path).verdict.value)
            where = f"{name}, seed {seed}, trial {index}, {kind}"
            assert ended in ("corrected", "clean"), f"{ended} ({where})"
            assert path.read_bytes() == original, f"wrong, and called {ended} ({where})"
            counts[kind] += 1
        assert load(path) == tensors, f"{name} is not what it was"
    return counts


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=3000, help="for each carrier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--carrier", choices=DTYPES, action="append", help="all by default")
    parser.add_argument("--format", choices=SAMPLES, action="append", help="and no carriers")
    arguments = parser.parse_args()
    os.fsync = lambda descriptor: None  # nobody switches the power off
    for name in arguments.format or ():
        counted = run_format(name, arguments.trials, arguments.seed)
        print(f"{name:12}", *(f"{n:,} x {kind}: repaired;" for kind, n in sorted(counted.items())))
    if arguments.format:
        return
    for carrier in arguments.carrier or DTYPES:
        counts = run(carrier, arguments.trials, arguments.seed)
        ends = sorted({end for _, end in counts})
        print(f"{carrier:10}", *(f"{end:>14}" for end in ends))
        for dtype in dict.fromkeys(dtype for dtype, _ in counts):
            print(f"{dtype:10}", *(f"{counts[dtype, end]:14,}" for end in ends), flush=True)


if __name__ == "__main__":
    main()
