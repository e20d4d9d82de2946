"""Damaged and senseless files for the parsers: of every format, sidecars, seals inside, indices.

    make fuzz                              # a minute
    make fuzz MINUTES=600 SEED=7           # a night
    make fuzz INPUTS=100000
    python scripts/fuzz.py --format gguf --inputs 10000
    python scripts/fuzz.py --replay fuzz-failures/1-4711.json

Every input is a folder of files, made from its number and the seed alone. Half of them are damaged
bytes; the others are well-formed, checksums included, but their numbers make no sense. A process of
its own parses, checks and repairs each one. That has to end in a verdict or in an error of
`parimend.errors` (or an OSError), within --seconds of processor time and --megabytes of memory; and
what is called clean or corrected has to be what it was. Failures are written to --failures, one
file each, to be replayed.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from parimend import Seal, check_file, protect_file, repair_file
from parimend.armor import armor, unarmor
from parimend.errors import ParimendError, SealError
from parimend.files.seals import SUFFIX
from parimend.formats import FORMATS, Layout, layout_of
from parimend.formats.header import PREFIX
from parimend.formats.listed import Listed
from parimend.formats.safetensors import KEY
from parimend.outcomes import Verdict

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "formats"
HANGS = 60.0  # seconds of waiting for an input that takes no processor time
ADDRESSES = 6 << 30  # bytes of address space, so that a bomb ends the process and not the machine


@dataclass
class Input:
    """Files by their names, the one to look at, what it was if only bytes were damaged, and the
    format.
    """

    files: dict[str, bytes]
    target: str
    original: bytes | None = None
    kind: str = ""
    steps: list[str] = field(default_factory=list)


# Good files.


def models(folder: Path) -> Iterator[Input]:
    """Small protected files of every kind."""
    rng = np.random.default_rng(0)
    floats = {
        "fc.weight": rng.standard_normal((30, 40), dtype=np.float32),
        "fc.bias": rng.standard_normal(40, dtype=np.float32),
    }
    mixed = floats | {
        "steps": np.array([3], np.int64),
        "half": rng.standard_normal((9, 5)).astype(np.float16),
        "q": rng.integers(-30, 31, (16, 16), dtype=np.int8),
        "none": np.zeros((0, 4), np.float64),
    }
    small = {"q": mixed["q"], "w": floats["fc.weight"]}
    plain = folder / "plain.safetensors"
    for arrays, per, carrier in (
        (mixed, "model", "sidecar"),
        (mixed, "tensor", "sidecar"),
        (floats, "model", "lowbits"),
        (floats, "model", "real"),
        (small, "model", "real"),
    ):
        safetensors.numpy.save_file(arrays, plain, {"made": "by nobody"})
        path = folder / "model.safetensors"
        if carrier == "sidecar":
            plain.replace(path)
            protect_file(path, 5, per=per)
        else:
            with warnings.catch_warnings(action="ignore"):  # so few weights move far
                protect_file(plain, 5, carrier, path)
            plain.unlink()
        yield _taken(folder, path.name)
    names = [f"model-{i}-of-2.safetensors" for i in (1, 2)]
    for name in names:
        safetensors.numpy.save_file(floats, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: n for n in names}}))
    protect_file(index, 5)
    yield _taken(folder, index.name)


def foreign() -> Iterator[Input]:
    """Small protected files that other libraries made."""
    for folder in sorted(GOLDEN.iterdir()):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        # The model with data beside it is protected together with them.
        target = min(name for name in files if not name.endswith(SUFFIX))
        yield Input(files, target, files[target], folder.name)


def _taken(folder: Path, target: str) -> Input:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in files:
        (folder / name).unlink()
    return Input(files, target, files[target], "safetensors")


# What is done to them.

NUMBERS = [-1, 0, 1, 2, 3, 17, 255, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64, 10**30]
LISTED = {format.name for format in FORMATS.values() if isinstance(format, Listed)}
PLACES = [0, 1, 7, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1]
VALUES = [
    *NUMBERS,
    1.5,
    True,
    None,
    "",
    "F32",
    "BF16",
    "I8",
    "F4",
    "\ud800",
    "x" * 300,
    [],
    {},
    [[]],
]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Wrong bytes, mostly near the beginning or the end."""
    out = bytearray(data or b"\0")
    for _ in range(int(rng.integers(1, 5))):
        reach = len(out) if rng.random() < 0.4 else min(len(out), 200)
        at = (
            int(rng.integers(reach))
            if rng.random() < 0.8
            else len(out) - 1 - int(rng.integers(reach))
        )
        count = int(rng.integers(1, 80))
        kind = rng.integers(8)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at : at + count] = bytes(len(out[at : at + count]))
        elif kind == 2:
            out[at : at + count] = rng.bytes(len(out[at : at + count]))
        elif kind == 3:
            del out[at : at + count]
        elif kind == 4:
            out[at:at] = out[int(rng.integers(len(out))) :][:count]
        elif kind == 5:
            number, size = int(rng.choice(PLACES)), int(rng.choice([2, 4, 8]))
            out[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
        elif kind == 6:
            out[:8] = int(rng.choice([0, 2, 100, 10**8, 2**40, 2**63])).to_bytes(8, "little")
        else:
            del out[max(at, 1) :]
        out = out or bytearray(1)
    return bytes(out)


def senseless(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value with something in it replaced, doubled or left out, in place if possible."""
    places: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        for key in inside if isinstance(inside, dict) else range(len(inside)):
            places.append((inside, key))
            if isinstance(inside[key], dict | list):
                walk(inside[key])

    walk(value)
    if not places:
        return deepcopy(VALUES[int(rng.integers(len(VALUES)))])
    inside, key = places[int(rng.integers(len(places)))]
    kind = rng.integers(6)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(inside, list):
        inside[key:key] = [inside[key]] * int(rng.integers(1, 300))
    elif kind == 2:
        other, place = places[int(rng.integers(len(places)))]
        inside[key] = json.loads(json.dumps(other[place]))
    elif kind == 3 and type(inside[key]) is int:
        inside[key] += int(rng.integers(-3, 4))
    else:
        inside[key] = deepcopy(VALUES[int(rng.integers(len(VALUES)))])  # it will be changed
    return value


def reworded(data: bytes, rng: np.random.Generator) -> bytes:
    """A seal with a right armor around a senseless text."""
    payload, _ = unarmor(data, "fuzz")
    (length,) = struct.unpack_from("<I", payload)
    text, rest = json.loads(payload[4 : 4 + length]), payload[4 + length :]
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5 and isinstance(text, dict) and text.get("words"):
            # Where most of the sense is.
            words = text["words"]
            if isinstance(words, list) and isinstance(words[0], dict):
                senseless(words[int(rng.integers(len(words)))], rng)
                continue
        text = senseless(text, rng)
    if LISTED.intersection(text["blobs"]) and rng.random() < 0.4:
        rest = relisted(rest, text, rng)
    elif rng.random() < 0.2:
        rest = damaged(rest, rng)
    encoded = json.dumps(text).encode()
    return armor(struct.pack("<I", len(encoded)) + encoded + rest)


def relisted(rest: bytes, text: Any, rng: np.random.Generator) -> bytes:
    """What follows the text of a seal, with a list of tensors that makes no sense."""
    ((name, size),) = text["blobs"].items()
    before, frame = rest[: len(rest) - size], rest[len(rest) - size :]
    total, length = struct.unpack_from("<QI", frame)
    lines = frame[12:][:length].split(b"\n")
    at = int(rng.integers(len(lines)))
    lines[at] = json.dumps(senseless(json.loads(lines[at]), rng)).encode()
    listed = b"\n".join(lines * (1 if rng.random() < 0.9 else int(rng.integers(2, 99))))
    total = int(rng.choice(PLACES)) if rng.random() < 0.2 else total
    frame = struct.pack("<QI", total, len(listed)) + listed + frame[12 + length :]
    text["blobs"][name] = len(frame)
    return before + frame


def reheaded(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with a senseless header, or with a senseless seal in it."""
    end = PREFIX + int.from_bytes(data[:PREFIX], "little")
    text = json.loads(data[PREFIX:end])
    metadata = text.get("__metadata__") or {}
    if KEY in metadata and rng.random() < 0.8:
        metadata[KEY] = base64.b64encode(reworded(base64.b64decode(metadata[KEY]), rng)).decode()
    else:
        for _ in range(int(rng.integers(1, 3))):
            text = senseless(text, rng)
    encoded = json.dumps(text).encode()
    return len(encoded).to_bytes(PREFIX, "little") + encoded + data[end:]


def make(seed: int, number: int, good: list[Input]) -> Input:
    """Input ``number``."""
    rng = np.random.default_rng([seed, number])
    base = good[int(rng.integers(len(good)))]
    made = Input(dict(base.files), base.target, base.original, base.kind)
    for _ in range(1 + (rng.random() < 0.3)):
        name = str(rng.choice(sorted(made.files)))
        if rng.random() < 0.5:
            made.files[name] = damaged(made.files[name], rng)
            if name.endswith(SUFFIX) and rng.random() < 0.3:
                made.files.pop(name)
            made.steps.append(f"damaged {name}")
            continue
        try:
            if name.endswith(SUFFIX):
                made.files[name] = reworded(made.files[name], rng)
            elif name.endswith(".json"):
                text = senseless(json.loads(made.files[name]), rng)
                made.files[name] = json.dumps(text).encode()
            elif name.endswith(".safetensors"):
                made.files[name] = reheaded(made.files[name], rng)
        except (ParimendError, ValueError, LookupError, TypeError, AttributeError, struct.error):
            continue  # damaged before
        made.original = None  # a seal with right checksums may say what it likes
        made.steps.append(f"reworded {name}")
    return made


# What has to hold.


def attempt(made: Input, folder: Path) -> str:
    """Check and repair an input: what was wrong about that, or nothing."""
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    path = folder / made.target
    act = [lambda: parse(path), lambda: check_file(path), lambda: repair_file(path)]
    beside = folder / f"{made.target}{SUFFIX}"
    if beside.exists():
        act.insert(0, lambda: Seal.load(beside))
    wrong = []
    for step in act:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = step()
        except (ParimendError, OSError):
            continue
        except Exception:
            wrong.append(traceback.format_exc())
            continue
        good = (Verdict.CLEAN, Verdict.CORRECTED)
        is_good = getattr(found, "verdict", None) in good and made.original is not None
        if is_good and path.read_bytes() != made.original:
            wrong.append(f"{found.verdict.value} was said of something else: {found}"[:2000])
    for path in folder.iterdir():
        path.unlink()
    return "\n".join(wrong)


def parse(path: Path) -> Layout:
    """What a file is made of, as protecting it would find."""
    with path.open("rb") as file:
        layout = layout_of(file, path)
    assert layout.data_bytes + layout.span_bytes == path.stat().st_size
    return layout


def peak() -> int:
    """Megabytes that this process has held since `forget`."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def forget() -> None:
    """Begin anew with `peak`."""
    Path("/proc/self/clear_refs").write_text("5")


def timed(made: Input, folder: Path) -> tuple[str, float]:
    """What is wrong about an input, see `attempt`; seconds of processor time that it took."""
    forget()
    began = time.process_time()
    wrong = attempt(made, folder)
    return wrong, time.process_time() - began


def work(out: Connection, inputs: Iterator[tuple[str, Input]], seconds: float, most: int) -> None:
    """Run inputs and send (name, None) before each and (name, what was wrong) after it."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for name, made in inputs:
            out.send((name, None))
            wrong, took = timed(made, Path(folder))
            held = peak()
            if took > seconds:  # or a loop was compiled that `warm` had no use for
                _, took = timed(made, Path(folder))
            if took > seconds:
                wrong += f"\nit took {took:.1f} s of processor time"
            if held > most:
                wrong += f"\nit took {held} MB"
            out.send((name, wrong))


class Worker:
    """A process that runs every ``step``-th input, from ``first`` on."""

    def __init__(self, options: argparse.Namespace, good: list[Input], first: int) -> None:
        self.options, self.good, self.number = options, good, first
        self.start()

    def start(self) -> None:
        options = self.options
        numbers = range(self.number, sys.maxsize, options.jobs)
        inputs = ((str(i), make(options.seed, i, self.good)) for i in numbers)
        self.reader, writer = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context("fork").Process(
            target=work, args=(writer, inputs, options.seconds, options.megabytes), daemon=True
        )
        self.process.start()
        writer.close()
        self.heard, self.burnt = time.monotonic(), 0.0

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def take(self) -> str | None:
        """What was wrong about the input that is done; None if none is."""
        try:
            name, wrong = self.reader.recv()
        except EOFError:
            self.process.join()
            wrong = f"the process ended with {self.process.exitcode}"
            self.number += self.options.jobs
            self.start()
            return wrong
        self.heard = time.monotonic()
        if wrong is not None:
            self.number = int(name) + self.options.jobs
        return wrong

    def hangs(self) -> bool:
        """Whether it has been silent for so long that it has to be ended."""
        return time.monotonic() - self.heard > HANGS


def save(options: argparse.Namespace, number: int, made: Input, wrong: str) -> Path:
    """Keep an input that failed."""
    options.failures.mkdir(exist_ok=True)
    path = options.failures / f"{options.seed}-{number}.json"
    files = {name: base64.b64encode(data).decode() for name, data in made.files.items()}
    original = None if made.original is None else base64.b64encode(made.original).decode()
    kept = {
        "wrong": wrong,
        "kind": made.kind,
        "steps": made.steps,
        "target": made.target,
        "files": files,
    }
    path.write_text(json.dumps(kept | {"original": original}, indent=1))
    return path


def load(path: Path) -> Input:
    """An input that was kept."""
    kept = json.loads(path.read_text())
    original = kept["original"] and base64.b64decode(kept["original"])
    files = {name: base64.b64decode(data) for name, data in kept["files"].items()}
    return Input(files, kept["target"], original, kept["kind"], kept["steps"])


def replay(path: Path) -> int:
    """Run one input in this process."""
    with tempfile.TemporaryDirectory() as folder:
        warm(Path(folder))
        made = load(path)
        wrong, took = timed(made, Path(folder))
        print(f"{', '.join(made.steps)}: {took:.2f} s, {peak()} MB")
    print(wrong or "as it should be")
    return bool(wrong)


def warm(folder: Path) -> list[Input]:
    """The good files, all of which were looked at: compiling and loading belongs to no input."""
    good = [*models(folder), *foreign()]
    for made in good:
        data = bytearray(made.files[made.target])
        data[-1] ^= 1
        if wrong := attempt(Input(made.files | {made.target: bytes(data)}, made.target), folder):
            raise SealError(f"{made.target} cannot be repaired: {wrong}")
    return good


def run(options: argparse.Namespace) -> int:
    """Run inputs until there were enough, or time is over."""
    with tempfile.TemporaryDirectory() as folder:
        good = warm(Path(folder))
    good = [made for made in good if options.format in (None, made.kind)]
    until = time.monotonic() + 60 * options.minutes
    workers = [Worker(options, good, i) for i in range(options.jobs)]
    done = failed = 0
    while done < options.inputs and time.monotonic() < until:
        ready = wait([worker.reader for worker in workers], timeout=1.0)
        for worker in workers:
            number, wrong = worker.number, None
            if worker.reader in ready:
                wrong = worker.take()
            elif worker.hangs():
                wrong = f"it did not end within {HANGS:.0f} s"
                worker.stop()
                worker.number += options.jobs
                worker.start()
            done += wrong is not None
            if wrong:
                failed += 1
                path = save(options, number, make(options.seed, number, good), wrong)
                print(f"{path}: {wrong.strip().splitlines()[-1]}", flush=True)
    for worker in workers:
        worker.stop()
    print(f"{done} inputs, {failed} failures")
    return failed > 0


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=sys.maxsize, help="how many; default: no end")
    parser.add_argument("--format", choices=FORMATS, help="files of one format; default: of all")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--seconds", type=float, default=2.0, help="processor time for an input")
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--replay", type=Path, help="run one input that failed")
    options = parser.parse_args()
    return replay(options.replay) if options.replay else run(options)


if __name__ == "__main__":
    sys.exit(main())
