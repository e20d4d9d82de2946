"""Repairing from another copy over HTTP: what is fetched, and how long it takes.

    python benchmarks/other_copy.py [--megabytes 1000] [--blocks 1000] [--size 65536]
                                    [--errors 210] [--seed 0]

Writes Markdown. Blocks of a safetensors file are overwritten, at multiples of their size in the
file or anywhere; the other copy, on a server in this process, is whole, or has as much damage of
its own elsewhere. Reports the size of the digests, the damaged bytes, what was fetched for them, in
how many requests, and the seconds; and how long protecting takes, with SHA-256 alone beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import safetensors.numpy

from parimend import protect_file, repair_file

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from serving import Served, serving


def overwrite(path: Path, places: np.ndarray, size: int, rng: np.random.Generator) -> int:
    """Put random bytes into blocks; the number of bytes that lie in them."""
    length = path.stat().st_size
    wrong = np.zeros(length, bool)
    with path.open("r+b") as file:
        for at in places.tolist():
            file.seek(at)
            count = min(size, length - at)
            file.write(rng.bytes(count))
            wrong[at : at + count] = True
    return int(wrong.sum())


def kill(path: Path, url: str, served: Served, after: int) -> None:
    """Begin a repair in another process, and kill that when so many bytes were sent."""
    code = "import sys, parimend; parimend.repair_file(sys.argv[1], sources=sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", code, path, url]) as process:
        while served.sent < after and process.poll() is None:
            time.sleep(0.01)
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1 << 16)
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    count, size = int(options.megabytes * 1e6) // 4, options.size
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder, "model.safetensors"), Path(folder, "other")
        weights = {"w": rng.standard_normal(count, dtype=np.float32)}
        safetensors.numpy.save_file(weights, path)
        good = path.read_bytes()
        protect_file(path, options.errors, force=True)  # loads the compiled loops
        began = time.perf_counter()
        [made] = protect_file(path, options.errors, force=True)
        print(f"protect {time.perf_counter() - began:.2f} s, ", end="")
        began = time.perf_counter()
        hashlib.sha256(good)
        print(f"SHA-256 {time.perf_counter() - began:.2f} s")
        [word] = made.seal.words
        print(
            f"digests {len(word.blocks)} bytes, 1 in {len(good) / len(word.blocks):,.0f}; ", end=""
        )
        print(f"seal {made.seal_bytes} bytes, 1 in {len(good) / made.seal_bytes:,.0f}\n")
        head = ["damage", "damaged bytes", "fetched", "ratio", "requests", "seconds", "result"]
        print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
        multiples = rng.permutation(len(good) // size) * size
        anywhere = rng.integers(0, len(good) - size, 2 * options.blocks)
        for name, places, is_spoilt, is_killed in (
            ("at multiples of the size", multiples, False, False),
            ("at multiples, killed once", multiples, False, True),
            ("anywhere", anywhere, False, False),
            ("at multiples; the other copy damaged elsewhere", multiples, True, False),
        ):
            path.write_bytes(good)
            wrong = overwrite(path, places[: options.blocks], size, rng)
            other.write_bytes(good)
            if is_spoilt:
                overwrite(other, places[options.blocks : 2 * options.blocks], size, rng)
            with other.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                content = memoryview(data)
                with serving({"/model": content}) as served:
                    url = f"{served.url}/model"
                    if is_killed:
                        kill(path, url, served, wrong // 2)
                    began = time.perf_counter()
                    report = repair_file(path, sources=url)
                    took = time.perf_counter() - began
                content.release()
            verdict = report.verdict.value if path.read_bytes() == good else "WRONG"
            ratio = f"{served.sent / wrong:.3f}"
            row = [name, f"{wrong:,}", f"{served.sent:,}", ratio, f"{served.requests:,}"]
            print("| " + " | ".join([*row, f"{took:.1f}", verdict]) + " |", flush=True)


if __name__ == "__main__":
    main()
