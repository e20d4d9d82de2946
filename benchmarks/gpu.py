"""Weights on an accelerator: what it costs to protect, check and repair them there.

    python benchmarks/gpu.py [--gigabytes 14] [--out gpu.json]
    python benchmarks/gpu.py --device cpu --gigabytes 0.01       # the same, small

Every step is on its own: what fails or takes too long is said so, and the next one goes on. Results
are written after each. Bandwidths are of the weights, read once; beside them, in the same run, what
`torch.sum` reads and what a copy to the host and SHA-256 take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import parimend as pm
from parimend.experiment import Rate

ROUNDS = 5


class Bench:
    """Timed steps on one device."""

    def __init__(self, device: str, gigabytes: float, out: Path | None) -> None:
        self.device, self.out = torch.device(device), out
        self.elements = int(gigabytes * 1e9) // 2
        self.results: dict[str, dict[str, Any]] = {}
        if self.device.type == "cuda":
            self.results["card"] = {"name": torch.cuda.get_device_name()}

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], rounds: int = ROUNDS) -> float:
        """Median, after one call that does not count."""
        work()
        times = []
        for _ in range(rounds):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        began = time.perf_counter()
        try:
            found = work()
        except Exception:
            found = {"failed": traceback.format_exc(limit=-2)}
        self.results[name] = found | {"took": round(time.perf_counter() - began, 2)}
        print(name, json.dumps(self.results[name]), flush=True)
        if self.out:
            self.out.write_text(json.dumps(self.results, indent=1))

    def model(self, pieces: int = 7) -> torch.nn.ParameterDict:
        """Weights in bfloat16, in a few large tensors."""
        torch.manual_seed(0)
        size = self.elements // pieces
        return torch.nn.ParameterDict(
            {
                f"w{i}": torch.nn.Parameter(
                    torch.randn(size, device=self.device, dtype=torch.bfloat16), False
                )
                for i in range(pieces)
            }
        )

    def agree(self) -> dict[str, Any]:
        """Whether every carrier gives the same seal and the same repair as on the CPU."""
        found: dict[str, Any] = {}
        for carrier in ("sidecar", "real", "lowbits"):
            weights = torch.randn(640, 512, generator=torch.Generator().manual_seed(0))
            here, there = {"w": weights.clone()}, {"w": weights.clone().to(self.device)}
            seals = [pm.protect_(model, 20, carrier=carrier) for model in (here, there)]
            same = seals[0].to_bytes() == seals[1].to_bytes()
            clean = pm.check(there, seals[0]).verdict is pm.Verdict.CLEAN
            flat = there["w"].view(torch.int32).view(-1)
            flat[torch.arange(20, device=self.device) * 5000] ^= 1 << 27
            seen = pm.check(there, seals[0]).verdict is pm.Verdict.CORRECTABLE
            pm.repair_(there, seals[0])
            right = torch.equal(there["w"].cpu(), here["w"])
            found[carrier] = {"seal": same, "clean": clean, "seen": seen, "repaired": right}
        return found

    def weights(self, errors: int) -> dict[str, Any]:
        """Protect, check and repair."""
        model = self.model()
        size = sum(p.numel() * 2 for p in model.values())
        base = torch.cuda.memory_allocated() if self.device.type == "cuda" else 0
        plain = self.seconds(lambda: [p.view(torch.int16).sum() for p in model.values()])
        found: dict[str, Any] = {"bytes": size, "torch.sum GB/s": round(size / plain / 1e9, 1)}
        self.wait()
        began = time.perf_counter()
        seal = pm.protect_(model, errors)
        found["protect s"] = round(time.perf_counter() - began, 3)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        check = self.seconds(lambda: pm.check(model, seal), 3)
        found["check GB/s"] = round(size / check / 1e9, 1)
        found["check of torch.sum"] = round(plain / check, 3)
        if self.device.type == "cuda":
            found["extra MiB"] = (torch.cuda.max_memory_allocated() - base) >> 20
        flat = model["w1"].view(torch.int16)
        where = torch.randperm(len(flat) // 2)[:errors].to(self.device) * 2
        good = flat[where].clone()
        times, right = [], 0
        for _ in range(3):
            flat[where] ^= 1 << 9
            self.wait()
            began = time.perf_counter()
            report = pm.repair_(model, seal)
            times.append(time.perf_counter() - began)
            right += bool(report.verdict is pm.Verdict.CORRECTED and (flat[where] == good).all())
        found["repair s"] = round(statistics.median(times), 3)
        found["repaired"] = f"{right} of 3"
        return found

    def sums(self, errors: int) -> dict[str, Any]:
        """All sums of 1 GB, and a few, without anything around them."""
        from parimend.codes import sums_for

        count = min(self.elements, 500_000_000)
        weights = torch.randn(count, device=self.device, dtype=torch.bfloat16)
        code = sums_for(-(-count // 32) * 16, errors)
        found = {}
        for name, few in (("few", True), ("all", False)):
            took = self.seconds(lambda few=few: self.resident(code, weights, few), 3)
            found[f"{name} GB/s"] = round(2 * count / took / 1e9, 1)
            found[f"{name} ms"] = round(1e3 * took, 2)
        return found

    def resident(self, code: Any, weights: torch.Tensor, few: bool) -> None:
        from parimend.kernels import power_torch

        parts = code.parts if hasattr(code, "parts") else (code,)
        for part in parts[:1] if few else parts:
            power_torch.sums_of(part.generator, part.key, part.rows, part.m, weights, 0)

    def host(self) -> dict[str, Any]:
        """A copy to the host and its SHA-256."""
        count = min(self.elements, 250_000_000)
        weights = torch.randn(count, device=self.device, dtype=torch.bfloat16)
        took = self.seconds(
            lambda: hashlib.sha256(weights.view(torch.uint8).cpu().numpy()).digest(), 1
        )
        return {"GB/s": round(2 * count / took / 1e9, 2)}

    def guards(self) -> dict[str, Any]:
        """False alarms of guarded layers in every arithmetic, and what they cost."""
        found: dict[str, Any] = {}
        width, batch, rounds = (4096, 256, 20) if self.device.type == "cuda" else (256, 32, 2)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for tf32 in (False, True) if dtype is torch.float32 else (False,):
                torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
                layer = torch.nn.Linear(width, width).to(self.device, dtype)
                x = torch.randn(batch, width, device=self.device, dtype=dtype)
                with torch.no_grad():
                    plain = self.seconds(lambda layer=layer, x=x: layer(x), 20)
                    with pm.guard_(layer) as guards:
                        guarded = self.seconds(lambda layer=layer, x=x: layer(x), 20)
                        for _ in range(rounds):
                            layer(torch.randn_like(x))
                        alarms, n = len(guards.events), batch * (rounds + 21)
                name = f"{str(dtype).removeprefix('torch.')}{' TF32' if tf32 else ''}"
                found[name] = {
                    "alarms": f"{alarms} of {n}, at most {Rate(alarms, n).upper():.1e}",
                    "overhead %": round(100 * (guarded / plain - 1), 1),
                }
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gigabytes", type=float, default=14.0)
    parser.add_argument("--errors", type=int, default=210)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = Bench(args.device, args.gigabytes, args.out)
    bench.step("agree", bench.agree)
    bench.step("sums", lambda: bench.sums(args.errors))
    bench.step("weights", lambda: bench.weights(args.errors))
    bench.step("guards", bench.guards)
    bench.step("host", bench.host)
    table = Table("step", "what", "found")
    for step, found in bench.results.items():
        for what, value in found.items():
            table.add_row(step, what, str(value))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
